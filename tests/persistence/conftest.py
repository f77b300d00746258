"""One real PostgreSQL for all of these tests: the embedded one."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from persistence.backlog import Backlog
from persistence.database import Database
from persistence.embedded import EmbeddedPostgres
from persistence.recorder import Recorder

MakeDatabase = Callable[[], Awaitable[str]]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty data directory; its path is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A running server."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        server = EmbeddedPostgres(Path(folder))
        url = server.start()
        asyncio.run(_without_fsync(url))
        yield url
        server.stop()


async def _without_fsync(url: str) -> None:
    """The machine outlives these tests; the files of the many databases that they make cost seconds."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.fixture(scope="session")
def migrated_url(server_url: str) -> str:
    """A database with this program's schema."""

    async def migrate() -> None:
        database = Database(server_url, Path())
        await database.connect()
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
    return server_url


@pytest.fixture
def fresh_database(server_url: str) -> MakeDatabase:
    """Makes an empty database and gives its URL."""

    async def make() -> str:
        name = f"fresh_{uuid4().hex}"
        connection = await asyncpg.connect(server_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return urlsplit(server_url)._replace(path=f"/{name}").geturl()

    return make


@pytest.fixture
async def own_database(fresh_database: MakeDatabase) -> AsyncIterator[Database]:
    """As ``database``, for a test that changes its tables; it has no partitions yet."""
    database = Database(await fresh_database(), Path())
    await database.connect()
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """Connected, with its schema, and no rows."""
    database = Database(migrated_url, Path())
    await database.connect()
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql(
            'TRUNCATE message, message_content, feedback, conversation, "user" CASCADE'
        )
    yield database
    await database.close()


@pytest.fixture
def backlog(tmp_path: Path) -> Backlog:
    """Empty; its recorder opens and closes it."""
    return Backlog(tmp_path / "journal", most_bytes=2**30)


@pytest.fixture
async def recorder(
    database: Database, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Recorder]:
    """Started; tries again soon after a failure."""
    monkeypatch.setattr("persistence.recorder.FIRST_RETRY_SECONDS", 0.01)
    recorder = Recorder(database, backlog)
    await recorder.start()
    yield recorder
    await recorder.stop(0)
