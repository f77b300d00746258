"""Sessions: who has logged in, until when. Of a session's token only the SHA-256 is here: the token is
random, so that is enough to find it, and not to use it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

import asyncpg

from persistence.bounded import answered, statements
from persistence.caller_limits import UNLIMITED, Limits, limits_of
from persistence.database import Database

# Of one user, the latest.
MOST_PER_USER = 100
# A session that is used has its whole time before it, but for so much of it: not every use is a write.
SLIDE_SHARE = 30
MOST_SLIDE = timedelta(days=1)

MOST_EXPIRED = 10_000

_CREATE = """
INSERT INTO session (token_hash, user_id, create_time, expire_time) VALUES ($1, $2, $3, $4)
"""
# Two that log in at once do not wait for each other: what one leaves the next one deletes.
_DELETE_OLDEST = """
DELETE FROM session WHERE token_hash IN (
    SELECT token_hash FROM session WHERE token_hash IN (
        SELECT token_hash FROM session WHERE user_id = $1 ORDER BY create_time DESC OFFSET $2
    ) FOR UPDATE SKIP LOCKED
)
"""
_FIND = """
WITH slid AS (
    UPDATE session SET expire_time = $4
    WHERE token_hash = $1 AND expire_time > $2 AND expire_time < $3
    RETURNING expire_time
)
SELECT user_id, coalesce((SELECT expire_time FROM slid), expire_time) AS expire_time,
    EXISTS (SELECT FROM slid) AS slid, is_admin, limits::text
FROM session JOIN "user" ON "user".id = user_id WHERE token_hash = $1 AND expire_time > $2
"""
_DELETE = "DELETE FROM session WHERE token_hash = $1"
_DELETE_EXPIRED = """
DELETE FROM session WHERE token_hash IN (
    SELECT token_hash FROM session WHERE expire_time <= $1 ORDER BY expire_time LIMIT $2
    FOR UPDATE SKIP LOCKED
)
"""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody's login; ``slid``: its end was moved just now. ``is_admin`` and ``limits`` are the user's."""

    user_id: UUID
    expire_time: datetime
    slid: bool = False
    is_admin: bool = False
    limits: Limits = UNLIMITED


def hash_of(token: str) -> bytes:
    """What a token is found by."""
    return sha256(token.encode()).digest()


async def create(
    database: Database, token: str, user_id: UUID, duration: timedelta, timeout_seconds: float
) -> Session:
    """A new session of a user who is there; of too many the oldest end. Raises DatabaseUnavailable."""
    now = datetime.now(UTC)
    session = Session(user_id, now + duration)

    async def work() -> None:
        async with statements(database, timeout_seconds) as connection:
            await connection.execute(_CREATE, hash_of(token), user_id, now, session.expire_time)
            await connection.execute(_DELETE_OLDEST, user_id, MOST_PER_USER)

    await answered(timeout_seconds, work())
    return session


async def find(database: Database, token: str, duration: timedelta, timeout_seconds: float) -> Session | None:
    """The session of a token, where it has not expired. It then has ``duration`` before it, or at most a
    day, or a thirtieth, less. Raises DatabaseUnavailable."""
    now = datetime.now(UTC)
    slide_below = now + duration - min(duration / SLIDE_SHARE, MOST_SLIDE)

    async def work() -> Session | None:
        async with statements(database, timeout_seconds) as connection:
            row = await connection.fetchrow(_FIND, hash_of(token), now, slide_below, now + duration)
            if row is None:
                return None
            whose = row["is_admin"], limits_of(row["limits"])
            return Session(row["user_id"], row["expire_time"], row["slid"], *whose)

    return await answered(timeout_seconds, work())


async def delete(database: Database, token: str, timeout_seconds: float) -> None:
    """End the session of a token, if there is one. Raises DatabaseUnavailable."""

    async def work() -> None:
        async with statements(database, timeout_seconds) as connection:
            await connection.execute(_DELETE, hash_of(token))

    await answered(timeout_seconds, work())


async def delete_expired(connection: asyncpg.Connection, now: datetime) -> int:
    """Delete the sessions that have expired by ``now``, MOST_EXPIRED in one statement; gives how many there
    were."""
    deleted = 0
    while True:
        tag = await connection.execute(_DELETE_EXPIRED, now, MOST_EXPIRED)
        count = int(tag.split()[-1])
        deleted += count
        if count < MOST_EXPIRED:
            return deleted
