"""The connection that writes rows: what is cut off in the middle ends, whatever PostgreSQL does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from persistence import liveness
from persistence.database import Database
from persistence.message_row import encoded
from persistence.row_writer import DatabaseAway, RowWriter
from tests.persistence.rows import new_row

SECONDS = 30.0


MakeWriter = Callable[[float], Awaitable[RowWriter]]


@pytest.fixture
async def make_writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeWriter]:
    """Makes one that waits for so many seconds; its sweep for lost rows finds one, and takes a minute."""
    earlier = RowWriter(database, SECONDS, lambda: None)
    await earlier.check()
    await earlier.write([encoded(new_row(), earlier.gateway_id)])
    await earlier.close()
    statement = f"SELECT pg_sleep(60 + 0 * ($1::int4 + $2::int4)) -- {uuid4()}"
    monkeypatch.setattr("persistence.liveness._CLOSE", statement)
    writers: list[RowWriter] = []

    async def make(timeout_seconds: float) -> RowWriter:
        writers.append(RowWriter(database, timeout_seconds, lambda: None))
        await answered(writers[0])
        return writers[0]

    yield make
    for writer in writers:
        await writer.close()


async def sweeping(database: Database) -> int:
    """The process of PostgreSQL that is at it."""
    async with asyncio.timeout(SECONDS), database.engine.connect() as connection:
        while True:
            # That of an earlier test may still sleep.
            found = await connection.execute(
                text("SELECT pid FROM pg_stat_activity WHERE query = :statement AND state = 'active'"),
                {"statement": liveness._CLOSE},
            )
            if (pid := found.scalar()) is not None:
                return int(pid)
            # A transaction sees this view as it saw it first.
            await connection.rollback()
            await asyncio.sleep(0.01)


async def answered(writer: RowWriter) -> None:
    """Until PostgreSQL answers in the time that the writer gives it."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(DatabaseAway):
                return await writer.check()


async def ended(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(SECONDS):
        await asyncio.wait([task])


async def test_a_sweep_that_takes_too_long_counts_as_away(make_writer: MakeWriter) -> None:
    writer = await make_writer(2.0)
    with pytest.raises(DatabaseAway, match="no answer within"):
        await writer.close_lost()
    await answered(writer)


async def test_a_sweep_on_a_server_that_hangs_ends_in_time(
    make_writer: MakeWriter, database: Database
) -> None:
    writer = await make_writer(5.0)
    task = asyncio.create_task(writer.close_lost())
    pid = await sweeping(database)
    os.kill(pid, signal.SIGSTOP)
    try:
        await ended(task)
        with pytest.raises(DatabaseAway, match="no answer within"):
            task.result()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("cut", [False, True])
async def test_cancelled_is_cancelled_in_the_middle_of_a_sweep(
    make_writer: MakeWriter, database: Database, hangs: bool, cut: bool
) -> None:
    writer = await make_writer(SECONDS)
    task = asyncio.create_task(writer.close_lost())
    pid = await sweeping(database)
    if hangs:
        os.kill(pid, signal.SIGSTOP)
    try:
        task.cancel()
        if cut:
            async with database.engine.connect() as connection:
                await connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        await ended(task)
        assert task.cancelled()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def test_rows_of_the_dead_are_counted_when_they_are_closed(database: Database) -> None:
    for count in (1, 2):
        earlier = RowWriter(database, SECONDS, lambda: None)
        await earlier.check()
        await earlier.write([encoded(new_row(), earlier.gateway_id) for _ in range(count)])
        await earlier.close()
    counted: list[int] = []
    writer = RowWriter(database, SECONDS, lambda: None, counted.append)
    async with asyncio.timeout(SECONDS):
        # PostgreSQL may still think that they live.
        while sum(counted) < 3:
            await writer.close_lost()
    assert sorted(count for count in counted if count) == [1, 2]
    await writer.close_lost()
    assert sum(counted) == 3
    await writer.close()


async def test_who_waits_while_postgresql_is_found_away_does_not_wait_for_it_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RowWriter(database, 1.0, lambda: None)
    await answered(writer)
    row = new_row()
    tried_again = 0

    async def connection() -> asyncpg.Connection:
        nonlocal tried_again
        tried_again += 1
        raise OSError("gone")

    monkeypatch.setattr(database, "connection", connection)
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        writing = (writer.write([encoded(row, writer.gateway_id)]) for _ in range(3))
        ends = await asyncio.gather(*writing, writer.check(), return_exceptions=True)
    assert [type(end) for end in ends] == [DatabaseAway] * 4
    assert tried_again == 0
    monkeypatch.undo()
    monkeypatch.setattr(writer, "_timeout_seconds", SECONDS)
    await answered(writer)
    assert await writer.write([encoded(row, writer.gateway_id)]) == []
    await writer.close()
