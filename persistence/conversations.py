"""Conversations: what was said in them before.

The ids of the last turns come from message, by its index; their text from message_content, by these ids.
They are known when that statement is planned, so of its partitions only those of their days are touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from persistence.bounded import answered, snapshot
from persistence.database import Database
from persistence.exact_text import from_column, to_column

MOST_TURNS = 1000

# So many ids are looked up at once: each may be of another day, and a plan for many ids in many partitions
# takes the product of both to make.
PAGE = 100

_BEYOND_ALL = UUID(int=2**128 - 1)

# An answer that calls a tool ends no turn: what comes of the call does, with the same query.
IDS = """
SELECT id FROM message
WHERE conversation_id = $1 AND chat_type = $2 AND ($3::uuid IS NULL OR user_id = $3) AND id < $4
    AND status = 'completed' AND finish_reason IS DISTINCT FROM 'tool_calls'
ORDER BY id DESC LIMIT $5
"""

# The length of a text is known without reading it.
TEXTS = """
SELECT bytes,
    CASE WHEN bytes <= $2 THEN query END AS query,
    CASE WHEN bytes <= $2 THEN response END AS response
FROM (
    SELECT id, query, response,
        sum(octet_length(query) + octet_length(response)) OVER (ORDER BY id DESC) AS bytes
    FROM message_content WHERE id = ANY($1::uuid[]) AND response <> ''
) AS turn
ORDER BY id DESC LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer."""

    query: str
    response: str


async def last_turns(
    database: Database,
    conversation_id: str,
    chat_type: str,
    count: int,
    *,
    owner: UUID | None,
    most_bytes: int,
    timeout_seconds: float,
) -> list[Turn]:
    """The last ``count`` complete turns of a conversation, at most MOST_TURNS, oldest first; with an
    ``owner`` only those that are his.

    A turn is complete where its request has completed and its response is not empty; one whose text is not
    kept is left out. Their order is that of their ids. Older turns are left out, too, where all together
    would have more than ``most_bytes`` of text (UTF-8). A conversation that is not known has none.

    Raises DatabaseUnavailable, after ``timeout_seconds`` at the latest.
    """

    async def read() -> list[Turn]:
        async with snapshot(database, timeout_seconds) as connection:
            whose = (to_column(conversation_id), chat_type, owner)
            return await _read(connection, whose, min(count, MOST_TURNS), most_bytes)

    newest_first = await answered(timeout_seconds, read())
    return newest_first[::-1]


async def _read(
    connection: asyncpg.Connection, whose: tuple[str, str, UUID | None], count: int, most_bytes: int
) -> list[Turn]:
    """The turns, newest first, page by page: two round trips where one page is enough."""
    turns: list[Turn] = []
    before, page, bytes_left = _BEYOND_ALL, min(count, PAGE), most_bytes
    while len(turns) < count:
        ids = [row["id"] for row in await connection.fetch(IDS, *whose, before, page)]
        if not ids:
            break
        rows = await connection.fetch(TEXTS, ids, bytes_left, count - len(turns))
        for row in rows:
            if row["query"] is None:
                return turns
            turns.append(Turn(from_column(row["query"]), from_column(row["response"])))
        if len(ids) < page:
            break
        bytes_left -= rows[-1]["bytes"] if rows else 0
        # Where no text is left there are no partitions either: many ids take no longer than few.
        before, page = ids[-1], PAGE if rows else MOST_TURNS
    return turns
