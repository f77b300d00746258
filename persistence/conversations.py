"""Conversations: what was said in them before.

The ids of the last turns come from message, by its index; their text from message_content, by these ids.
They are known when that statement is planned, so of its partitions only those of their days are touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from persistence.database import Database, DatabaseUnavailable, first_line
from persistence.exact_text import from_column, to_column

MOST_TURNS = 1000

# So many ids are looked up at once: each may be of another day, and a plan for many ids in many partitions
# takes the product of both to make.
PAGE = 100

_BEYOND_ALL = UUID(int=2**128 - 1)

# An answer that calls a tool ends no turn: what comes of the call does, with the same query.
IDS = """
SELECT id FROM message
WHERE conversation_id = $1 AND chat_type = $2 AND id < $3
    AND status = 'completed' AND finish_reason IS DISTINCT FROM 'tool_calls'
ORDER BY id DESC LIMIT $4
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
    most_bytes: int,
    timeout_seconds: float,
) -> list[Turn]:
    """The last ``count`` complete turns of a conversation, at most MOST_TURNS, oldest first.

    A turn is complete where its request has completed and its response is not empty; one whose text is not
    kept is left out. Their order is that of their ids. Older turns are left out, too, where all together
    would have more than ``most_bytes`` of text (UTF-8). A conversation that is not known has none.

    Raises DatabaseUnavailable, after ``timeout_seconds`` at the latest.
    """

    async def read() -> list[Turn]:
        async with _snapshot(database, timeout_seconds) as connection:
            return await _read(
                connection, to_column(conversation_id), chat_type, min(count, MOST_TURNS), most_bytes
            )

    try:
        newest_first = await _within(timeout_seconds, read())
    except TimeoutError as error:
        raise DatabaseUnavailable(f"PostgreSQL: no answer within {timeout_seconds:g} s") from error
    except Exception as error:
        raise DatabaseUnavailable(f"PostgreSQL: {first_line(error)}") from error
    return newest_first[::-1]


async def _within(seconds: float, work: Coroutine[Any, Any, list[Turn]]) -> list[Turn]:
    """What ``work`` gives. Raises TimeoutError after ``seconds``.

    It is cancelled then, and its end not waited for: SQLAlchemy's pool first tries for two seconds to close
    a connection well.
    """
    task = asyncio.create_task(work)
    _ending.add(task)
    task.add_done_callback(_ended)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError
    return task.result()


# Python keeps no hold of a task that nobody waits for.
_ending: set[asyncio.Task[list[Turn]]] = set()


def _ended(task: asyncio.Task[list[Turn]]) -> None:
    _ending.discard(task)
    if not task.cancelled():
        # Whoever has not waited for it was told that it took too long.
        task.exception()


async def _read(
    connection: asyncpg.Connection, conversation_id: str, chat_type: str, count: int, most_bytes: int
) -> list[Turn]:
    """The turns, newest first, page by page: two round trips where one page is enough."""
    turns: list[Turn] = []
    before, page, bytes_left = _BEYOND_ALL, min(count, PAGE), most_bytes
    while len(turns) < count:
        ids = [row["id"] for row in await connection.fetch(IDS, conversation_id, chat_type, before, page)]
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


@asynccontextmanager
async def _snapshot(database: Database, timeout_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the pool in a transaction that only reads, and sees one state of the database."""
    async with database.engine.connect() as pooled:
        connection = (await pooled.get_raw_connection()).driver_connection
        assert isinstance(connection, asyncpg.Connection)
        try:
            # One round trip for all. The ids have to be known to the planner, each time.
            await connection.execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                f"SET LOCAL statement_timeout = {max(1, round(timeout_seconds * 1000))};"
                "SET LOCAL plan_cache_mode = force_custom_plan"
            )
            yield connection
            await connection.execute("COMMIT")
        except BaseException:
            # In an unknown state, or gone: nothing is waited for.
            connection.terminate()
            await pooled.invalidate()
            raise
