"""The connection that writes rows: what is cut off in the middle ends, whatever PostgreSQL does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from persistence import liveness
from persistence.database import Database
from persistence.message_row import encoded
from persistence.row_writer import DatabaseAway, RowWriter
from tests.persistence.rows import new_row

SECONDS = 30.0


@pytest.fixture
async def writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RowWriter]:
    """Waits for 0.5 s; its sweep for lost rows finds one, and takes a minute over it."""
    earlier = RowWriter(database, SECONDS, lambda: None)
    await earlier.check()
    await earlier.write([encoded(new_row(), earlier.gateway_id)])
    await earlier.close()
    statement = f"SELECT pg_sleep(60 + 0 * ($1::int4 + $2::int4)) -- {uuid4()}"
    monkeypatch.setattr("persistence.liveness._CLOSE", statement)
    writer = RowWriter(database, 0.5, lambda: None)
    await writer.check()
    yield writer
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
            await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(SECONDS):
        await asyncio.wait([task])


async def test_a_sweep_that_takes_too_long_counts_as_away(writer: RowWriter, database: Database) -> None:
    with pytest.raises(DatabaseAway, match="no answer within"):
        await writer.close_lost()
    await writer.check()


async def test_a_sweep_on_a_server_that_hangs_ends_in_time(writer: RowWriter, database: Database) -> None:
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
    writer: RowWriter, database: Database, hangs: bool, cut: bool
) -> None:
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
