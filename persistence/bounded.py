"""Questions to PostgreSQL that a client waits for: answered in time, or it is away.

A server that hangs is left behind: its connection is given up, and nothing is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from persistence.database import Database, DatabaseUnavailable, first_line

T = TypeVar("T")


async def answered(timeout_seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives. Raises DatabaseUnavailable for whatever goes wrong with it, and after
    ``timeout_seconds``."""
    try:
        return await _within(timeout_seconds, work)
    except TimeoutError as error:
        raise DatabaseUnavailable(f"PostgreSQL: no answer within {timeout_seconds:g} s") from error
    except Exception as error:
        raise DatabaseUnavailable(f"PostgreSQL: {first_line(error)}") from error


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives. Raises TimeoutError after ``seconds``.

    It is cancelled then, and its end not waited for: SQLAlchemy's pool first tries for two seconds to close
    a connection well.
    """
    task = asyncio.create_task(work)
    _ending.add(task)
    task.add_done_callback(_ended)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError
    return task.result()


# Python keeps no hold of a task that nobody waits for.
_ending: set[asyncio.Task[Any]] = set()


def _ended(task: asyncio.Task[Any]) -> None:
    _ending.discard(task)
    if not task.cancelled():
        # Whoever has not waited for it was told that it took too long.
        task.exception()


@asynccontextmanager
async def snapshot(database: Database, timeout_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the pool in a transaction that only reads, and sees one state of the database. Its
    statements are planned for their values, each time."""
    async with _connection(database) as connection:
        # One round trip for all.
        await connection.execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
            f"SET LOCAL statement_timeout = {_milliseconds(timeout_seconds)};"
            "SET LOCAL plan_cache_mode = force_custom_plan"
        )
        yield connection
        await connection.execute("COMMIT")


@asynccontextmanager
async def statements(database: Database, timeout_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the pool for statements that are a transaction each: no lock is held while the server
    waits for this side."""
    async with _connection(database) as connection:
        await connection.execute(f"SET statement_timeout = {_milliseconds(timeout_seconds)}")
        yield connection
        await connection.execute("RESET statement_timeout")


@asynccontextmanager
async def transaction(database: Database, timeout_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the pool in a transaction. Its statements are planned for their values, each time. The
    server ends it where this side stalls: others may wait for its locks."""
    milliseconds = _milliseconds(timeout_seconds)
    async with _connection(database) as connection:
        await connection.execute(
            f"BEGIN; SET LOCAL statement_timeout = {milliseconds};"
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds};"
            "SET LOCAL plan_cache_mode = force_custom_plan"
        )
        yield connection
        await connection.execute("COMMIT")


@asynccontextmanager
async def _connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with database.engine.connect() as pooled:
        connection = (await pooled.get_raw_connection()).driver_connection
        assert isinstance(connection, asyncpg.Connection)
        try:
            yield connection
        except BaseException:
            # In an unknown state, or gone: nothing is waited for.
            connection.terminate()
            await pooled.invalidate()
            raise


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
