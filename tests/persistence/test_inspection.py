"""What a real server says of itself, and what lies in a folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from persistence import embedded
from persistence.database import DatabaseUnavailable
from persistence.inspection import cluster_version, embedded_versions, inspect, lock_holder
from tests.persistence.conftest import MakeDatabase

SECONDS = 60.0


@asynccontextmanager
async def role_of(url: str, *grants: str) -> AsyncIterator[str]:
    """A role of its own with these rights in the database; its URL."""
    name = f"role_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE ROLE {name} LOGIN")
    for grant in grants:
        await connection.execute(f"{grant} TO {name}")
    parts = urlsplit(url)
    yield parts._replace(netloc=f"{quote(name)}@{parts.netloc.rpartition('@')[2]}").geturl()
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    await connection.close()


async def test_a_migrated_database_of_our_own(migrated_url: str) -> None:
    server = await inspect(migrated_url, SECONDS)
    assert server.revision == server.wanted is not None
    assert (server.encoding, server.read_only, server.ssl) == ("UTF8", False, False)
    assert (server.may_create, server.may_write, server.owns_tables) == (True, True, True)
    # As these tests' server is set.
    assert (server.fsync, server.full_page_writes, server.synchronous_commit) == (False, True, "on")
    assert server.version // 10_000 == int(server.version_text.partition(".")[0])
    assert 0 < server.connected < server.max_connections
    # The same machine's clock.
    assert abs(server.clock_seconds) <= server.round_trip_seconds


async def test_a_database_without_a_schema(fresh_database: MakeDatabase) -> None:
    server = await inspect(await fresh_database(), SECONDS)
    assert (server.revision, server.may_create) == (None, True)


async def test_a_role_that_may_only_read(migrated_url: str) -> None:
    async with role_of(migrated_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public") as url:
        server = await inspect(url, SECONDS)
        assert server.revision == server.wanted
        assert (server.may_write, server.owns_tables) == (False, False)


async def test_a_role_that_may_write_and_make_no_partitions(migrated_url: str) -> None:
    rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
    async with role_of(migrated_url, rights) as url:
        server = await inspect(url, SECONDS)
        assert (server.may_write, server.owns_tables) == (True, False)


async def test_nobody_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as away:
        await inspect(f"postgresql://u:secret@/d?host={tmp_path}", SECONDS)
    assert len(str(away.value).splitlines()) == 1
    assert "secret" not in str(away.value)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    with embedded.lock(tmp_path / "lock"):
        yield tmp_path


def test_who_has_a_data_directory_is_known_without_touching_its_lock(held: Path) -> None:
    assert lock_holder(held) == str(os.getpid())
    with pytest.raises(embedded.DataDirInUse):
        embedded.lock(held / "lock")


def test_nobody_has_one_that_is_not_there_or_was_left(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    embedded.lock(tmp_path / "lock").close()
    assert lock_holder(tmp_path) is None


def test_a_clusters_version_and_the_programs(tmp_path: Path) -> None:
    assert cluster_version(tmp_path) is None
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("18\n")
    assert cluster_version(tmp_path) == "18"
    assert "18" in embedded_versions()
