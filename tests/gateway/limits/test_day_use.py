"""The day goes on where a gateway has ended, and where another one has counted."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from gateway.errors import RateLimitExceeded
from gateway.limits import day_use
from gateway.limits.accounts import Accounts
from gateway.limits.chosen import UNKNOWN, anonymous_limits, new_limiter
from gateway.limits.clock import Clock
from gateway.limits.day_use import DayUse
from gateway.limits.memory import MemoryLimiter
from gateway.limits.shared import SharedLimiter
from gateway.settings import InvalidSetting, load
from persistence import limit_days
from persistence.caller_limits import UNLIMITED, Limits
from persistence.database import Database, DatabaseUnavailable
from tests.gateway.limits.moments import Moments, caller
from tests.persistence.past import connected

ASKS = caller(Limits(tokens_per_day=100))
NAME = f"key:{UUID(int=1).hex}"


@pytest.fixture(autouse=True)
async def nothing_used(database: Database) -> None:
    async with connected(database) as connection:
        await connection.execute("TRUNCATE limit_use")


async def started(database: Database, clock: Clock) -> MemoryLimiter:
    accounts = Accounts(UNLIMITED, UNLIMITED, UNLIMITED)
    limiter = MemoryLimiter(accounts, 1024, clock, DayUse(database, 30.0, clock))
    await limiter.start()
    return limiter


async def test_a_restart_does_not_begin_the_day_anew(database: Database) -> None:
    moments = Moments()
    limiter = await started(database, moments.clock)
    (await limiter.reserve(ASKS, 90)).settle(60)
    # It is running when the gateway ends.
    await limiter.reserve(ASKS, 10)
    await limiter.stop()
    limiter = await started(database, moments.clock)
    with pytest.raises(RateLimitExceeded, match="31 asked for, 30 left"):
        await limiter.reserve(ASKS, 31)
    await limiter.reserve(ASKS, 30)
    await limiter.stop()
    moments.wait(86_400)
    limiter = await started(database, moments.clock)
    await limiter.reserve(ASKS, 100)
    await limiter.stop()


async def test_what_is_counted_is_written_behind_the_requests_also_after_an_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_use, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(day_use, "RETRY_SECONDS", 0.01)
    add, failures = limit_days.add, 0

    async def fail(*arguments: object) -> None:
        nonlocal failures
        failures += 1
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(limit_days, "add", fail)
    moments = Moments()
    limiter = await started(database, moments.clock)
    (await limiter.reserve(ASKS, 90)).settle(60)
    async with asyncio.timeout(30):
        while failures < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(limit_days, "add", add)
        while await limit_days.read(database, moments.clock.day, 30.0) != {NAME: 60}:
            await asyncio.sleep(0.01)
    await limiter.stop()


async def test_gateways_add_up_and_a_day_that_has_passed_changes_nothing(database: Database) -> None:
    for _ in range(2):
        await limit_days.add(database, {("a", 20_000): 10, ("b", 20_000): 1}, 30.0)
    await limit_days.add(database, {("a", 20_001): 5}, 30.0)
    await limit_days.add(database, {("a", 20_000): 10}, 30.0)
    assert await limit_days.read(database, 20_001, 30.0) == {"a": 5}
    assert await limit_days.read(database, 20_000, 30.0) == {"b": 2}


def test_the_store_is_the_one_that_was_chosen(database: Database) -> None:
    assert type(new_limiter(load(), database)) is MemoryLimiter
    assert type(new_limiter(load({"limits_store": "postgresql"}), database)) is SharedLimiter


def test_whoever_need_not_say_who_he_is_has_limits_beyond_loopback() -> None:
    open_to_all = {"host": "0.0.0.0", "authentication": False}
    assert anonymous_limits(load()) == UNLIMITED
    assert anonymous_limits(load(open_to_all)) == UNKNOWN
    assert anonymous_limits(load({"host": "0.0.0.0"})) == UNLIMITED
    assert anonymous_limits(load(open_to_all | {"anonymous_limits": "{}"})) == UNLIMITED
    given = load({"anonymous_limits": '{"requests_per_minute": 5}'})
    assert anonymous_limits(given) == Limits(requests_per_minute=5)


@pytest.mark.parametrize(
    "value", ['{"requests": 5}', '{"requests_per_minute": 0}', '{"tokens_per_day": "5"}', "[]", "5"]
)
def test_limits_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(InvalidSetting, match="key_limits"):
        load({"key_limits": value})
