"""What belongs to whom, where that counts: with authentication."""

from __future__ import annotations

import logging
from uuid import UUID

from gateway.access.caller import Caller
from gateway.errors import InvalidApiKey, NotFound
from gateway.lifecycle import Lifecycle
from persistence.conversation_list import owners
from persistence.database import DatabaseUnavailable

log = logging.getLogger("gateway.access")


def owner_of(lifecycle: Lifecycle, caller: Caller) -> UUID | None:
    """Whose rows ``caller`` may read and change; None: whoever's. Raises InvalidApiKey where that counts and
    nobody knows who it is: a caller without a name is not one who may see all."""
    if caller.is_admin or not lifecycle.settings.authenticates:
        return None
    if caller.user_id is None:
        raise InvalidApiKey("Log in first.")
    return caller.user_id


async def check_conversation(lifecycle: Lifecycle, caller: Caller, conversation_id: str | None) -> None:
    """Raises NotFound for a conversation that is there and is not the caller's; it does not tell whose.

    While PostgreSQL is away nothing is checked: whatever the caller then says in somebody else's
    conversation is the caller's own, and only he sees it there.
    """
    owner = owner_of(lifecycle, caller)
    if owner is None or conversation_id is None or lifecycle.recorder.away is not None:
        return
    try:
        found = await owners(lifecycle.database, conversation_id, lifecycle.settings.database_timeout_seconds)
    except DatabaseUnavailable as error:
        log.warning("whose a conversation is can't be read: %s", error)
        return
    if found - {owner}:
        raise no_such_conversation()


def no_such_conversation() -> NotFound:
    """It is not there, or it is somebody else's."""
    return NotFound("There is no such conversation.", "conversation_id", "conversation_not_found")
