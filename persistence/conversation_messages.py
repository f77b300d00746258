"""What was said in a conversation, for the one who reads it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from persistence.bounded import answered, snapshot
from persistence.conversation_list import spellings
from persistence.conversations import PAGE
from persistence.database import Database
from persistence.exact_text import from_column, json_from_column, to_column

MOST_MESSAGES = 1000
# Of text in one answer, in bytes of UTF-8; a message that alone has more comes alone.
MOST_BYTES = 4 * 1024**2

_BEYOND_ALL = UUID(int=2**128 - 1)

# Each spelling's in the order of the index: what is beyond the limit is not read.
IDS = """
SELECT one.id FROM unnest($1::text[]) AS spelled (id) CROSS JOIN LATERAL (
    SELECT id FROM message WHERE conversation_id = spelled.id AND id < $4
        AND ($2::uuid IS NULL OR user_id = $2) AND ($3::text[] IS NULL OR chat_type = ANY($3::text[]))
    ORDER BY id DESC LIMIT $5
) AS one ORDER BY id DESC LIMIT $5
"""
# The length of a text is known without reading it.
ROWS = """
SELECT id, conversation_id, chat_type, create_time, status, bytes,
    CASE WHEN bytes <= $2 OR is_first THEN query END AS query,
    CASE WHEN bytes <= $2 OR is_first THEN response END AS response,
    CASE WHEN bytes <= $2 OR is_first THEN meta_data::text END AS meta_data
FROM (
    SELECT message.*, coalesce(query, '') AS query, coalesce(response, '') AS response,
        $3::bool AND row_number() OVER (ORDER BY id DESC) = 1 AS is_first,
        sum(coalesce(octet_length(query) + octet_length(response), 0) + octet_length(meta_data::text))
            OVER (ORDER BY id DESC) AS bytes
    FROM message LEFT JOIN (
        SELECT id, query, response FROM message_content WHERE id = ANY($1::uuid[])
    ) AS content USING (id)
    WHERE id = ANY($1::uuid[])
) AS said ORDER BY id DESC
"""


@dataclass(frozen=True, slots=True)
class Message:
    """A question and its answer, however far that came; both are empty where no text is kept."""

    id: UUID
    conversation_id: str
    chat_type: str
    query: str
    response: str
    meta_data: dict[str, Any]
    status: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Messages:
    """Some of a conversation's, oldest first, and whether there are older ones."""

    items: Sequence[Message]
    has_more: bool


async def messages_of(
    database: Database,
    conversation_id: str,
    owner: UUID | None,
    chat_types: Sequence[str] | None,
    before: UUID | None,
    count: int,
    timeout_seconds: float,
) -> Messages:
    """The last ``count`` messages of a conversation, at most MOST_MESSAGES and about MOST_BYTES of text: the
    ``owner``'s (None: whoever's), of ``chat_types`` where some are given, and from before the message
    ``before``. A conversation that is not known has none. Raises DatabaseUnavailable.
    """
    types = None if chat_types is None else [to_column(one) for one in chat_types]
    wanted = (spellings(conversation_id), owner, types)

    async def work() -> Messages:
        async with snapshot(database, timeout_seconds) as connection:
            return await _read(connection, wanted, before or _BEYOND_ALL, min(count, MOST_MESSAGES))

    return await answered(timeout_seconds, work())


async def _read(
    connection: asyncpg.Connection,
    wanted: tuple[list[str], UUID | None, list[str] | None],
    before: UUID,
    count: int,
) -> Messages:
    # One more tells whether there are more.
    ids = [row["id"] for row in await connection.fetch(IDS, *wanted, before, count + 1)]
    found: list[Message] = []
    bytes_left = MOST_BYTES
    while len(found) < min(count, len(ids)):
        # In pages, as turns are.
        page = ids[len(found) : min(len(found) + PAGE, count)]
        rows = await connection.fetch(ROWS, page, bytes_left, not found)
        fitting = [_message(row) for row in rows if row["query"] is not None]
        found += fitting
        if len(fitting) < len(page):
            break
        bytes_left -= int(rows[-1]["bytes"])
    return Messages(found[::-1], len(found) < len(ids))


def _message(row: asyncpg.Record) -> Message:
    return Message(
        row["id"],
        from_column(row["conversation_id"]),
        row["chat_type"],
        from_column(row["query"]),
        from_column(row["response"]),
        json_from_column(row["meta_data"]),
        row["status"],
        row["create_time"],
    )
