"""The connection to PostgreSQL: an external server, or the embedded one, and its schema."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from weakref import WeakSet

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from persistence import schema
from persistence.embedded import DataDirInUse, EmbeddedPostgres
from persistence.exact_text import json_from_column, json_to_column

POOL_SIZE = 5
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 2.0

# Any number, the same in every gateway: one migrates at a time.
MIGRATION_LOCK = 7_201_932_845


class DatabaseUnavailable(Exception):
    """PostgreSQL can't be reached, or refuses us."""


class Database:
    """One pool of at most ``pool_size`` connections.

    ``url`` is a libpq URL (``postgresql://user@host/name?sslmode=verify-full&...``), taken by asyncpg
    itself, so its TLS options and the PG* environment variables mean what they mean for libpq. Without
    one the embedded server below ``data_dir`` is started, and stopped by ``close``.
    """

    def __init__(self, url: str | None, data_dir: Path, pool_size: int = POOL_SIZE) -> None:
        self._url = url
        self._pool_size = pool_size
        self._embedded = EmbeddedPostgres(data_dir) if url is None else None
        self._engine: AsyncEngine | None = None
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()
        self._connector: Callable[[], Awaitable[asyncpg.Connection]] | None = None

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's engine; valid after ``connect``."""
        if self._engine is None:
            raise DatabaseUnavailable("The database has not been connected.")
        return self._engine

    async def connect(self, *, beside: bool = False) -> None:
        """Raises DatabaseUnavailable, and DataDirInUse for the embedded server of another process; with
        ``beside`` that one is used where it is ready, and stays."""
        url = self._url
        if self._embedded is not None:
            try:
                url = await asyncio.to_thread(self._embedded.start)
            except DataDirInUse:
                url = self._embedded.running_url
                if not beside or url is None:
                    raise
                self._embedded = None
        assert url is not None
        self._connector = _connector(url)
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._pooled_connection,
            pool_size=self._pool_size,
            max_overflow=0,
            pool_pre_ping=True,
            json_serializer=json_to_column,
            json_deserializer=json_from_column,
        )
        try:
            await self.check()
        except DatabaseUnavailable:
            await self.close()
            raise

    async def connection(self) -> asyncpg.Connection:
        """A connection of its own, outside the pool, for the one who writes all the time."""
        assert self._connector is not None, "the database has not been connected"
        return await self._connector()

    async def _pooled_connection(self) -> asyncpg.Connection:
        connection = await self.connection()
        self._connections.add(connection)
        return connection

    async def check(self, timeout_seconds: float = CONNECT_SECONDS) -> None:
        """One round trip. Raises DatabaseUnavailable with the reason."""
        try:
            async with asyncio.timeout(timeout_seconds), self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except Exception as error:
            raise DatabaseUnavailable(f"PostgreSQL: {first_line(error)}") from error

    async def migrate(self, to: str | None = None) -> None:
        """Bring the schema to this program's revision, or to the one that is named; waits for another gateway
        that is at it. Raises SchemaMismatch."""
        async with self.engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            await connection.run_sync(schema.migrate, to)

    async def given_up(self, to: str) -> list[str]:
        """What ``migrate`` would give up on the way back to the revision ``to``, in words."""
        async with self.engine.connect() as connection:
            return await connection.run_sync(schema.given_up, to)

    async def check_schema(self) -> None:
        """Migrate the embedded server; raise SchemaMismatch for an external one that needs it."""
        if self._embedded is not None:
            await self.migrate()
            return
        async with self.engine.connect() as connection:
            await connection.run_sync(schema.check)

    async def close(self) -> None:
        """Close the pool, stop the embedded server. Safe to call twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await engine.dispose()
            # A server that hangs does not say goodbye.
            for connection in list(self._connections):
                connection.terminate()
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _connector(url: str) -> Callable[[], Awaitable[asyncpg.Connection]]:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            server_settings={
                "application_name": "chatglm-gateway",
                # What the statements here are made for, whatever the server's default is.
                "default_transaction_isolation": "read committed",
            },
        )

    return connect
