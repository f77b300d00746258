"""The one connection that writes rows, and what it makes of PostgreSQL's answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from persistence import liveness, partitions
from persistence.database import CONNECT_SECONDS, Database, first_line
from persistence.message_row import SESSION, WRITE, Record, arrays, reduced

log = logging.getLogger("gateway.rows")

T = TypeVar("T")

# What PostgreSQL, or the driver for it, says of a value; anything else is a failure of PostgreSQL.
_REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    # As a value too long for an index.
    asyncpg.ProgramLimitExceededError,
)
_CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.AdminShutdownError,
    # A statement that crosses PostgreSQL's goodbye.
    asyncpg.InternalClientError,
)

# A conversation may be deleted between the look for it and the reference to it, a partition dropped between
# its making and its use.
TRIES = 3

# A gateway whose machine vanished is known to be dead after a minute, not after the system's two hours.
_SETTINGS = f"""
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
SET statement_timeout = %d; {SESSION}
"""


class DatabaseAway(Exception):
    """PostgreSQL can't be reached, takes too long, or can't write; the message is one line."""


class ConnectionLost(DatabaseAway):
    """The connection has broken, which may be all that is wrong."""


class RowWriter:
    """Writes records, and holds the lock that says that this gateway lives.

    A statement that takes longer than ``timeout_seconds`` counts as PostgreSQL being away, and the
    connection is given up: what became of the statement is not known, and does not matter, for records may
    be written again. ``lost`` is called, from the event loop, when PostgreSQL ends the connection;
    ``closed_as_lost`` as ``liveness.close_lost`` says.
    """

    def __init__(
        self,
        database: Database,
        timeout_seconds: float,
        lost: Callable[[], None],
        closed_as_lost: Callable[[int], None] | None = None,
    ) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._lost = lost
        self._closed_as_lost = closed_as_lost
        self._connection: asyncpg.Connection | None = None
        self._one_at_a_time = asyncio.Lock()
        self._gateway_id: int | None = None
        # How often PostgreSQL was found to be away.
        self._found_away = 0
        self.rows_written = 0
        self.rows_reduced = 0

    @property
    def gateway_id(self) -> int:
        """Of this life of the gateway; valid after the first ``check``."""
        assert self._gateway_id is not None
        return self._gateway_id

    async def check(self) -> None:
        """Connect if need be, and hear from PostgreSQL. Raises DatabaseAway."""
        await self._connected_to(self._ask)

    async def write(self, records: Sequence[Record]) -> list[Record]:
        """Write records of different ids; they are committed when this returns. Gives those that PostgreSQL
        refuses even ``reduced``. Raises DatabaseAway: any of them may or may not have been written then."""
        return await self._connected_to(lambda connection: self._write(connection, records))

    async def close_lost(self) -> None:
        """Close what dead gateways left running. Raises DatabaseAway."""
        await self._connected_to(self._close_lost)

    async def _connected_to(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """What ``work`` gives. A connection that breaks may have been broken for long, while nobody looked:
        that says nothing about PostgreSQL, so it is tried once more on a new one. Whoever waits while
        PostgreSQL is found to be away need not find out for himself."""
        found_away = self._found_away
        async with self._one_at_a_time:
            if self._found_away != found_away:
                raise DatabaseAway("it was away just now")
            try:
                return await self._tried_twice(work)
            except DatabaseAway:
                self._found_away += 1
                raise

    async def _tried_twice(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        connection, is_new = await self._connected()
        try:
            return await work(connection)
        except ConnectionLost:
            if is_new:
                raise
        connection, _ = await self._connected()
        return await work(connection)

    async def close(self) -> None:
        """Let the connection and its lock go."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._ended)
            try:
                await connection.close(timeout=self._timeout_seconds)
            except Exception as error:
                log.debug("the connection did not close in order: %s", first_line(error))
                connection.terminate()

    async def _connected(self) -> tuple[asyncpg.Connection, bool]:
        """The connection, and whether it is new."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection, False
        async with self._answering(CONNECT_SECONDS):
            self._connection = connection = await self._database.connection()
            await connection.execute(_SETTINGS % int(self._timeout_seconds * 2000))
            if self._gateway_id is None:
                self._gateway_id = await liveness.new_life(connection)
            await liveness.hold(connection, self._gateway_id)
            connection.add_termination_listener(self._ended)
        return connection, True

    async def _ask(self, connection: asyncpg.Connection) -> None:
        async with self._answering(self._timeout_seconds):
            await connection.execute("SELECT 1")

    async def _close_lost(self, connection: asyncpg.Connection) -> None:
        async with self._answering(self._timeout_seconds):
            if closed := await liveness.close_lost(connection, self._gateway_id, self._closed_as_lost):
                log.info("%d rows of gateways that are gone are lost", closed)

    async def _write(self, connection: asyncpg.Connection, records: Sequence[Record]) -> list[Record]:
        if not records:
            return []
        try:
            await self._execute(connection, records)
        except _REFUSED as error:
            if len(records) > 1:
                # Find the one, so that the others are kept.
                half = len(records) // 2
                refused = await self._write(connection, records[:half])
                return refused + await self._write(connection, records[half:])
            return await self._write_reduced(connection, records[0], error)
        self.rows_written += len(records)
        return []

    async def _write_reduced(
        self, connection: asyncpg.Connection, record: Record, error: Exception
    ) -> list[Record]:
        log.error("row %s is kept without what PostgreSQL refuses: %s", record.id.hex, first_line(error))
        try:
            await self._execute(connection, [reduced(record, first_line(error))])
        except _REFUSED as again:
            log.error("row %s is refused: %s", record.id.hex, first_line(again))
            return [record]
        self.rows_reduced += 1
        return []

    async def _execute(self, connection: asyncpg.Connection, records: Sequence[Record]) -> None:
        async with self._answering(self._timeout_seconds):
            for tries_left in reversed(range(TRIES)):
                try:
                    await connection.execute(WRITE, *arrays(records))
                    return
                except asyncpg.CheckViolationError as error:
                    # There is no other check than that of the partitions' bounds.
                    if not tries_left:
                        raise DatabaseAway(first_line(error)) from error
                    await partitions.make_for(connection, [record.id for record in records])
                except asyncpg.ForeignKeyViolationError:
                    if not tries_left:
                        raise

    @contextlib.asynccontextmanager
    async def _answering(self, seconds: float) -> AsyncIterator[None]:
        """What fails here, or takes longer, means that PostgreSQL is away."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except (*_REFUSED, DatabaseAway):
            raise
        except TimeoutError as error:
            self._give_up()
            raise DatabaseAway(f"no answer within {seconds:g} s") from error
        except _CONNECTION_LOST as error:
            self._give_up()
            raise ConnectionLost(first_line(error)) from error
        except Exception as error:
            self._give_up()
            raise DatabaseAway(first_line(error)) from error
        except BaseException:
            # Cancelled in the middle of a statement.
            self._give_up()
            raise

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._ended)
            connection.terminate()

    def _ended(self, connection: asyncpg.Connection | PoolConnectionProxy[Any]) -> None:
        if connection is self._connection:
            self._lost()
