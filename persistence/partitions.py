"""The partitions of message (by month), message_content and feedback (by day), made as they are needed.

Their bounds are ids: a UUIDv7 begins with its milliseconds since 1970 (RFC 9562, 5.7), so the least id of
a moment is these 48 bits and zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg

# Set for each partition: PostgreSQL keeps these of no parent. Rows are mostly inserted, and frozen once
# for all while they are still in memory; the sums need the visibility map of recent rows.
STORAGE = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,"
    " autovacuum_vacuum_insert_scale_factor = 0.05"
)
# Making one takes no longer than this, or is tried again: whoever waits for the lock makes others wait.
LOCK_TIMEOUT = "2s"
# Any number, the same in every gateway: one makes partitions at a time.
PARTITION_LOCK = 7_201_932_847

_IS_THERE = """
SELECT EXISTS (SELECT FROM pg_inherits JOIN pg_class ON oid = inhrelid
               WHERE inhparent = $1::text::regclass AND relname = $2)
"""


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table in partitions of one ``step`` each."""

    table: str
    step: Literal["month", "day"]

    def start(self, moment: datetime) -> datetime:
        """The first moment of the partition that ``moment`` belongs to."""
        day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day.replace(day=1) if self.step == "month" else day

    def after(self, start: datetime) -> datetime:
        """The first moment of the next one."""
        if self.step == "day":
            return start + timedelta(days=1)
        return (start + timedelta(days=32)).replace(day=1)

    def name(self, start: datetime) -> str:
        """Of the partition that begins at ``start``."""
        return f"{self.table}_{start:%Y_%m}" if self.step == "month" else f"{self.table}_{start:%Y_%m_%d}"

    def ahead(self, now: datetime) -> Iterator[datetime]:
        """The starts of the partitions that are to be there: this one and the next ones, a week of days or
        two months."""
        start = self.start(now)
        for _ in range(8 if self.step == "day" else 3):
            yield start
            start = self.after(start)


MESSAGE = Partitioned("message", "month")
CONTENT = Partitioned("message_content", "day")
FEEDBACK = Partitioned("feedback", "day")


def least_id(moment: datetime) -> UUID:
    """No id that was made at ``moment`` or later is below it."""
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=milliseconds << 80)


def moment_of(id_: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=id_.int >> 80)


async def make_ahead(connection: asyncpg.Connection) -> list[str]:
    """Make the partitions of the time to come; gives the names of the new ones."""
    now = datetime.now(UTC)
    return [
        name
        for partitioned in (MESSAGE, CONTENT)
        for name in await _make(connection, partitioned, partitioned.ahead(now))
    ]


async def make_for(
    connection: asyncpg.Connection, ids: Iterable[UUID], tables: Iterable[Partitioned] = (MESSAGE, CONTENT)
) -> list[str]:
    """Make the partitions of ``tables`` that rows with these message ids need; gives the names of the new
    ones."""
    moments = {moment_of(id_) for id_ in ids}
    return [
        name
        for partitioned in tables
        for name in await _make(connection, partitioned, {partitioned.start(moment) for moment in moments})
    ]


async def _make(
    connection: asyncpg.Connection, partitioned: Partitioned, starts: Iterable[datetime]
) -> list[str]:
    made = []
    for start in starts:
        name = partitioned.name(start)
        if not await _is_there(connection, partitioned, name) and await _make_one(
            connection, partitioned, start
        ):
            made.append(name)
    return made


async def _is_there(connection: asyncpg.Connection, partitioned: Partitioned, name: str) -> bool:
    # Not to_regclass, which may remember that there was none.
    found: bool = await connection.fetchval(_IS_THERE, partitioned.table, name)
    return found


async def _make_one(connection: asyncpg.Connection, partitioned: Partitioned, start: datetime) -> bool:
    """False when another gateway was quicker.

    As a table of its own that is attached: this locks out no readers, and of the writers only those that
    make a conversation, for the moment in which the reference to it is made.
    """
    table, name = partitioned.table, partitioned.name(start)
    bounds = f"FROM ('{least_id(start)}') TO ('{least_id(partitioned.after(start))}')"
    try:
        # Sent as one, and so one transaction: there is no rollback to wait for where it is cut off. Without
        # the lock, two that make the same table get an error that says nothing of tables.
        await connection.execute(f"""
            SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';
            SELECT pg_advisory_xact_lock({PARTITION_LOCK});
            CREATE TABLE {name} (LIKE {table} INCLUDING ALL) WITH ({STORAGE});
            ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES {bounds};
        """)
    except asyncpg.DuplicateTableError:
        return False
    return True
