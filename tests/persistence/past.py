"""Rows of other times, and a month before and after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from persistence import partitions
from persistence.database import Database
from persistence.message_row import WRITE, MessageRow, arrays, encoded
from tests.persistence.rows import closed, new_row


def moment(year: int, month: int, day: int, hour: int = 12) -> datetime:
    """Of UTC."""
    return datetime(year, month, day, hour, tzinfo=UTC)


def id_at(when: datetime) -> UUID:
    """A new id as it was made then."""
    id_: UUID = uuid7(int(when.timestamp()), when.microsecond * 1000)
    return id_


def row_at(when: datetime, **fields: Any) -> MessageRow:
    """A completed row of that time, with 8 prompt tokens and 6 completion tokens."""
    return closed(new_row(id=id_at(when), create_time=when, **fields))


@asynccontextmanager
async def connected(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connection()
    try:
        yield connection
    finally:
        connection.terminate()


async def write(database: Database, rows: Iterable[MessageRow]) -> None:
    """As the recorder does, making the partitions that they need."""
    records = [encoded(row, 1) for row in rows]
    async with connected(database) as connection:
        await partitions.make_for(connection, [record.id for record in records])
        await connection.execute(WRITE, *arrays(records))


async def partition_names(database: Database) -> set[str]:
    """Of message and message_content."""
    async with connected(database) as connection:
        return {
            name
            for (name,) in await connection.fetch(
                "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
            )
        }
