"""Users: their names and the hashes of their passwords."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from persistence.bounded import answered, statements
from persistence.database import Database

_REGISTER = """
INSERT INTO "user" (id, username, password_hash, create_time) VALUES ($1, $2, $3, $4)
ON CONFLICT (username) DO NOTHING RETURNING id
"""
_FIND = 'SELECT id, username, password_hash FROM "user" WHERE username = $1'
_EXISTS = 'SELECT EXISTS (SELECT FROM "user" WHERE id = $1)'
# Only the one that was checked: a password may have been changed meanwhile.
_REHASH = 'UPDATE "user" SET password_hash = $3 WHERE id = $1 AND password_hash = $2'


@dataclass(frozen=True, slots=True)
class User:
    """Someone who can log in."""

    id: UUID
    username: str
    password_hash: str = field(repr=False)


async def register(
    database: Database, username: str, password_hash: str, timeout_seconds: float
) -> UUID | None:
    """A new user's id; None where the name is taken. No name has U+0000 in it. Raises DatabaseUnavailable;
    the user may be there or not, then."""

    async def work() -> UUID | None:
        async with statements(database, timeout_seconds) as connection:
            id_: UUID | None = await connection.fetchval(
                _REGISTER, uuid7(), username, password_hash, datetime.now(UTC)
            )
            return id_

    return await answered(timeout_seconds, work())


async def find(database: Database, username: str, timeout_seconds: float) -> User | None:
    """The user of this name, as it is written. Raises DatabaseUnavailable."""

    async def work() -> User | None:
        async with statements(database, timeout_seconds) as connection:
            row = await connection.fetchrow(_FIND, username)
            return None if row is None else User(row["id"], row["username"], row["password_hash"])

    return await answered(timeout_seconds, work())


async def user_exists(database: Database, user_id: UUID, timeout_seconds: float) -> bool:
    """Whether there is a user with this id. Raises DatabaseUnavailable."""

    async def work() -> bool:
        async with statements(database, timeout_seconds) as connection:
            return bool(await connection.fetchval(_EXISTS, user_id))

    return await answered(timeout_seconds, work())


async def rehash(database: Database, user: User, password_hash: str, timeout_seconds: float) -> None:
    """Replace the hash of a user's password by a better one of the same. Raises DatabaseUnavailable."""

    async def work() -> None:
        async with statements(database, timeout_seconds) as connection:
            await connection.execute(_REHASH, user.id, user.password_hash, password_hash)

    await answered(timeout_seconds, work())
