"""What was used today by those who have a limit of tokens per day, so that a gateway's restart does not
begin the day anew. Written behind the requests; several gateways of one database add up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import asyncpg

from persistence.bounded import answered, statements
from persistence.database import Database

_EPOCH = date(1970, 1, 1)

# What is told late of a day that has passed changes nothing.
_ADD = """
INSERT INTO limit_use AS was (account, day, day_tokens)
SELECT * FROM unnest($1::text[], $2::date[], $3::int8[]) AS told (account, day, tokens) ORDER BY account
ON CONFLICT (account) DO UPDATE SET
    day_tokens = excluded.day_tokens + CASE WHEN was.day = excluded.day THEN was.day_tokens ELSE 0 END,
    day = excluded.day
WHERE was.day <= excluded.day
"""
_READ = "SELECT account, day_tokens FROM limit_use WHERE day = $1 AND day_tokens > 0"
_FORGET = "DELETE FROM limit_use WHERE day < $1"


async def add(database: Database, tokens: Mapping[tuple[str, int], int], timeout_seconds: float) -> None:
    """Count more tokens, or less, by account and day; days since 1970, of each account one. Raises
    DatabaseUnavailable; they may be counted or not, then."""

    async def work() -> None:
        async with statements(database, timeout_seconds) as connection:
            accounts = [account for account, _ in tokens]
            days = [_EPOCH + timedelta(days=day) for _, day in tokens]
            await connection.execute(_ADD, accounts, days, list(tokens.values()))

    await answered(timeout_seconds, work())


async def read(database: Database, day: int, timeout_seconds: float) -> dict[str, int]:
    """The tokens of a day by account. Raises DatabaseUnavailable."""

    async def work() -> dict[str, int]:
        async with statements(database, timeout_seconds) as connection:
            rows = await connection.fetch(_READ, _EPOCH + timedelta(days=day))
            return {row["account"]: row["day_tokens"] for row in rows}

    return await answered(timeout_seconds, work())


async def forget(connection: asyncpg.Connection, day: date) -> int:
    """Delete what is older than ``day``; gives how many accounts there were."""
    tag = await connection.execute(_FORGET, day)
    return int(tag.split()[-1])
