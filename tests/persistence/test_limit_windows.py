"""What several gateways take of one account's limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import pytest

from persistence.caller_limits import Limits
from persistence.database import Database
from persistence.limit_windows import COUNTED_SECONDS, Asked, LimitWindows, Told
from tests.persistence.past import connected

NewWindows = Callable[[], LimitWindows]


@pytest.fixture
async def windows(database: Database) -> AsyncIterator[NewWindows]:
    """Makes the view of one more gateway."""
    made: list[LimitWindows] = []

    def make() -> LimitWindows:
        made.append(LimitWindows(database, len(made) + 1, 30.0))
        return made[-1]

    async with connected(database) as connection:
        await connection.execute("TRUNCATE limit_use")
    yield make
    for one in made:
        one.close()


async def past(database: Database, seconds: int) -> None:
    """As if what was taken had been taken so much earlier."""
    async with connected(database) as connection:
        await connection.execute(
            "UPDATE limit_use SET seconds = ARRAY(SELECT one - $1 FROM unnest(seconds) AS one),"
            " held_until = ARRAY(SELECT one - $1 FROM unnest(held_until) AS one)",
            seconds,
        )


def used(told: Told) -> tuple[int, int]:
    return sum(requests for _, requests, _ in told.taken), sum(tokens for _, _, tokens in told.taken)


async def test_however_many_ask_at_once_no_more_is_granted_than_there_is(windows: NewWindows) -> None:
    limits = Limits(requests_per_minute=50, tokens_per_minute=100)

    async def take(gateway: LimitWindows) -> int:
        told = [await gateway.exchange(Asked("a", limits, 1, 3)) for _ in range(20)]
        return sum(one.tokens for one in told if one.granted)

    assert sum(await asyncio.gather(*(take(windows()) for _ in range(4)))) == 99
    assert used(await windows().exchange(Asked("a", limits))) == (33, 99)


async def test_it_is_all_or_nothing(windows: NewWindows) -> None:
    one = windows()
    limits = Limits(requests_per_minute=1, tokens_per_minute=100)
    assert (await one.exchange(Asked("a", limits, 1, 10))).granted
    refused = await one.exchange(Asked("a", limits, 1, 10))
    assert (refused.granted, refused.requests, refused.tokens, used(refused)) == (False, 0, 0, (1, 10))


async def test_what_is_given_back_can_be_taken_by_others(windows: NewWindows) -> None:
    one, other = windows(), windows()
    limits = Limits(tokens_per_minute=100, tokens_per_day=100)
    first = await one.exchange(Asked("a", limits, 1, 100))
    assert not (await other.exchange(Asked("a", limits, 1, 1))).granted
    ((second, _, _),) = first.taken
    await one.exchange(Asked("a", limits, given=[(second, 0, 30), (second, 0, 10)]))
    told = await other.exchange(Asked("a", limits, 1, 40))
    assert (told.granted, told.day_tokens, used(told)) == (True, 100, (2, 100))


async def test_what_is_given_back_too_late_makes_no_more_of_the_minute(
    database: Database, windows: NewWindows
) -> None:
    one = windows()
    limits = Limits(tokens_per_minute=100)
    first = await one.exchange(Asked("a", limits, 1, 100))
    ((second, _, _),) = first.taken
    await past(database, 1000)
    assert (await one.exchange(Asked("a", limits, 1, 100))).granted
    told = await one.exchange(Asked("a", limits, given=[(second - 1000, 0, 50)]))
    assert (used(told), told.day_tokens) == ((1, 100), 150)


async def test_it_counts_for_a_minute_and_as_long_as_it_may_be_used(
    database: Database, windows: NewWindows
) -> None:
    one, limits = windows(), Limits(tokens_per_minute=100)
    await one.exchange(Asked("a", limits, 1, 100))
    await past(database, COUNTED_SECONDS - 1)
    assert not (await one.exchange(Asked("a", limits, 1, 1))).granted
    await past(database, 2)
    assert (await one.exchange(Asked("a", limits, 1, 100))).granted


async def test_more_than_was_asked_for_is_granted_where_much_is_left(windows: NewWindows) -> None:
    one, limits = windows(), Limits(requests_per_minute=100, tokens_per_minute=1000)
    asked = Asked("a", limits, 1, 10, spare_requests=5, spare_tokens=200)
    granted = [await one.exchange(asked) for _ in range(4)]
    assert [(told.requests, told.tokens) for told in granted] == [(6, 210), (6, 210), (1, 10), (1, 10)]


async def test_running_requests_are_those_of_all_gateways_that_live(
    database: Database, windows: NewWindows
) -> None:
    one, other = windows(), windows()
    limits = Limits(concurrent_requests=3)
    assert (await one.exchange(Asked("a", limits, 1, 1, places=2))).granted
    assert (await other.exchange(Asked("a", limits, 1, 1, places=1))).granted
    refused = await other.exchange(Asked("a", limits, 1, 1, places=2, places_else=1))
    assert (refused.granted, refused.places_elsewhere) == (False, 2)
    await one.exchange(Asked("a", limits, places=1))
    assert (await other.exchange(Asked("a", limits, 1, 1, places=2, places_else=1))).granted
    # The first one says nothing any more.
    await past(database, 31)
    assert (await other.exchange(Asked("a", limits, 1, 1, places=3, places_else=2))).granted


async def test_a_debt_is_counted_though_it_passes_the_limit(windows: NewWindows) -> None:
    one, limits = windows(), Limits(requests_per_minute=10, tokens_per_minute=100, tokens_per_day=1000)
    told = await one.exchange(Asked("a", limits, 1, 10, debt=(2, 150)))
    assert (told.granted, used(told), told.day_tokens) == (False, (2, 150), 150)


async def test_another_account_is_another_one(windows: NewWindows) -> None:
    one, limits = windows(), Limits(tokens_per_minute=100)
    assert (await one.exchange(Asked("a", limits, 1, 100))).granted
    assert (await one.exchange(Asked("b", limits, 1, 100))).granted


async def test_a_broken_connection_is_replaced(windows: NewWindows) -> None:
    one, limits = windows(), Limits(tokens_per_minute=100)
    await one.exchange(Asked("a", limits, 1, 50))
    with closing(one):
        pass
    assert (await one.exchange(Asked("a", limits, 1, 50))).granted
