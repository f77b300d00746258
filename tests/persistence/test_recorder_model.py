"""Any interleaving of begin, close, outage, crash and replay: each id once, each closed row intact."""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from persistence import liveness
from persistence.backlog import Backlog
from persistence.message_row import MessageRow
from persistence.recorder import Durability, Recorder
from tests.persistence.rows import closed, expected, new_row, stored
from tests.persistence.test_recorder import Unsteady
from tests.strategies import texts

SECONDS = 30.0


class Lives(RuleBasedStateMachine):
    """The lives of one gateway, with a PostgreSQL that comes and goes.

    ``begun`` are the rows of this life, ``open`` those of them that were not closed; ``promised`` were said
    to be durable, ``closed`` perhaps are.
    """

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-"))
        self.runner = asyncio.Runner()
        self.open: list[MessageRow] = []
        self.closed: dict[UUID, MessageRow] = {}
        self.promised: set[UUID] = set()
        self.begun: set[UUID] = set()
        self.all: set[UUID] = set()
        # Whether a row was closed since all were known to be in PostgreSQL.
        self.behind = False

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    @initialize(durability=st.sampled_from(["commit", "strict", "async"]))
    def first_life(self, durability: Durability) -> None:
        self.durability = durability
        self.database = Unsteady(self.url, Path())
        self.run(self.database.connect())
        self.begin_life()

    def begin_life(self) -> None:
        self.recorder = Recorder(
            self.database, Backlog(self.folder / "journal", 2**30), self.durability, timeout_seconds=5.0
        )
        self.run(self.recorder.start())

    @rule(queries=st.lists(texts, min_size=1, max_size=3), written=st.booleans())
    def begin(self, queries: list[str], written: bool) -> None:
        """Some requests, that go on until they have been seen running or not."""
        rows = [new_row(query) for query in queries]

        async def begin() -> None:
            for row in rows:
                self.recorder.begin(row)
            while written and self.recorder.depth:
                await asyncio.sleep(0.001)

        self.run(begin())
        self.open += rows
        self.begun |= {row.id for row in rows}
        self.all |= {row.id for row in rows}

    @precondition(lambda self: self.open)
    @rule(data=st.data(), waits=st.booleans())
    def close(self, data: st.DataObject, waits: bool) -> None:
        """Several at once; where nobody waits, nothing is promised."""
        chosen = data.draw(st.integers(1, len(self.open)))
        rows, self.open = self.open[:chosen], self.open[chosen:]
        for row in rows:
            self.closed[row.id] = copy.copy(closed(row, data.draw(texts)))
        self.behind = True

        async def close() -> list[bool]:
            return await asyncio.gather(*(self.recorder.close(row, SECONDS if waits else 0) for row in rows))

        durable = self.run(close())
        if waits:
            assert all(durable)
            if self.durability != "async":
                self.promised |= {row.id for row in rows}

    @precondition(lambda self: not self.database.is_away)
    @rule()
    def postgresql_goes(self) -> None:
        self.run(self.database.leave())

    @precondition(lambda self: self.database.is_away)
    @rule()
    def postgresql_comes_back(self) -> None:
        self.database.come_back()

    @rule(data=st.data(), queries=st.lists(texts, min_size=1, max_size=3))
    def an_outage(self, data: st.DataObject, queries: list[str]) -> None:
        """What the single steps rarely come to by themselves."""
        self.run(self.database.leave())
        self.begin(queries, written=data.draw(st.booleans()))
        self.close(data, waits=data.draw(st.booleans()))
        self.database.come_back()
        if data.draw(st.booleans()):
            self.catch_up()

    @precondition(lambda self: not self.database.is_away and self.behind)
    @rule()
    def catch_up(self) -> None:
        async def catch_up() -> None:
            async with asyncio.timeout(SECONDS):
                while not await self.recorder.caught_up(SECONDS):
                    await asyncio.sleep(0.005)

        self.run(catch_up())
        closed = {id_: row for id_, row in self.closed.items() if id_ in self.begun}
        found = self.run(stored(self.database, closed))
        assert found == {id_: expected(row) for id_, row in closed.items()}
        self.promised |= closed.keys()
        self.behind = False

    @rule(killed=st.booleans())
    def next_life(self, killed: bool) -> None:
        """A life ends in order or by a kill; the next one can only begin with PostgreSQL there."""
        self.run(self.kill() if killed else self.recorder.stop(SECONDS))
        if not killed:
            assert self.recorder.rows_lost == 0
            self.promised |= self.closed.keys() & self.begun
        self.open, self.begun = [], set()
        self.database.come_back()
        self.begin_life()

    async def kill(self) -> None:
        """What is in memory is gone; the system closes the connection, and the journal's files."""
        recorder = self.recorder
        for task in recorder._tasks:
            task.cancel()
        await asyncio.gather(*recorder._tasks, return_exceptions=True)
        recorder._writer._give_up()
        recorder.backlog._journal.close()

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.come_back()
            self.run(self.recorder.stop(SECONDS))
            self.promised |= self.closed.keys() & self.begun
            self.begin_life()
            self.run(self.check())
            self.run(self.recorder.stop(SECONDS))
            self.run(self.database.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    async def check(self) -> None:
        async with asyncio.timeout(SECONDS):
            while not await self.recorder.caught_up(SECONDS):
                await asyncio.sleep(0.005)
        assert (self.recorder.rows_lost, self.recorder.backlog.rows, self.recorder.backlog.damaged) == (
            0,
            0,
            0,
        )
        await self.close_lost()
        found = await stored(self.database, self.all)
        assert self.promised <= found.keys()
        for id_, row in found.items():
            if id_ in self.closed and row["status"] != "lost":
                assert row == expected(self.closed[id_])
            else:
                assert (row["status"], row["finish_reason"]) == ("lost", "lost")
                assert id_ not in self.promised

    async def close_lost(self) -> None:
        """Close what dead lives left running, as soon as they are dead for PostgreSQL too.

        A sweep passes over a life whose connection PostgreSQL has not seen the end of, and over one that
        another sweep is at: the next one, 15 s later, finds it. Here their locks are waited for instead.
        """
        connection = await asyncpg.connect(self.url)
        owners = await connection.fetch("SELECT DISTINCT gateway_id FROM message WHERE status = 'running'")
        async with asyncio.timeout(SECONDS):
            for row in owners:
                await liveness.hold(connection, row["gateway_id"])
        await liveness.close_lost(connection)
        await connection.close()


@pytest.mark.usefixtures("database")
def test_any_history_leaves_each_row_once_and_what_was_promised_intact(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.row_queue.BEGIN_LINGER_SECONDS", 0.005)
    monkeypatch.setattr("persistence.recorder.FIRST_RETRY_SECONDS", 0.005)
    monkeypatch.setattr("persistence.recorder.LAST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr("persistence.recorder.ASYNC_SECONDS", 0.02)
    monkeypatch.setattr(Lives, "url", migrated_url)
    run_state_machine_as_test(
        Lives, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
