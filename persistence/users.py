"""Users: their names and the hashes of their passwords, what they may do, and how much.

Whoever has no password, an empty hash, can't log in; his keys work all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from persistence.bounded import answered, statements, transaction
from persistence.caller_limits import UNLIMITED, Limits, limits_of, to_column
from persistence.database import Database

MOST_LISTED = 100
NO_PASSWORD = ""

_COLUMNS = "id, username, password_hash, is_admin, limits::text, create_time"

_REGISTER = """
INSERT INTO "user" (id, username, password_hash, create_time, is_admin, limits)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (username) DO NOTHING RETURNING id
"""
_FIND = f'SELECT {_COLUMNS} FROM "user" WHERE username = $1'
_GET = f'SELECT {_COLUMNS} FROM "user" WHERE id = $1'
_EXISTS = 'SELECT EXISTS (SELECT FROM "user" WHERE id = $1)'
# Only the one that was checked: a password may have been changed meanwhile.
_REHASH = 'UPDATE "user" SET password_hash = $3 WHERE id = $1 AND password_hash = $2'
_LIST = f'SELECT {_COLUMNS} FROM "user" WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2'
_LOCK = f"{_GET} FOR NO KEY UPDATE"
_CHANGE = 'UPDATE "user" SET password_hash = $2, is_admin = $3, limits = $4 WHERE id = $1'
_END_SESSIONS = "DELETE FROM session WHERE user_id = $1"
_REVOKE_KEYS = "UPDATE api_key SET revoke_time = $2 WHERE user_id = $1 AND revoke_time IS NULL"


@dataclass(frozen=True, slots=True)
class User:
    """Someone who can log in, or has keys. An admin sees and does all; ``limits`` are those of all that he
    does."""

    id: UUID
    username: str
    password_hash: str = field(repr=False)
    is_admin: bool = False
    limits: Limits = UNLIMITED
    create_time: datetime | None = field(default=None, compare=False)


async def register(
    database: Database,
    username: str,
    password_hash: str,
    timeout_seconds: float,
    *,
    is_admin: bool = False,
    limits: Limits = UNLIMITED,
) -> UUID | None:
    """A new user's id; None where the name is taken. No name has U+0000 in it. Raises DatabaseUnavailable;
    the user may be there or not, then."""
    values = (uuid7(), username, password_hash, datetime.now(UTC), is_admin, to_column(limits))

    async def work() -> UUID | None:
        async with statements(database, timeout_seconds) as connection:
            id_: UUID | None = await connection.fetchval(_REGISTER, *values)
            return id_

    return await answered(timeout_seconds, work())


async def find(database: Database, username: str, timeout_seconds: float) -> User | None:
    """The user of this name, as it is written. Raises DatabaseUnavailable."""
    return await _one(database, _FIND, username, timeout_seconds)


async def get(database: Database, user_id: UUID, timeout_seconds: float) -> User | None:
    """The user with this id. Raises DatabaseUnavailable."""
    return await _one(database, _GET, user_id, timeout_seconds)


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


async def listed(
    database: Database, after: UUID | None, count: int, timeout_seconds: float
) -> tuple[list[User], bool]:
    """The newest ``count`` users of those that are older than ``after``, and whether there are more; at most
    MOST_LISTED. Raises DatabaseUnavailable."""
    count = min(count, MOST_LISTED)

    async def work() -> list[User]:
        async with statements(database, timeout_seconds) as connection:
            return [_user(row) for row in await connection.fetch(_LIST, after, count + 1)]

    found = await answered(timeout_seconds, work())
    return found[:count], len(found) > count


async def change(
    database: Database, user_id: UUID, edit: Callable[[User], User], timeout_seconds: float
) -> User | None:
    """What ``edit`` makes of a user's password, limits, and whether he is an admin, is stored; of two at once
    the second is given what the first has made. With another password whoever is logged in is so no more.
    None where there is no user with this id. Raises DatabaseUnavailable."""

    async def work() -> User | None:
        async with transaction(database, timeout_seconds) as connection:
            row = await connection.fetchrow(_LOCK, user_id)
            if row is None:
                return None
            before = _user(row)
            user = edit(before)
            await connection.execute(
                _CHANGE, user_id, user.password_hash, user.is_admin, to_column(user.limits)
            )
            if user.password_hash != before.password_hash:
                await connection.execute(_END_SESSIONS, user_id)
            return user

    return await answered(timeout_seconds, work())


async def shut_out(database: Database, user_id: UUID, timeout_seconds: float) -> User | None:
    """Take away a user's password, sessions and keys, and what makes him an admin; what is his stays. None
    where there is no user with this id. Raises DatabaseUnavailable."""

    async def work() -> User | None:
        async with transaction(database, timeout_seconds) as connection:
            row = await connection.fetchrow(_LOCK, user_id)
            if row is None:
                return None
            user = replace(_user(row), password_hash=NO_PASSWORD, is_admin=False)
            await connection.execute(
                _CHANGE, user_id, user.password_hash, user.is_admin, to_column(user.limits)
            )
            await connection.execute(_END_SESSIONS, user_id)
            await connection.execute(_REVOKE_KEYS, user_id, datetime.now(UTC))
            return user

    return await answered(timeout_seconds, work())


async def _one(database: Database, query: str, value: str | UUID, timeout_seconds: float) -> User | None:
    async def work() -> User | None:
        async with statements(database, timeout_seconds) as connection:
            row = await connection.fetchrow(query, value)
            return None if row is None else _user(row)

    return await answered(timeout_seconds, work())


def _user(row: asyncpg.Record) -> User:
    return User(
        row["id"],
        row["username"],
        row["password_hash"],
        row["is_admin"],
        limits_of(row["limits"]),
        row["create_time"],
    )
