"""Conversations as their users see them: made, listed, named.

A conversation's id is any text; one that is a UUID is found under each of its spellings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from persistence.bounded import answered, snapshot, statements
from persistence.database import Database
from persistence.exact_text import from_column, to_column

MOST_LISTED = 1000
# Of a name, in characters; what is longer is cut.
MOST_NAME = 50

_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_CREATE = """
INSERT INTO conversation (id, user_id, name, chat_type, create_time)
SELECT $1, id, $3, $4, $5 FROM "user" WHERE id = $2 FOR KEY SHARE
ON CONFLICT (id) DO NOTHING RETURNING id
"""
_LIST = """
SELECT id, name, chat_type, create_time FROM conversation
WHERE user_id = $1 AND ($2::text[] IS NULL OR chat_type = ANY($2::text[]))
    AND ($3::text IS NULL OR (create_time, id) < (
        SELECT create_time, id FROM conversation WHERE id = $3::text AND user_id = $1
    ))
ORDER BY create_time DESC, id DESC LIMIT $4
"""
_RENAME = """
UPDATE conversation SET name = $3 WHERE id IN (
    SELECT id FROM conversation WHERE id = ANY($1::text[]) AND ($2::uuid IS NULL OR user_id = $2)
    ORDER BY id FOR NO KEY UPDATE
)
"""
_OWNERS = "SELECT user_id FROM conversation WHERE id = ANY($1::text[])"


@dataclass(frozen=True, slots=True)
class Conversation:
    """One of a user's."""

    id: str
    name: str
    chat_type: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Conversations:
    """Some of a user's, newest first, and whether there are more."""

    items: Sequence[Conversation]
    has_more: bool


def spellings(conversation_id: str) -> list[str]:
    """The ids that mean the same one, as columns have them: of a UUID, which older clients write with
    dashes, each form."""
    found = {conversation_id: None}
    if _UUID.fullmatch(conversation_id):
        id_ = UUID(conversation_id)
        found |= {id_.hex: None, str(id_): None}
    return [to_column(one) for one in found]


def short_name(name: str) -> str:
    """``name`` as long as one may be."""
    return name[:MOST_NAME]


async def create(
    database: Database,
    conversation_id: str,
    user_id: UUID,
    name: str,
    chat_type: str,
    timeout_seconds: float,
) -> bool:
    """Make a conversation of a user; a long name is cut. False where there is no such user, or there is a
    conversation with this id. Raises DatabaseUnavailable."""
    values = (
        to_column(conversation_id),
        user_id,
        to_column(short_name(name)),
        to_column(chat_type),
        datetime.now(UTC),
    )

    async def work() -> bool:
        async with statements(database, timeout_seconds) as connection:
            return await connection.fetchval(_CREATE, *values) is not None

    return await answered(timeout_seconds, work())


async def of_user(
    database: Database,
    user_id: UUID,
    chat_types: Sequence[str] | None,
    before: str | None,
    count: int,
    timeout_seconds: float,
) -> Conversations:
    """The newest ``count`` conversations of a user, at most MOST_LISTED: of ``chat_types`` where some are
    given, and older than his conversation ``before``. A user who is not known has none. Raises
    DatabaseUnavailable."""
    count = min(count, MOST_LISTED)
    types = None if chat_types is None else [to_column(one) for one in chat_types]
    last = None if before is None else to_column(before)

    async def work() -> Conversations:
        async with snapshot(database, timeout_seconds) as connection:
            rows = await connection.fetch(_LIST, user_id, types, last, count + 1)
        found = [
            Conversation(
                from_column(row["id"]),
                from_column(row["name"]),
                from_column(row["chat_type"]),
                row["create_time"],
            )
            for row in rows[:count]
        ]
        return Conversations(found, len(rows) > count)

    return await answered(timeout_seconds, work())


async def rename(
    database: Database, conversation_id: str, owner: UUID | None, name: str, timeout_seconds: float
) -> bool:
    """Give a conversation a name; a long one is cut. False where there is none with this id that is the
    ``owner``'s (None: whoever's). Raises DatabaseUnavailable."""
    values = (spellings(conversation_id), owner, to_column(short_name(name)))

    async def work() -> bool:
        async with statements(database, timeout_seconds) as connection:
            tag = await connection.execute(_RENAME, *values)
            return int(tag.split()[-1]) > 0

    return await answered(timeout_seconds, work())


async def owners(database: Database, conversation_id: str, timeout_seconds: float) -> set[UUID | None]:
    """Whose a conversation is: None is nobody; empty where there is none with this id. Raises
    DatabaseUnavailable."""

    async def work() -> set[UUID | None]:
        async with statements(database, timeout_seconds) as connection:
            rows = await connection.fetch(_OWNERS, spellings(conversation_id))
            return {row["user_id"] for row in rows}

    return await answered(timeout_seconds, work())
