"""Two gateways that share limits by way of one real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gateway.access.caller import Caller
from gateway.errors import RateLimitExceeded, Unavailable
from gateway.limits import shared
from gateway.limits.accounts import Accounts
from gateway.limits.clock import Clock
from gateway.limits.limiter import Reservation
from gateway.limits.shared import SharedLimiter
from persistence.caller_limits import UNLIMITED, Limits
from persistence.database import Database, DatabaseUnavailable
from persistence.limit_windows import COUNTED_SECONDS, Asked, LimitWindows, Told
from tests.gateway.limits.moments import caller
from tests.persistence.past import connected

NewGateway = Callable[..., Awaitable[SharedLimiter]]


class Windows(LimitWindows):
    """PostgreSQL is ``away`` when the test says so; ``asked`` is how often it was asked."""

    away = False
    asked = 0

    async def exchange(self, asked: Asked) -> Told:
        if self.away:
            raise DatabaseUnavailable("away")
        self.asked += 1
        return await super().exchange(asked)


@pytest.fixture
async def gateway(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NewGateway]:
    """Starts one more of two, by a clock of its own where one is given."""
    monkeypatch.setattr(shared, "RETRY_SECONDS", 0.02)
    made: list[SharedLimiter] = []

    async def make(clock: Clock | None = None) -> SharedLimiter:
        windows = Windows(database, len(made) + 1, 30.0)
        limiter = SharedLimiter(Accounts(UNLIMITED, UNLIMITED, UNLIMITED), 1024, windows, 2, clock)
        made.append(limiter)
        await limiter.start()
        return limiter

    async with connected(database) as connection:
        await connection.execute("TRUNCATE limit_use")
    yield make
    for one in made:
        await one.stop()


@pytest.fixture
async def one(gateway: NewGateway) -> SharedLimiter:
    return await gateway()


@pytest.fixture
async def other(gateway: NewGateway) -> SharedLimiter:
    return await gateway()


def windows_of(limiter: SharedLimiter) -> Windows:
    windows: Any = limiter._windows
    assert isinstance(windows, Windows)
    return windows


async def use_of(database: Database) -> dict[str, tuple[int, int, int]]:
    """Requests, tokens and running requests, by account, as PostgreSQL has them."""
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT * FROM limit_use")
    return {row["account"]: (sum(row["requests"]), sum(row["tokens"]), sum(row["held"])) for row in rows}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():
            await asyncio.sleep(0.01)


async def admitted(limiter: SharedLimiter, asks: Caller, tokens: int) -> Reservation | None:
    """None where it is refused."""
    try:
        return await limiter.reserve(asks, tokens)
    except (RateLimitExceeded, Unavailable):
        return None


async def test_together_they_let_in_no_more_than_the_limit(one: SharedLimiter, other: SharedLimiter) -> None:
    asks = caller(Limits(tokens_per_minute=100), Limits(requests_per_minute=30))
    asked = [admitted(random.choice((one, other)), asks, 9) for _ in range(60)]
    found = [reservation for reservation in await asyncio.gather(*asked) if reservation is not None]
    assert len(found) == 11


async def test_what_one_gives_back_the_other_may_use(
    one: SharedLimiter, other: SharedLimiter, database: Database
) -> None:
    asks = caller(Limits(tokens_per_minute=100, tokens_per_day=100))
    reservation = await one.reserve(asks, 100)
    assert await admitted(other, asks, 40) is None
    reservation.settle(60)
    reservation.settle(0)

    async def fits() -> bool:
        return await admitted(other, asks, 40) is not None

    await until(fits)
    assert await admitted(other, asks, 1) is await admitted(one, asks, 1) is None


async def test_when_all_have_ended_nothing_is_left_but_what_was_used(
    one: SharedLimiter, other: SharedLimiter, database: Database
) -> None:
    """With cancels while PostgreSQL is asked."""
    asks = caller(Limits(tokens_per_minute=10_000, concurrent_requests=50), Limits(requests_per_minute=500))
    used: list[int] = []

    async def request(number: int) -> None:
        reservation = await random.choice((one, other)).reserve(asks, 100)
        try:
            await asyncio.sleep(random.random() / 50)
            used.append(number)
        finally:
            reservation.settle(number if number in used else 0)

    tasks = [asyncio.create_task(request(number)) for number in range(1, 41)]
    for task in tasks[::3]:
        await asyncio.sleep(0.001)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    expected = {
        f"key:{asks.key_id and asks.key_id.hex}": (0, sum(used), 0),
        f"user:{asks.user_id and asks.user_id.hex}": (len(used), 0, 0),
    }

    async def settled() -> bool:
        return await use_of(database) == expected

    await until(settled)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_nobody_holds_is_not_forgotten_while_somebody_asks_for_it(
    one: SharedLimiter, database: Database, cancelled: bool
) -> None:
    """What is given back would not be told."""
    asks = caller(Limits(tokens_per_minute=100))
    asking = asyncio.create_task(one.reserve(asks, 50))
    # It is about to ask PostgreSQL.
    await asyncio.sleep(0)
    if cancelled:
        asking.cancel()
    await one._tell_all()
    if cancelled:
        with pytest.raises(asyncio.CancelledError):
            await asking
    else:
        (await asking).settle(10)

    async def told() -> bool:
        return await use_of(database) == {
            f"key:{asks.key_id and asks.key_id.hex}": (0, 0 if cancelled else 10, 0)
        }

    await until(told)


async def test_running_requests_are_those_of_both(
    one: SharedLimiter, other: SharedLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = caller(Limits(concurrent_requests=2))
    first, _ = await one.reserve(asks, 1), await other.reserve(asks, 1)
    with pytest.raises(RateLimitExceeded, match="2 requests at once"):
        await other.reserve(asks, 1)
    assert await admitted(one, asks, 1) is None
    first.settle(1)
    # At once, as whoever has read the end of an answer asks again, and however long PostgreSQL takes.
    monkeypatch.setattr(shared, "PLACE_TRIES", 400)
    await other.reserve(asks, 1)


async def test_not_every_request_asks_where_much_is_left(one: SharedLimiter) -> None:
    asks = caller(Limits(requests_per_minute=10_000, tokens_per_minute=10**7))
    for _ in range(100):
        (await one.reserve(asks, 100)).settle(50)
    assert windows_of(one).asked <= 20


async def test_what_a_gateway_had_that_died_is_free_after_a_minute(
    one: SharedLimiter, other: SharedLimiter, gateway: NewGateway, database: Database
) -> None:
    """It had taken more than it had let in, and says nothing of it any more."""
    asks = caller(Limits(tokens_per_minute=6400, concurrent_requests=64))
    await one.reserve(asks, 100)
    windows_of(one).away = True
    assert list((await use_of(database)).values()) == [(0, 300, 1)]
    found = [await admitted(other, asks, 100) is not None for _ in range(70)]
    assert found.count(True) == 61
    async with connected(database) as connection:
        await connection.execute(
            "UPDATE limit_use SET seconds = ARRAY(SELECT one - $1 FROM unnest(seconds) AS one),"
            " held_until = ARRAY(SELECT one - $1 FROM unnest(held_until) AS one)",
            COUNTED_SECONDS + 1,
        )
    third = await gateway()
    assert [await admitted(third, asks, 100) is not None for _ in range(70)].count(True) == 64


@pytest.mark.parametrize("outage", ["both", "one"])
async def test_while_postgresql_is_away_no_more_than_one_and_a_half_limits_are_let_in(
    one: SharedLimiter, other: SharedLimiter, outage: str
) -> None:
    """All in one minute: PostgreSQL is there, is away for both or for one, and is back."""
    limits = Limits(tokens_per_minute=100)
    asks = caller(limits)
    let_in = 0

    async def ask(*limiters: SharedLimiter) -> int:
        found = [await admitted(limiter, asks, 5) for _ in range(30) for limiter in limiters]
        return 5 * sum(reservation is not None for reservation in found)

    let_in += await ask(one)
    assert let_in == 100
    for limiter in (one, other) if outage == "both" else (other,):
        windows_of(limiter).away = True
    alone = await ask(one, other)
    assert alone == 50, "the part of the one that has let in nothing so far"
    windows_of(one).away = windows_of(other).away = False

    async def back() -> bool:
        return not (one.away or other.away)

    await until(back)
    assert await ask(one, other) == 0
    assert let_in + alone <= 150


async def test_what_was_let_in_meanwhile_is_told_when_postgresql_is_back(
    one: SharedLimiter, other: SharedLimiter, database: Database
) -> None:
    asks = caller(Limits(requests_per_minute=10, tokens_per_minute=100))
    windows_of(one).away = True
    kept, ended = await one.reserve(asks, 30), await one.reserve(asks, 20)
    with pytest.raises(Unavailable, match="part of them is used") as refusal:
        await one.reserve(asks, 30)
    assert "retry-after" in refusal.value.headers
    ended.settle(10)
    windows_of(one).away = False
    name = f"key:{asks.key_id and asks.key_id.hex}"

    async def told() -> bool:
        return (await use_of(database)).get(name) == (2, 40, 0)

    await until(told)
    assert await admitted(other, asks, 61) is None
    kept.settle(20)

    async def settled() -> bool:
        return (await use_of(database)).get(name) == (2, 30, 0)

    await until(settled)


async def test_the_headers_tell_of_both_gateways(gateway: NewGateway) -> None:
    # What one has taken it keeps.
    still = Clock(lambda: 10**15)
    one, other = await gateway(still), await gateway(still)
    asks = caller(Limits(requests_per_minute=10, tokens_per_minute=100))
    await one.reserve(asks, 30)
    headers = (await other.reserve(asks, 30)).headers
    assert headers["x-ratelimit-remaining-requests"] == "8"
    # What one has taken in advance, a share of the limit, is not the other's.
    assert headers["x-ratelimit-remaining-tokens"] == "37"
    with pytest.raises(RateLimitExceeded, match="100 tokens per minute, 50 asked for, 40 left") as refusal:
        await one.reserve(asks, 50)
    seconds = int(refusal.value.headers["retry-after-ms"]) / 1000
    assert 60 < seconds <= COUNTED_SECONDS + 1
    assert refusal.value.headers["x-ratelimit-remaining-tokens"] == "40"


async def test_a_gateway_that_ends_gives_back_what_it_has_not_used(
    one: SharedLimiter, database: Database
) -> None:
    asks = caller(Limits(requests_per_minute=640, tokens_per_minute=6400))
    (await one.reserve(asks, 100)).settle(70)
    await one.stop()
    assert list((await use_of(database)).values()) == [(1, 70, 0)]
