"""A caller's latest messages.

Their ids come from message, by its index of users or its key, backwards; their text from message_content, by
these ids. They are known when that statement is planned, so of its partitions only those of their days are
touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from persistence.bounded import answered, snapshot
from persistence.database import Database
from persistence.exact_text import from_column
from persistence.message_row import DELETED

# Of text in one list.
MOST_BYTES = 4 * 1024**2
# Nobody's messages are looked for among so many of the last ones: no index has them alone.
MOST_LOOKED_AT = 10_000

COLUMNS = "id, create_time, conversation_id, status, feedback_score"

OF_USER = f"SELECT {COLUMNS} FROM message WHERE user_id = $1 ORDER BY id DESC LIMIT $2"

OF_NOBODY = f"""
SELECT {COLUMNS} FROM (
    SELECT {COLUMNS}, user_id, meta_data FROM message ORDER BY id DESC LIMIT {MOST_LOOKED_AT}
) AS latest WHERE user_id IS NULL AND NOT meta_data ? '{DELETED}' ORDER BY id DESC LIMIT $1
"""

# The length of a text is known without reading it.
TEXTS = """
SELECT id, query, response FROM (
    SELECT id, query, response,
        sum(octet_length(query) + octet_length(response)) OVER (ORDER BY id DESC) AS bytes
    FROM message_content WHERE id = ANY($1::uuid[])
) AS content WHERE bytes <= $2
"""


@dataclass(frozen=True, slots=True)
class LatestMessage:
    """A request; ``query`` and ``response`` are None where its text is not kept, and from the first on that
    would make the text of the list more than MOST_BYTES."""

    id: UUID
    create_time: datetime
    conversation_id: str | None
    status: str
    feedback_score: int
    query: str | None
    response: str | None


async def latest_messages(
    database: Database, user_id: UUID | None, count: int, timeout_seconds: float
) -> list[LatestMessage]:
    """The last ``count`` messages of a user, newest first; None: of those that nobody has.

    Raises DatabaseUnavailable, after ``timeout_seconds`` at the latest.
    """

    async def read() -> list[LatestMessage]:
        async with snapshot(database, timeout_seconds) as connection:
            if user_id is None:
                rows = await connection.fetch(OF_NOBODY, count)
            else:
                rows = await connection.fetch(OF_USER, user_id, count)
            contents = await connection.fetch(TEXTS, [row["id"] for row in rows], MOST_BYTES)
        texts = {one["id"]: (from_column(one["query"]), from_column(one["response"])) for one in contents}
        return [
            LatestMessage(
                row["id"],
                row["create_time"],
                None if row["conversation_id"] is None else from_column(row["conversation_id"]),
                row["status"],
                row["feedback_score"],
                *texts.get(row["id"], (None, None)),
            )
            for row in rows
        ]

    return await answered(timeout_seconds, read())
