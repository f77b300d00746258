"""What a caller may rely on, and an operator."""

from __future__ import annotations

import asyncio

import pytest

from gateway.access.caller import ANONYMOUS, Caller, Scope
from gateway.errors import InvalidRequest, RateLimitExceeded
from gateway.limits import accounts
from gateway.limits.limiter import UNLIMITED as UNLIMITED_RESERVATION
from gateway.limits.memory import MemoryLimiter
from persistence.caller_limits import Limits
from tests.gateway.limits.moments import OTHER_KEY, Moments, caller, limiter_of


@pytest.fixture
def moments() -> Moments:
    return Moments()


@pytest.fixture
def limiter(moments: Moments) -> MemoryLimiter:
    return limiter_of(moments)


async def refused(limiter: MemoryLimiter, caller: Caller, tokens: int) -> RateLimitExceeded:
    with pytest.raises(RateLimitExceeded) as refusal:
        await limiter.reserve(caller, tokens)
    return refusal.value


def wait_of(error: RateLimitExceeded) -> float:
    return int(error.headers["retry-after-ms"]) / 1000


async def test_five_at_once_on_a_limit_of_100_tokens_never_pass_it(limiter: MemoryLimiter) -> None:
    one = caller(Limits(tokens_per_minute=100))
    found = await asyncio.gather(*(limiter.reserve(one, 30) for _ in range(5)), return_exceptions=True)
    assert sum(not isinstance(result, RateLimitExceeded) for result in found) == 3


async def test_what_was_not_used_is_there_again_at_once(limiter: MemoryLimiter) -> None:
    one = caller(Limits(tokens_per_minute=100))
    reservation = await limiter.reserve(one, 90)
    await refused(limiter, one, 30)
    reservation.settle(20)
    await limiter.reserve(one, 80)
    await refused(limiter, one, 1)


async def test_settling_twice_gives_back_once(limiter: MemoryLimiter) -> None:
    one = caller(Limits(tokens_per_minute=100, concurrent_requests=2))
    reservation = await limiter.reserve(one, 50)
    reservation.settle(50)
    reservation.settle(0)
    await refused(limiter, one, 51)


async def test_more_than_was_reserved_counts_too(limiter: MemoryLimiter) -> None:
    """As where another server has answered, whose tokens are others."""
    one = caller(Limits(tokens_per_minute=100))
    (await limiter.reserve(one, 10)).settle(70)
    await refused(limiter, one, 31)
    await limiter.reserve(one, 30)


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=3), Limits(tokens_per_minute=30)])
async def test_it_fits_after_as_long_as_was_told_and_not_before(
    limiter: MemoryLimiter, moments: Moments, limits: Limits
) -> None:
    one = caller(limits)
    for _ in range(3):
        (await limiter.reserve(one, 10)).settle(10)
        moments.wait(7.125)
    wait = wait_of(await refused(limiter, one, 10))
    assert wait == 60 - 3 * 7.125
    moments.wait(wait - 0.001)
    await refused(limiter, one, 10)
    moments.wait(0.001)
    await limiter.reserve(one, 10)


async def test_the_wait_is_as_long_as_this_very_request_needs(
    limiter: MemoryLimiter, moments: Moments
) -> None:
    one = caller(Limits(tokens_per_minute=100))
    for tokens in (10, 80, 10):
        (await limiter.reserve(one, tokens)).settle(tokens)
        moments.wait(10)
    assert wait_of(await refused(limiter, one, 10)) == 30
    assert wait_of(await refused(limiter, one, 11)) == 40
    assert wait_of(await refused(limiter, one, 91)) == 50


async def test_one_more_runs_when_one_has_ended(limiter: MemoryLimiter, moments: Moments) -> None:
    one = caller(Limits(concurrent_requests=2))
    first = await limiter.reserve(one, 1)
    moments.wait(4)
    first.settle(1)
    second = await limiter.reserve(one, 1)
    moments.wait(1)
    # One that never ran says nothing of how long others take.
    (await limiter.reserve(one, 1)).settle(0)
    await limiter.reserve(one, 1)
    # The second will end when it has taken as long as the first.
    assert wait_of(await refused(limiter, one, 1)) == 3
    second.settle(1)
    await limiter.reserve(one, 1)


async def test_a_limit_of_the_day_holds_until_midnight_of_utc(
    limiter: MemoryLimiter, moments: Moments
) -> None:
    one = caller(Limits(tokens_per_day=100))
    (await limiter.reserve(one, 90)).settle(80)
    error = await refused(limiter, one, 21)
    assert error.code == "tokens_per_day_exceeded"
    assert error.headers["x-should-retry"] == "false"
    assert wait_of(error) == 12 * 3600
    assert "100 tokens per day, 21 asked for, 20 left. Try again in 12h0m0s" in error.message
    moments.wait(12 * 3600 - 0.001)
    await refused(limiter, one, 21)
    moments.wait(0.001)
    await limiter.reserve(one, 100)


async def test_what_ends_after_midnight_is_of_the_day_before(
    limiter: MemoryLimiter, moments: Moments
) -> None:
    one = caller(Limits(tokens_per_day=100))
    moments.wait(12 * 3600 - 1)
    late = await limiter.reserve(one, 100)
    moments.wait(2)
    late.settle(10)
    await limiter.reserve(one, 100)
    await refused(limiter, one, 1)


async def test_the_limits_of_the_user_hold_for_all_his_keys_and_logins(limiter: MemoryLimiter) -> None:
    of_user = Limits(tokens_per_minute=100)
    with_key, with_other = caller(user=of_user), caller(user=of_user, key_id=OTHER_KEY)
    with_cookie = caller(user=of_user, key_id=None)
    for one in (with_key, with_other, with_cookie):
        await limiter.reserve(one, 30)
    for one in (with_key, with_other, with_cookie):
        assert "limit of this user" in (await refused(limiter, one, 30)).message


async def test_what_one_limit_refuses_takes_nothing_from_the_others(limiter: MemoryLimiter) -> None:
    both = caller(Limits(tokens_per_minute=100), Limits(tokens_per_minute=50))
    only_key = caller(Limits(tokens_per_minute=100))
    await limiter.reserve(both, 40)
    await refused(limiter, both, 40)
    await limiter.reserve(only_key, 60)


async def test_the_wait_is_that_of_the_limit_that_takes_longest(
    limiter: MemoryLimiter, moments: Moments
) -> None:
    one = caller(Limits(requests_per_minute=1, tokens_per_day=10))
    (await limiter.reserve(one, 10)).settle(10)
    assert (await refused(limiter, one, 10)).code == "tokens_per_day_exceeded"


@pytest.mark.parametrize("limits", [Limits(tokens_per_minute=100), Limits(tokens_per_day=100)])
async def test_more_than_the_limit_is_refused_for_good(limiter: MemoryLimiter, limits: Limits) -> None:
    with pytest.raises(InvalidRequest, match=r"up to 101 tokens.*limit of this key is 100") as refusal:
        await limiter.reserve(caller(limits), 101)
    assert refusal.value.code == "request_larger_than_limit"
    assert refusal.value.param == "max_tokens"
    assert "retry-after" not in refusal.value.headers
    await limiter.reserve(caller(limits), 100)


async def test_the_headers_are_openais_and_of_the_tightest_limit(
    limiter: MemoryLimiter, moments: Moments
) -> None:
    one = caller(
        Limits(requests_per_minute=10, tokens_per_minute=1000),
        Limits(requests_per_minute=2, tokens_per_day=900),
    )
    (await limiter.reserve(one, 500)).settle(400)
    moments.wait(1.5)
    reservation = await limiter.reserve(one, 100)
    expected = {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "900",
        "x-ratelimit-remaining-tokens": "400",
        "x-ratelimit-reset-tokens": "11h59m58.5s",
    }
    assert reservation.headers == expected
    error = await refused(limiter, one, 100)
    assert error.headers.items() >= expected.items() - {("x-ratelimit-reset-requests", "1m0s")}
    assert error.headers["retry-after-ms"] == "58500"
    assert error.headers["retry-after"] == "59"


async def test_an_admin_is_limited_as_his_key_is(limiter: MemoryLimiter) -> None:
    admin = Caller(None, OTHER_KEY, frozenset(Scope), key_limits=Limits(requests_per_minute=1))
    await limiter.reserve(admin, 1)
    await refused(limiter, admin, 1)


async def test_whoever_has_no_limits_is_not_counted(limiter: MemoryLimiter) -> None:
    assert await limiter.reserve(caller(), 10**9) is UNLIMITED_RESERVATION
    assert await limiter.reserve(ANONYMOUS, 10**9) is UNLIMITED_RESERVATION
    assert limiter.answer_tokens(caller(Limits(requests_per_minute=5)), 10, 1) is None
    assert len(limiter.accounts) == 1


async def test_an_own_limit_stands_in_place_of_the_default_and_only_that(moments: Moments) -> None:
    defaults = Limits(requests_per_minute=1, concurrent_requests=1)
    limiter = MemoryLimiter(accounts.Accounts(defaults, Limits(), Limits()), 1024, moments.clock)
    one = caller(Limits(requests_per_minute=2))
    (await limiter.reserve(one, 1)).settle(1)
    await limiter.reserve(one, 1)
    error = await refused(limiter, one, 1)
    assert "2 requests per minute" in error.message
    await limiter.reserve(caller(key_id=OTHER_KEY), 1)
    assert "1 requests" in (await refused(limiter, caller(key_id=OTHER_KEY), 1)).message


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
async def test_the_anonymous_are_told_apart_by_their_network(
    moments: Moments, one: str, other: str, same: bool
) -> None:
    limiter = limiter_of(moments, anonymous=Limits(requests_per_minute=1))
    await limiter.reserve(Caller(address=one), 1)
    if same:
        await refused(limiter, Caller(address=other), 1)
    else:
        await limiter.reserve(Caller(address=other), 1)


async def test_addresses_take_a_bounded_amount_of_memory(
    moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever has a request that runs is not forgotten, nor is a key."""
    monkeypatch.setattr(accounts, "MOST_KEYS", 10)
    limiter = limiter_of(moments, anonymous=Limits(requests_per_minute=1, concurrent_requests=2))
    running = await limiter.reserve(Caller(address="192.0.2.1"), 1)
    await limiter.reserve(caller(Limits(requests_per_minute=1)), 1)
    for number in range(100):
        (await limiter.reserve(Caller(address=f"198.51.100.{number}"), 1)).settle(1)
    assert len(limiter.accounts) <= 12
    await refused(limiter, Caller(address="192.0.2.1"), 1)
    await refused(limiter, caller(Limits(requests_per_minute=1)), 1)
    running.settle(1)
    moments.wait(60)
    for number in range(100):
        (await limiter.reserve(Caller(address=f"198.51.100.{number}"), 0)).settle(0)
    assert len(limiter.accounts) <= 12


async def test_an_answer_of_unnamed_length_fits_the_limits(limiter: MemoryLimiter) -> None:
    def most(limits: Limits, prompt_tokens: int = 100, answers: int = 1) -> int | None:
        return limiter.answer_tokens(caller(limits), prompt_tokens, answers)

    assert most(Limits(tokens_per_minute=20_000)) == 1024
    assert most(Limits(tokens_per_minute=20_000), answers=30) == (20_000 - 100) // 30
    assert most(Limits(tokens_per_minute=500)) == 400
    assert most(Limits(tokens_per_minute=50)) == 1
    daily = Limits(tokens_per_day=2000)
    assert most(daily) == 1024
    await limiter.reserve(caller(daily), 1500)
    assert most(daily) == 400


async def test_a_window_has_few_entries_however_many_come(limiter: MemoryLimiter, moments: Moments) -> None:
    one = caller(Limits(requests_per_minute=10**6))
    for _ in range(3000):
        (await limiter.reserve(one, 1)).settle(1)
        moments.wait(0.03)
    ((account, _),) = limiter.accounts.of(one, moments.now, 0)
    assert len(account.window) <= 241
    # In the last minute, and no more than a quarter of a second before it.
    assert 2000 <= account.window.requests <= 2010


async def test_what_is_kept_as_one_counts_until_the_last_of_it_is_a_minute_old(
    limiter: MemoryLimiter, moments: Moments
) -> None:
    one = caller(Limits(requests_per_minute=2))
    for _ in range(2):
        (await limiter.reserve(one, 1)).settle(1)
        moments.wait(0.125)
    moments.wait(59.75)
    assert wait_of(await refused(limiter, one, 1)) == 0.125
