"""API keys: whose they are, what they may do, and how much. Of a key only the SHA-256 is here: the key is
random, so that is enough to find it, and not to use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from persistence.bounded import answered, statements, transaction
from persistence.caller_limits import UNLIMITED, Limits, limits_of, to_column
from persistence.database import Database

MOST_LISTED = 100

_COLUMNS = """
api_key.id, user_id, username, name, prefix, key_hash, scopes, api_key.limits::text, weight,
api_key.create_time, expire_time, revoke_time, is_admin, "user".limits::text AS user_limits
"""
_OF = f'SELECT {_COLUMNS} FROM api_key JOIN "user" ON "user".id = user_id'

_CREATE = """
INSERT INTO api_key (id, user_id, name, prefix, key_hash, scopes, limits, weight, create_time, expire_time)
SELECT $1, id, $3, $4, $5, $6, $7, $8, $9, $10 FROM "user" WHERE id = $2 FOR KEY SHARE
RETURNING id
"""
_FIND = f"{_OF} WHERE key_hash = ANY($1::bytea[])"
_NAMED = f"{_OF} WHERE api_key.id = $1 OR prefix = $2"
_LIST = f"""
{_OF} WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR api_key.id < $2)
ORDER BY api_key.id DESC LIMIT $3
"""
_LOCK = f"{_OF} WHERE api_key.id = $1 FOR NO KEY UPDATE OF api_key"
_CHANGE = """
UPDATE api_key SET name = $2, scopes = $3, limits = $4, weight = $5, expire_time = $6 WHERE id = $1
"""
_REVOKE = """
UPDATE api_key SET revoke_time = $1 WHERE revoke_time IS NULL
    AND ($2::uuid[] IS NULL OR id = ANY($2::uuid[])) AND ($3::uuid IS NULL OR user_id = $3)
"""
_ANY_USABLE = """
SELECT EXISTS (SELECT FROM api_key WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1))
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, which may have expired or been revoked, and what is known of its user. ``prefix`` is its
    beginning; who has twice the ``weight`` is served twice as much where there is not enough for all."""

    id: UUID
    user_id: UUID
    username: str
    name: str
    prefix: str
    key_hash: bytes = field(repr=False)
    scopes: Sequence[str]
    limits: Limits = UNLIMITED
    weight: float = 1.0
    create_time: datetime | None = None
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    user_is_admin: bool = False
    user_limits: Limits = UNLIMITED

    def status(self, now: datetime) -> str:
        """active, expired or revoked."""
        if self.revoke_time is not None:
            return "revoked"
        return "expired" if self.expire_time is not None and self.expire_time <= now else "active"


def hash_of(key: str) -> bytes:
    """What a key is found by."""
    return sha256(key.encode()).digest()


async def create(
    database: Database,
    key: str,
    prefix: str,
    user_id: UUID,
    timeout_seconds: float,
    *,
    name: str = "",
    scopes: Collection[str],
    limits: Limits = UNLIMITED,
    weight: float = 1.0,
    expire_time: datetime | None = None,
) -> UUID | None:
    """A new key's id; None where there is no user with this id. Raises DatabaseUnavailable; the key may be
    there or not, then."""
    values = (
        uuid7(),
        user_id,
        name,
        prefix,
        hash_of(key),
        sorted(scopes),
        to_column(limits),
        weight,
        datetime.now(UTC),
        expire_time,
    )

    async def work() -> UUID | None:
        async with statements(database, timeout_seconds) as connection:
            id_: UUID | None = await connection.fetchval(_CREATE, *values)
            return id_

    return await answered(timeout_seconds, work())


async def find(database: Database, hashes: Collection[bytes], timeout_seconds: float) -> dict[bytes, ApiKey]:
    """Those of the keys with these hashes that there are, by their hash. Raises DatabaseUnavailable."""
    return {key.key_hash: key for key in await _fetched(database, timeout_seconds, _FIND, list(hashes))}


async def named(
    database: Database, key_id: UUID | None, prefix: str | None, timeout_seconds: float
) -> list[ApiKey]:
    """The key with this id, or those that begin so: nearly always one. Raises DatabaseUnavailable."""
    return await _fetched(database, timeout_seconds, _NAMED, key_id, prefix)


async def listed(
    database: Database, user_id: UUID | None, after: UUID | None, count: int, timeout_seconds: float
) -> tuple[list[ApiKey], bool]:
    """The newest ``count`` keys of a user, or of all, of those that are older than ``after``, and whether
    there are more; at most MOST_LISTED. Raises DatabaseUnavailable."""
    count = min(count, MOST_LISTED)
    found = await _fetched(database, timeout_seconds, _LIST, user_id, after, count + 1)
    return found[:count], len(found) > count


async def change(
    database: Database, key_id: UUID, edit: Callable[[ApiKey], ApiKey], timeout_seconds: float
) -> ApiKey | None:
    """What ``edit`` makes of a key's name, scopes, limits, weight and end is stored; of two at once the
    second is given what the first has made. None where there is no key with this id. Raises
    DatabaseUnavailable."""

    async def work() -> ApiKey | None:
        async with transaction(database, timeout_seconds) as connection:
            row = await connection.fetchrow(_LOCK, key_id)
            if row is None:
                return None
            key = edit(_key(row))
            scopes, limits = sorted(key.scopes), to_column(key.limits)
            await connection.execute(_CHANGE, key_id, key.name, scopes, limits, key.weight, key.expire_time)
            return key

    return await answered(timeout_seconds, work())


async def revoke(
    database: Database,
    timeout_seconds: float,
    *,
    ids: Collection[UUID] | None = None,
    user_id: UUID | None = None,
) -> int:
    """End these keys, those of a user, or where neither is given all; gives how many there were that had not
    been ended. Raises DatabaseUnavailable."""

    async def work() -> int:
        async with statements(database, timeout_seconds) as connection:
            given = None if ids is None else list(ids)
            tag = await connection.execute(_REVOKE, datetime.now(UTC), given, user_id)
            return int(tag.split()[-1])

    return await answered(timeout_seconds, work())


async def any_usable(database: Database, timeout_seconds: float) -> bool:
    """Whether there is a key that somebody could come with. Raises DatabaseUnavailable."""

    async def work() -> bool:
        async with statements(database, timeout_seconds) as connection:
            return bool(await connection.fetchval(_ANY_USABLE, datetime.now(UTC)))

    return await answered(timeout_seconds, work())


async def _fetched(database: Database, timeout_seconds: float, query: str, *values: object) -> list[ApiKey]:
    async def work() -> list[ApiKey]:
        async with statements(database, timeout_seconds) as connection:
            return [_key(row) for row in await connection.fetch(query, *values)]

    return await answered(timeout_seconds, work())


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        row["id"],
        row["user_id"],
        row["username"],
        row["name"],
        row["prefix"],
        row["key_hash"],
        tuple(row["scopes"]),
        limits_of(row["limits"]),
        row["weight"],
        row["create_time"],
        row["expire_time"],
        row["revoke_time"],
        row["is_admin"],
        limits_of(row["user_limits"]),
    )
