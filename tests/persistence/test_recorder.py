from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence.database import Database, DatabaseUnavailable
from persistence.embedded import EmbeddedPostgres
from persistence.message_row import MessageRow
from persistence.recorder import MOST_ROWS, Recorder
from tests.persistence.rows import closed, expected, new_row, stored

SECONDS = 30.0


class Failing(Database):
    """Gives out no connection so many times before it does."""

    failures = 0

    async def connection(self) -> asyncpg.Connection:
        if self.failures > 0:
            self.failures -= 1
            raise DatabaseUnavailable("gone")
        return await super().connection()


async def transactions(database: Database) -> int:
    """How many transactions wrote the rows."""
    async with database.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT count(DISTINCT xmin::text) FROM message")
        return int(found.scalar_one())


async def test_a_closed_row_is_there_when_close_returns(database: Database, recorder: Recorder) -> None:
    row = new_row()
    recorder.begin(row)
    assert await recorder.close(closed(row), SECONDS)
    assert await stored(database) == {row.id: expected(row)}
    assert recorder.depth == recorder.rows_lost == 0


async def test_a_short_request_costs_one_write(recorder: Recorder) -> None:
    row = new_row()
    recorder.begin(row)
    await recorder.close(closed(row), SECONDS)
    assert recorder.rows_written == 1


async def test_requests_that_close_together_are_committed_together(
    database: Database, recorder: Recorder
) -> None:
    rows = [new_row(f"question {number}") for number in range(700)]
    for row in rows:
        recorder.begin(row)
    assert all(await asyncio.gather(*(recorder.close(closed(row), SECONDS) for row in rows)))
    assert recorder.rows_written == 700
    assert await transactions(database) <= 4
    assert await stored(database) == {row.id: expected(row) for row in rows}


async def test_a_request_that_goes_on_is_seen_running(
    database: Database, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.recorder.BEGIN_LINGER_SECONDS", 0.0)
    long, short = new_row("long"), new_row("short")
    recorder.begin(long)
    await recorder.close(closed(short), SECONDS)
    assert (await stored(database))[long.id]["status"] == "running"
    await recorder.close(closed(long), SECONDS)
    assert (await stored(database))[long.id] == expected(long)


async def test_a_begun_row_is_written_without_any_close(database: Database, recorder: Recorder) -> None:
    row = new_row()
    recorder.begin(row)
    await recorder.stop(SECONDS)
    assert await stored(database) == {row.id: expected(row)}
    assert row.status == "running"


async def test_a_stop_writes_what_is_left(database: Database, recorder: Recorder) -> None:
    rows = [new_row() for _ in range(20)]
    for row in rows:
        recorder.begin(row)
    closing = [asyncio.create_task(recorder.close(closed(row), SECONDS)) for row in rows[:10]]
    await asyncio.sleep(0)
    await recorder.stop(SECONDS)
    assert all(await asyncio.gather(*closing))
    assert await stored(database) == {row.id: expected(row) for row in rows}
    await recorder.stop(SECONDS)


@pytest.mark.parametrize(
    "refused",
    [
        {"prompt_tokens": 2**31},
        {"meta_data": {"value": float("nan")}},
        {"response": "\ud800"},
        {"query": None},
        # More than an entry of an index can be, also compressed.
        {"conversation_id": "".join(map(chr, Random(0).choices(range(0x4E00, 0x9FA5), k=5000)))},
    ],
    ids=lambda refused: next(iter(refused)),
)
async def test_a_row_that_postgresql_refuses_takes_no_other_with_it(
    database: Database, recorder: Recorder, refused: dict[str, Any]
) -> None:
    good = [closed(new_row()) for _ in range(5)]
    bad = closed(new_row())
    for name, value in refused.items():
        setattr(bad, name, value)
    kept = await asyncio.gather(*(recorder.close(row, 5) for row in [*good[:2], bad, *good[2:]]))
    assert await stored(database) == {row.id: expected(row) for row in good}
    assert (recorder.rows_lost, recorder.depth) == (1, 0)
    assert kept == [True, True, False, True, True, True]
    after = closed(new_row())
    assert await recorder.close(after, SECONDS)


async def test_a_failing_database_loses_nothing(
    migrated_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.recorder.FIRST_RETRY_SECONDS", 0.001)
    failing = Failing(migrated_url, Path())
    await failing.connect()
    recorder = Recorder(failing)
    recorder.start()
    failing.failures = 4
    rows = [closed(new_row()) for _ in range(10)]
    assert all(await asyncio.gather(*(recorder.close(row, SECONDS) for row in rows)))
    assert failing.failures == 0
    assert await stored(database) == {row.id: expected(row) for row in rows}
    assert recorder.rows_lost == 0
    await recorder.stop(SECONDS)
    await failing.close()


async def test_a_close_that_was_not_waited_for_is_written_all_the_same(
    migrated_url: str, database: Database
) -> None:
    failing = Failing(migrated_url, Path())
    await failing.connect()
    recorder = Recorder(failing)
    recorder.start()
    failing.failures = 1
    row = closed(new_row())
    assert not await recorder.close(row, 0.01)
    assert recorder.depth == 1
    await recorder.stop(SECONDS)
    assert await stored(database) == {row.id: expected(row)}
    await failing.close()


async def test_cut_connections_lose_nothing(server_url: str, database: Database, recorder: Recorder) -> None:
    killer = await asyncpg.connect(server_url)
    rows: list[MessageRow] = []
    for _ in range(10):
        some = [closed(new_row()) for _ in range(20)]
        rows += some
        closing = asyncio.gather(*(recorder.close(row, SECONDS) for row in some))
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'chatglm-gateway'"
        )
        assert all(await closing)
    await killer.close()
    assert await stored(database) == {row.id: expected(row) for row in rows}
    assert recorder.rows_lost == 0


async def test_rows_wait_while_the_server_is_away(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    database = Database(server.start(), data_dir)
    await database.connect()
    await database.migrate()
    recorder = Recorder(database)
    recorder.start()
    rows = [new_row("before"), new_row("while away"), new_row("running")]
    assert await recorder.close(closed(rows[0]), SECONDS)
    server.stop()
    recorder.begin(rows[2])
    assert not await recorder.close(closed(rows[1]), 0.1)
    server.start()
    await recorder.stop(SECONDS)
    assert await stored(database) == {row.id: expected(row) for row in rows}
    await database.close()
    server.stop()


async def test_a_stop_without_a_server_says_what_is_lost(migrated_url: str, database: Database) -> None:
    failing = Failing(migrated_url, Path())
    recorder = Recorder(failing)
    recorder.start()
    failing.failures = 1_000_000
    recorder.begin(new_row())
    assert not await recorder.close(closed(new_row()), 0)
    await recorder.stop(0)
    assert recorder.rows_lost == 2


async def test_so_many_waiting_rows_are_enough(migrated_url: str) -> None:
    recorder = Recorder(Failing(migrated_url, Path()))
    for _ in range(MOST_ROWS - 1):
        recorder.begin(new_row())
    assert not recorder.full
    recorder.begin(new_row())
    assert recorder.full


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """``begin`` and ``close`` of some rows in any order, each begun before it is closed, if at all
    closed; ``pause`` lets the recorder work."""
    count = draw(st.integers(1, 6))
    steps = [
        (number, step)
        for number in range(count)
        for step in draw(
            st.sampled_from([("begin",), ("close",), ("begin", "close"), ("begin", "close", "close")])
        )
    ]
    order = draw(st.permutations([number for number, _ in steps]))
    queues = {number: [step for owner, step in steps if owner == number] for number in range(count)}
    history = []
    for number in order:
        history += [("pause", 0)] * draw(st.integers(0, 2)) + [(queues[number].pop(0), number)]
    return history


@settings(max_examples=40)
@given(histories(), st.sampled_from([0.0, 0.001]), st.integers(0, 2))
def test_any_history_leaves_each_row_once_in_its_last_state(
    migrated_url: str, history: list[tuple[str, int]], linger: float, failures: int
) -> None:
    async def live() -> None:
        database = Failing(migrated_url, Path())
        await database.connect()
        recorder = Recorder(database)
        recorder.start()
        rows: dict[int, MessageRow] = {}
        closing: list[Awaitable[bool]] = []
        database.failures = failures
        for position, (step, number) in enumerate(history):
            row = rows.setdefault(number, new_row(f"question {number}"))
            if step == "begin":
                recorder.begin(row)
            elif step == "close":
                # What was handed over first stays as it was.
                rows[number] = row = closed(copy.copy(row), f"answer {position}")
                closing.append(asyncio.create_task(recorder.close(row, SECONDS)))
                await asyncio.sleep(0)
            else:
                await database.check()
        assert all(await asyncio.gather(*closing))
        await recorder.stop(SECONDS)
        touched = {number for step, number in history if step != "pause"}
        found = await stored(database, [row.id for row in rows.values()])
        assert found == {rows[number].id: expected(rows[number]) for number in touched}
        assert (recorder.depth, recorder.rows_lost) == (0, 0)
        await database.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("persistence.recorder.BEGIN_LINGER_SECONDS", linger)
        patch.setattr("persistence.recorder.FIRST_RETRY_SECONDS", 0.001)
        asyncio.run(live())
