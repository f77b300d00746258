"""Deleting a conversation: what was said in it goes, and what its requests cost stays.

Its messages' text and feedback are deleted. Their rows in ``message`` stay as counts that belong to nobody:
without conversation, user, error and meta_data, which says DELETED instead. So all sums stay true, and a row
that is still on its way, or comes again from a journal, finds that it was deleted, and brings nothing back
(see WRITE in ``message_row``).

A step is one transaction of a few milliseconds: it locks the conversation, which those who write its
messages wait for, deletes a page of messages, and after the last one the conversation itself.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg

from persistence.bounded import answered, transaction
from persistence.conversation_list import spellings
from persistence.conversations import PAGE
from persistence.database import Database, DatabaseUnavailable
from persistence.message_row import DELETED

# About 100,000 messages. What was deleted by then stays deleted.
MOST_SECONDS = 20.0

_LOCK = """
SELECT id FROM conversation WHERE id = ANY($1::text[]) AND ($2::uuid IS NULL OR user_id = $2)
ORDER BY id FOR UPDATE
"""
# Whoever else locks several messages does not wait for any, or holds their conversation.
_MESSAGES = """
SELECT id FROM message WHERE conversation_id = ANY($1::text[]) AND ($2::uuid IS NULL OR user_id = $2)
LIMIT $3 FOR UPDATE
"""
_CONTENT = "DELETE FROM message_content WHERE id = ANY($1::uuid[])"
_FEEDBACK = "DELETE FROM feedback WHERE message_id = ANY($1::uuid[])"
_COUNTS_STAY = f"""
UPDATE message SET conversation_id = NULL, user_id = NULL, error = NULL, feedback_score = -1,
    feedback_reason = '', meta_data = '{{"{DELETED}": true}}'
WHERE id = ANY($1::uuid[])
"""
# What is somebody else's in it stays his, without it.
_CONVERSATION = "DELETE FROM conversation WHERE id = ANY($1::text[])"


async def delete(
    database: Database, conversation_id: str, owner: UUID | None, timeout_seconds: float
) -> bool:
    """Delete a conversation with its messages. False where there is none with this id that is the ``owner``'s
    (None: whoever's). Of somebody else's messages in it nothing is deleted.

    Raises DatabaseUnavailable, where a step takes longer than ``timeout_seconds`` and after MOST_SECONDS; it
    may be deleted in part then, and is wholly when this is called again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + MOST_SECONDS
    was_there = False
    while left := await answered(timeout_seconds, _step(database, conversation_id, owner, timeout_seconds)):
        was_there = True
        if loop.time() > deadline:
            raise DatabaseUnavailable(f"a conversation is not yet deleted after {MOST_SECONDS:g} s")
    return was_there or left is False


async def _step(
    database: Database, conversation_id: str, owner: UUID | None, timeout_seconds: float
) -> bool | None:
    """Whether more is to be deleted; None where there is no such conversation."""
    async with transaction(database, timeout_seconds) as connection:
        known = await _ids(connection, _LOCK, spellings(conversation_id), owner)
        if not known:
            return None
        messages = await _ids(connection, _MESSAGES, known, owner, PAGE)
        if messages:
            await connection.execute(_CONTENT, messages)
            await connection.execute(_FEEDBACK, messages)
            await connection.execute(_COUNTS_STAY, messages)
        if len(messages) == PAGE:
            return True
        await connection.execute(_CONVERSATION, known)
        return False


async def _ids(connection: asyncpg.Connection, statement: str, *values: object) -> list[object]:
    return [row["id"] for row in await connection.fetch(statement, *values)]
