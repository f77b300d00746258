"""Retention: what is older than it may be goes, a partition at a time, and its sums stay.

A month of rows is summed into ``usage_by_day`` and dropped in one transaction. A row that comes after that,
from a journal that was away for so long, makes its partition anew; its sum is added when that is dropped in
its turn. (If the row had been swept as ``lost`` before its month went, the request then counts once as lost
and once as what it was. Its tokens count once.)

A drop needs its table to itself for a moment. Who waits for that makes all others wait behind him, so each
attempt waits for LOCK_WAIT only, and after LOCK_TRIES of them the partition stays until the next run.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from persistence.partitions import CONTENT, FEEDBACK, LOCK_TIMEOUT, MESSAGE, Partitioned, least_id, moment_of
from persistence.usage import COUNTS, KEY, bounds_of, sums_of

log = logging.getLogger("gateway.retention")

# Any number, the same in every gateway: one drops at a time.
RETENTION_LOCK = 7_201_932_846
# Three tables are locked one after the other; a write is away after two seconds.
LOCK_WAIT = "100ms"
LOCK_TRIES = 10
LOCK_PAUSE_SECONDS = 0.5

_PARTITIONS = """
SELECT oid, oid::regclass::text AS name, coalesce(pg_get_expr(relpartbound, oid), '') AS bounds FROM pg_class
WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1::text::regclass)
"""
_BOUNDS = re.compile(r"FOR VALUES FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """``name`` is quoted where it has to be; it holds the ids from ``least`` to below ``next``."""

    oid: int
    name: str
    least: UUID
    next: UUID


async def drop_expired(
    connection: asyncpg.Connection, now: datetime, content_days: int | None, rows_days: int | None
) -> list[str]:
    """Drop the days of content and feedback that ended ``content_days`` before ``now``, and the months of
    rows that ended ``rows_days`` before, with theirs; None keeps all. Gives the names of what was dropped.

    It does nothing while another gateway is at it, and leaves a month in which a row is still running.
    Raises asyncpg.LockNotAvailableError when others use a table for so long that it can't be had: what was
    dropped before stays so, the rest waits for the next call.
    """
    bounds = [] if content_days is None else [now - timedelta(days=content_days)]
    months: list[Partition] = []
    if rows_days is not None:
        rows_bound = now - timedelta(days=rows_days)
        # The content of a month that goes, goes before it.
        bounds.append(MESSAGE.start(rows_bound))
        months = await _expired(connection, MESSAGE, rows_bound)
    dropped = []
    for partitioned, drop in ((CONTENT, _drop_content), (FEEDBACK, _drop_feedback)) if bounds else ():
        for day in await _expired(connection, partitioned, max(bounds)):
            if await drop(connection, day):
                dropped.append(day.name)
    for month in months:
        if await _drop_rows(connection, month):
            dropped.append(month.name)
    return dropped


async def _expired(
    connection: asyncpg.Connection, partitioned: Partitioned, bound: datetime
) -> list[Partition]:
    """The partitions that lie wholly before ``bound``, oldest first."""
    rows = await connection.fetch(_PARTITIONS, partitioned.table)
    # One that an operator made for the rest has no such bounds, one that is just being dropped has none.
    found = [(row, match) for row in rows if (match := _BOUNDS.fullmatch(row["bounds"]))]
    partitions = [Partition(row["oid"], row["name"], *map(UUID, match.groups())) for row, match in found]
    expired = [partition for partition in partitions if partition.next <= least_id(bound)]
    return sorted(expired, key=lambda partition: partition.least)


async def _drop_content(connection: asyncpg.Connection, partition: Partition) -> bool:
    async with connection.transaction():
        if not await _close_to_writers(connection, partition):
            return False
        await _drop(connection, partition)
        return True


async def _drop_feedback(connection: asyncpg.Connection, partition: Partition) -> bool:
    async with connection.transaction():
        if not await _close_to_writers(connection, partition):
            return False
        # What the messages' own rows have of it is text, too; the scores stay.
        await connection.execute(f"""
            UPDATE message SET feedback_reason = '' FROM {partition.name} AS given
            WHERE message.id = given.message_id AND feedback_reason <> ''
        """)
        await _drop(connection, partition)
        return True


async def _drop_rows(connection: asyncpg.Connection, partition: Partition) -> bool:
    # The sums see what was committed when the table was closed to writers.
    async with connection.transaction(isolation="read_committed"):
        if not await _close_to_writers(connection, partition):
            return False
        if await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {partition.name} WHERE status = 'running')"
        ):
            log.info("%s stays: a row of it is still running", partition.name)
            return False
        first, last = moment_of(partition.least).date(), moment_of(UUID(int=partition.next.int - 1)).date()
        await connection.execute(_KEEP_SUMS.format(partition.name), first, bounds_of(first, last))
        await _drop(connection, partition)
        return True


_KEEP_SUMS = f"""
INSERT INTO usage_by_day AS kept ({", ".join(KEY + COUNTS)}) {sums_of("{}", "$1::date", "$2::uuid[]")}
ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET {", ".join(f"{n} = kept.{n} + excluded.{n}" for n in COUNTS)}
"""


async def _close_to_writers(connection: asyncpg.Connection, partition: Partition) -> bool:
    """False when another gateway drops, or has dropped it. Ends what autovacuum does there, too."""
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", RETENTION_LOCK):
        return False
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_class WHERE oid = $1)", partition.oid):
        return False
    await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    await connection.execute(f"LOCK TABLE {partition.name} IN SHARE MODE")
    return True


async def _drop(connection: asyncpg.Connection, partition: Partition) -> None:
    """Raises asyncpg.LockNotAvailableError after LOCK_TRIES."""
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            # A savepoint: a lock that was got on the way is let go while the next one can't be had.
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                await connection.execute(f"DROP TABLE {partition.name}")
                return
        except asyncpg.LockNotAvailableError:
            if not tries_left:
                raise
        await asyncio.sleep(LOCK_PAUSE_SECONDS)
