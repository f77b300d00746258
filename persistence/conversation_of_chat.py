"""The conversation that a chat of fufan's front end belongs to: made with its first message, named by it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from persistence.bounded import answered, statements
from persistence.conversation_list import short_name
from persistence.database import Database
from persistence.exact_text import to_column

# What that front end calls a conversation before its first query.
UNNAMED = ("", "new_chat", "新对话")

# A conversation that has its name is only looked at, and somebody else's keeps the one it has. One statement:
# what it sees and what it writes belong together.
OPEN = """
WITH known AS (
    SELECT $2::uuid IS NULL OR EXISTS (SELECT FROM "user" WHERE id = $2::uuid) AS is_known
), opened AS (
    INSERT INTO conversation (id, user_id, name, chat_type, create_time)
    SELECT $1::text, $2::uuid, $3::text, $4::text, $5::timestamptz FROM known
    WHERE is_known AND $1::text IS NOT NULL
        AND NOT EXISTS (SELECT FROM conversation WHERE id = $1::text AND name <> ALL ($7::text[]))
    ON CONFLICT (id) DO UPDATE SET name = $6::text
    WHERE conversation.name = ANY ($7::text[])
        AND (conversation.user_id = $2::uuid OR conversation.user_id IS NULL OR $2::uuid IS NULL)
)
SELECT is_known FROM known
"""


class UnknownUser(Exception):
    """There is no user of this id."""


async def open_conversation(
    database: Database,
    conversation_id: str | None,
    user_id: UUID | None,
    name: str,
    chat_type: str,
    first_query: str,
    timeout_seconds: float,
) -> None:
    """See that the user is there, where one is given; make the conversation, where one is given and it is not
    known, as his; and let one that has no name yet be called by ``first_query``. Names are cut as
    ``short_name`` does.

    Raises UnknownUser, and DatabaseUnavailable after ``timeout_seconds`` at the latest.
    """
    title = short_name(first_query)
    values = (
        None if conversation_id is None else to_column(conversation_id),
        user_id,
        to_column(title if name in UNNAMED else short_name(name)),
        chat_type,
        datetime.now(UTC),
        to_column(title),
        list(UNNAMED),
    )

    async def write() -> bool:
        async with statements(database, timeout_seconds) as connection:
            return bool(await connection.fetchval(OPEN, *values))

    if not await answered(timeout_seconds, write()):
        raise UnknownUser
