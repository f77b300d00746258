from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from persistence import housekeeping, partitions
from persistence.database import Database, DatabaseUnavailable
from persistence.housekeeping import Housekeeping
from tests.persistence.conftest import MakeDatabase
from tests.persistence.past import connected, id_at, partition_names, row_at, write
from tests.persistence.rows import new_row, stored

LONG_AGO = datetime.now(UTC) - timedelta(days=100)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.01)


async def no_connection_left(database: Database) -> bool:
    """Of this database, but the pool's."""
    async with database.engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return bool(found.scalar_one() == 0)


class Failing(Database):
    """Gives out no connection while it has a problem, and while it ``hangs`` one that does not answer."""

    problem: str | None = None
    hangs = False

    def __init__(self, url: str, data_dir: Path) -> None:
        super().__init__(url, data_dir)
        self.asked = 0
        self.hanging: list[int] = []

    async def connection(self) -> asyncpg.Connection:
        self.asked += 1
        if self.problem is not None:
            raise DatabaseUnavailable(self.problem)
        connection = await super().connection()
        if self.hangs:
            self.hanging.append(connection.get_server_pid())
            os.kill(self.hanging[-1], signal.SIGSTOP)
        return connection

    async def close(self) -> None:
        for pid in self.hanging:
            os.kill(pid, signal.SIGCONT)
        await super().close()


@pytest.fixture
async def failing(fresh_database: MakeDatabase) -> AsyncIterator[Failing]:
    database = Failing(await fresh_database(), Path())
    await database.connect()
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs are due all the time."""
    for name in ("HOUR", "LOST_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(housekeeping, name, 0.01)


async def test_at_the_start_all_of_it_is_done(own_database: Database) -> None:
    lost = new_row(id=id_at(LONG_AGO), create_time=LONG_AGO)
    old = row_at(LONG_AGO - timedelta(days=65))
    await write(own_database, [lost, old])
    closed_as_lost: list[int] = []
    keeping = Housekeeping(own_database, 30, 110, closed_as_lost.append)
    keeping.start()

    async def done() -> bool:
        return old.id not in await stored(own_database)

    await until(done)
    await keeping.stop()
    assert (await stored(own_database))[lost.id]["status"] == "lost"
    assert closed_as_lost == [1]
    now = datetime.now(UTC)
    ahead = {
        partitioned.name(start)
        for partitioned in (partitions.MESSAGE, partitions.CONTENT)
        for start in partitioned.ahead(now)
    }
    assert await partition_names(own_database) == ahead | {partitions.MESSAGE.name(LONG_AGO)}
    await until(lambda: no_connection_left(own_database))


async def test_rows_of_a_gateway_that_dies_are_closed_soon(own_database: Database, hasty: None) -> None:
    keeping = Housekeeping(own_database, None, None)
    keeping.start()
    row = new_row()
    await write(own_database, [row])

    async def is_lost() -> bool:
        return bool((await stored(own_database))[row.id]["status"] == "lost")

    await until(is_lost)
    await keeping.stop()


async def test_a_failure_is_logged_when_it_begins_changes_and_ends(
    failing: Failing, hasty: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.housekeeping")
    keeping = Housekeeping(failing, None, None)

    async def tried_often() -> bool:
        return failing.asked > 30

    def logged() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return sorted(messages)

    names = [
        "closing lost rows",
        "ending sessions",
        "forgetting past limits",
        "making partitions",
        "retention",
    ]
    failing.problem = "PostgreSQL: gone"
    keeping.start()
    await until(tried_often)
    assert logged() == [f"{name} failed and is tried again: PostgreSQL: gone" for name in names]
    failing.problem, failing.asked = "PostgreSQL: full", 0
    await until(tried_often)
    assert logged() == [f"{name} failed and is tried again: PostgreSQL: full" for name in names]
    failing.problem, failing.asked = None, 0
    await until(tried_often)
    assert [message for message in logged() if "works" in message] == [
        f"{name} works again" for name in names
    ]
    await keeping.stop()


async def test_one_that_fails_is_not_in_the_way_of_the_others(
    own_database: Database, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    async def fail(connection: asyncpg.Connection) -> list[str]:
        nonlocal tried
        tried += 1
        raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    monkeypatch.setattr(partitions, "make_ahead", fail)
    row, old = new_row(), row_at(LONG_AGO - timedelta(days=65))
    await write(own_database, [row, old])
    keeping = Housekeeping(own_database, None, 110)
    keeping.start()

    async def others_done() -> bool:
        rows = await stored(own_database)
        return rows[row.id]["status"] == "lost" and old.id not in rows and tried > 3

    await until(others_done)
    await keeping.stop()


async def test_a_run_that_hangs_is_cut_off_and_tried_again(
    failing: Failing, hasty: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Long enough for the run that makes them, on a machine that is slow.
    monkeypatch.setattr(housekeeping, "RUN_SECONDS", 1.0)
    failing.hangs = True
    keeping = Housekeeping(failing, None, None)
    keeping.start()

    async def was_cut_off() -> bool:
        return "making partitions failed and is tried again: no end within 1 s" in caplog.messages

    await until(was_cut_off)
    failing.hangs = False

    async def is_made() -> bool:
        return len(await partition_names(failing)) == 3 + 8

    await until(is_made)
    await keeping.stop()


async def test_a_stop_waits_neither_for_a_lock_nor_for_a_server_that_hangs(failing: Failing) -> None:
    async with connected(failing) as other, other.transaction():
        await other.execute("LOCK TABLE message")
        waiting = Housekeeping(failing, None, None)
        waiting.start()

        async def waits() -> bool:
            return bool(await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

        await until(waits)
        async with asyncio.timeout(30):
            await waiting.stop()
            await waiting.stop()
    failing.hangs = True
    hanging = Housekeeping(failing, None, None)
    hanging.start()

    async def hangs() -> bool:
        return bool(failing.hanging)

    await until(hangs)
    async with asyncio.timeout(30):
        await hanging.stop()


async def test_the_task_ends_when_it_is_cancelled(own_database: Database) -> None:
    keeping = Housekeeping(own_database, None, None)
    keeping.start()

    async def works() -> bool:
        return bool(await partition_names(own_database))

    await until(works)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "housekeeping"]
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await keeping.stop()
    await until(lambda: no_connection_left(own_database))


async def test_a_housekeeping_that_never_started_stops(own_database: Database) -> None:
    await Housekeeping(own_database, None, None).stop()
