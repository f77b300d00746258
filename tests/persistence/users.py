"""Users that own rows."""

from __future__ import annotations

from uuid import UUID, uuid4

from persistence import users
from persistence.database import Database

SECONDS = 30.0


async def new_user(database: Database) -> UUID:
    """Someone nobody has heard of."""
    id_ = await users.register(database, uuid4().hex, "hash", SECONDS)
    assert id_ is not None
    return id_
