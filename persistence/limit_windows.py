"""Limits that several gateways share: one row for each account, changed by one statement at a time.

What a gateway takes is written at the second in which it is taken and counts until no use of it can be of
the last minute: it may be used for LEASE_SECONDS, so it counts for as long, a minute, and the rest of its
second. Whoever has taken more than he has used gives it back to the second that it was taken in. A gateway
that dies gives nothing back, and needs not: what it had taken leaves the minute by itself.

How many requests run each gateway says of itself; that holds for HELD_SECONDS.

Only PostgreSQL's clock counts. The statement reads nothing but its own row, so whoever waits for that sees
it as the one before has left it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from persistence.bounded import answered
from persistence.caller_limits import Limits
from persistence.database import Database

LEASE_SECONDS = 1.0
HELD_SECONDS = 30.0
# A second that began so long ago counts, an older one does not.
COUNTED_SECONDS = 60 + round(LEASE_SECONDS)

# No request waits for PostgreSQL's disk: where it crashes, it forgets what was taken in its last half second.
_SETTINGS = "SET synchronous_commit = off"

_BEGIN = """
INSERT INTO limit_use (account, day) VALUES ($1, (now() AT TIME ZONE 'UTC')::date) ON CONFLICT DO NOTHING
"""

# FOR UPDATE reads the row as the last one who had it has left it, and not as it was when the statement began,
# as a subquery of UPDATE's SET would.
_EXCHANGE = f"""
WITH was AS MATERIALIZED (
    SELECT * FROM limit_use WHERE account = $1 FOR UPDATE
), clock AS (
    SELECT moment, floor(moment)::int8 AS second, (now() AT TIME ZONE 'UTC')::date AS day
    FROM (SELECT extract(epoch FROM now())::float8 AS moment) AS now
), given AS (
    SELECT second, sum(requests)::int8 AS requests, sum(tokens)::int8 AS tokens
    FROM unnest($15::int8[], $16::int8[], $17::int8[]) AS one (second, requests, tokens) GROUP BY second
), counted AS (
    SELECT taken.second, greatest(0, taken.requests - coalesce(given.requests, 0)) AS requests,
        greatest(0, taken.tokens - coalesce(given.tokens, 0)) AS tokens
    FROM was CROSS JOIN unnest(was.seconds, was.requests, was.tokens) AS taken (second, requests, tokens)
        LEFT JOIN given USING (second)
    WHERE taken.second >= (SELECT second FROM clock) - {COUNTED_SECONDS}
    UNION ALL SELECT second, $13::int8, $14::int8 FROM clock
), used AS (
    SELECT sum(requests)::int8 AS requests, sum(tokens)::int8 AS tokens FROM counted
), today AS (
    SELECT greatest(0, CASE WHEN was.day = clock.day THEN was.day_tokens ELSE 0 END - (
        SELECT coalesce(sum(tokens), 0)::int8 FROM given
        WHERE (to_timestamp(given.second) AT TIME ZONE 'UTC')::date = clock.day
    )) + $14::int8 AS tokens
    FROM was, clock
), others AS (
    SELECT one.* FROM was CROSS JOIN
        unnest(was.holders, was.held, was.held_until) AS one (holder, places, until)
    WHERE until > (SELECT moment FROM clock) AND holder <> $2::int8
), room AS (
    SELECT $7::int8 - used.requests AS requests,
        least($8::int8 - used.tokens, $9::int8 - today.tokens) AS tokens,
        $10::int8 - (SELECT coalesce(sum(places), 0)::int8 FROM others) AS places
    FROM used, today
), answer AS (
    SELECT coalesce(requests >= $3::int8, true) AND coalesce(tokens >= $4::int8, true)
            AND coalesce(places >= $11::int8, true) AS fits,
        coalesce((requests - $3::int8 - $5::int8) * 2 >= $7::int8, true)
            AND coalesce((tokens - $4::int8 - $6::int8) * 2 >= least($8::int8, $9::int8), true) AS is_much
    FROM room
), granted AS (
    SELECT fits,
        CASE WHEN fits THEN $3::int8 + CASE WHEN is_much THEN $5::int8 ELSE 0 END ELSE 0 END AS requests,
        CASE WHEN fits THEN $4::int8 + CASE WHEN is_much THEN $6::int8 ELSE 0 END ELSE 0 END AS tokens,
        CASE WHEN fits THEN $11::int8 ELSE $12::int8 END AS places
    FROM answer
), kept AS (
    SELECT coalesce(array_agg(second ORDER BY second), '{{}}') AS seconds,
        coalesce(array_agg(requests ORDER BY second), '{{}}') AS requests,
        coalesce(array_agg(tokens ORDER BY second), '{{}}') AS tokens
    FROM (
        SELECT second, sum(requests)::int8 AS requests, sum(tokens)::int8 AS tokens FROM (
            SELECT * FROM counted
            UNION ALL SELECT clock.second, granted.requests, granted.tokens FROM clock, granted
        ) AS taken GROUP BY second HAVING sum(requests) > 0 OR sum(tokens) > 0
    ) AS seconds
), holding AS (
    SELECT coalesce(array_agg(holder), '{{}}') AS holders, coalesce(array_agg(places), '{{}}') AS held,
        coalesce(array_agg(until), '{{}}') AS held_until
    FROM (
        SELECT * FROM others
        UNION ALL SELECT $2::int8, places, moment + {HELD_SECONDS} FROM granted, clock WHERE places > 0
    ) AS holders
)
UPDATE limit_use SET
    seconds = kept.seconds, requests = kept.requests, tokens = kept.tokens,
    day = clock.day, day_tokens = today.tokens + granted.tokens,
    holders = holding.holders, held = holding.held, held_until = holding.held_until
FROM was, clock, today, granted, kept, holding
WHERE limit_use.account = was.account
RETURNING granted.fits, granted.requests AS granted_requests, granted.tokens AS granted_tokens, clock.moment,
    limit_use.seconds, limit_use.requests, limit_use.tokens, limit_use.day_tokens,
    limit_use.holders, limit_use.held
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a gateway wants of an account with these limits, all or nothing: so many ``requests`` and
    ``tokens``, and, where much is left, the ``spare`` ones besides, so that it need not ask each time.

    It then runs ``places`` requests, or, where it gets nothing, ``places_else``. ``debt``: requests and
    tokens that were used without asking. ``given``: seconds, and how many requests and tokens that were
    taken in each are given back.
    """

    account: str
    limits: Limits
    requests: int = 0
    tokens: int = 0
    spare_requests: int = 0
    spare_tokens: int = 0
    places: int = 0
    places_else: int = 0
    debt: tuple[int, int] = (0, 0)
    given: Sequence[tuple[int, int, int]] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """What it got, and where the account stands then. ``moment`` in seconds since 1970, as PostgreSQL has it;
    ``taken``: seconds, and the requests and tokens that were taken in each; ``places_elsewhere``: requests
    that run on other gateways."""

    granted: bool
    requests: int
    tokens: int
    moment: float
    taken: Sequence[tuple[int, int, int]]
    day_tokens: int
    places_elsewhere: int


class LimitWindows:
    """One gateway's connection for this; ``holder`` is a number that no other gateway has."""

    def __init__(self, database: Database, holder: int, timeout_seconds: float) -> None:
        self._database = database
        self._holder = holder
        self._timeout_seconds = timeout_seconds
        self._connection: asyncpg.Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def exchange(self, asked: Asked) -> Told:
        """Raises DatabaseUnavailable; it may have been done or not, then."""
        return await answered(self._timeout_seconds, self._exchange(asked))

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _exchange(self, asked: Asked) -> Told:
        async with self._one_at_a_time:
            try:
                connection = await self._connected()
                row = await connection.fetchrow(_EXCHANGE, *self._values(asked))
                if row is None:
                    await connection.execute(_BEGIN, asked.account)
                    row = await connection.fetchrow(_EXCHANGE, *self._values(asked))
            except BaseException:
                # In an unknown state, or gone.
                self.close()
                raise
        assert row is not None
        return Told(
            row["fits"],
            row["granted_requests"],
            row["granted_tokens"],
            row["moment"],
            list(zip(row["seconds"], row["requests"], row["tokens"], strict=True)),
            row["day_tokens"],
            sum(
                places
                for holder, places in zip(row["holders"], row["held"], strict=True)
                if holder != self._holder
            ),
        )

    async def _connected(self) -> asyncpg.Connection:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._database.connection()
            await connection.execute(_SETTINGS)
        return connection

    def _values(self, asked: Asked) -> list[object]:
        limits = asked.limits
        return [
            asked.account,
            self._holder,
            asked.requests,
            asked.tokens,
            asked.spare_requests,
            asked.spare_tokens,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.tokens_per_day,
            limits.concurrent_requests,
            asked.places,
            asked.places_else,
            *asked.debt,
            [second for second, _, _ in asked.given],
            [requests for _, requests, _ in asked.given],
            [tokens for _, _, tokens in asked.given],
        ]
