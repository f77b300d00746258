from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import login_throttle
from gateway.access.login_throttle import (
    ADDRESS,
    NAME,
    NAME_AT_ADDRESS,
    REGISTRATIONS,
    SECOND,
    Attempt,
    Bound,
    Counts,
    LoginThrottle,
    network,
)
from gateway.errors import RateLimitExceeded


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> LoginThrottle:
    return LoginThrottle(clock)


def tries(throttle: LoginThrottle, name: str = "n", address: str = "192.0.2.1") -> Attempt | None:
    """None where it may not begin."""
    try:
        return throttle.begin(name, address)
    except RateLimitExceeded:
        return None


def refusal(begin: Callable[[], object]) -> float:
    """After how many seconds one may come again."""
    with pytest.raises(RateLimitExceeded) as refused:
        begin()
    error = refused.value
    milliseconds = int(error.headers["retry-after-ms"])
    assert int(error.headers["retry-after"]) == -(-milliseconds // 1000)
    assert f"again in {error.headers['retry-after']} seconds" in error.message
    return milliseconds / 1000


def test_a_few_guesses_then_one_now_and_then(throttle: LoginThrottle, clock: Clock) -> None:
    assert all(tries(throttle) for _ in range(NAME_AT_ADDRESS.at_once))
    for _ in range(3):
        assert refusal(lambda: throttle.begin("n", "192.0.2.1")) == NAME_AT_ADDRESS.every
        clock.wait(NAME_AT_ADDRESS.every - 0.001)
        assert refusal(lambda: throttle.begin("n", "192.0.2.1")) == 0.001
        clock.wait(0.001)
        assert tries(throttle)
        assert not tries(throttle)
    clock.wait(NAME_AT_ADDRESS.every * 100)
    assert sum(tries(throttle) is not None for _ in range(50)) == NAME_AT_ADDRESS.at_once


def test_others_are_not_kept_out_by_it(throttle: LoginThrottle) -> None:
    while tries(throttle):
        pass
    assert tries(throttle, name="other")
    assert tries(throttle, address="192.0.2.2")


def test_a_success_clears_the_count_of_the_name(throttle: LoginThrottle) -> None:
    for _ in range(10):
        for _ in range(NAME_AT_ADDRESS.at_once - 1):
            assert tries(throttle)
        attempt = tries(throttle)
        assert attempt
        throttle.succeeded(attempt)


def test_many_addresses_guess_no_faster_than_a_name_may_be_tried(
    throttle: LoginThrottle, clock: Clock
) -> None:
    began = sum(tries(throttle, address=f"192.0.2.{n % 250}") is not None for n in range(500))
    assert began == NAME.at_once
    clock.wait(60)
    began = sum(tries(throttle, address=f"198.51.100.{n % 250}") is not None for n in range(500))
    assert began == 60 // NAME.every


def test_one_address_tries_no_more_names_than_it_may(throttle: LoginThrottle, clock: Clock) -> None:
    assert sum(tries(throttle, name=str(n)) is not None for n in range(500)) == ADDRESS.at_once
    clock.wait(60)
    assert sum(tries(throttle, name=str(n)) is not None for n in range(500)) == 60 // ADDRESS.every
    assert tries(throttle, name="0", address="192.0.2.2")


def test_whoever_got_in_somewhere_is_not_kept_out_there_by_others(throttle: LoginThrottle) -> None:
    attempt = tries(throttle, "n", "203.0.113.1")
    assert attempt
    throttle.succeeded(attempt)
    # Somebody guesses his password, from everywhere else, and other names from where he is.
    for number in range(2000):
        tries(throttle, address=f"192.0.2.{number % 250}")
        tries(throttle, name=str(number), address="203.0.113.1")
    assert not tries(throttle, address="198.51.100.1")
    assert not tries(throttle, name="other", address="203.0.113.1")
    assert sum(tries(throttle, "n", "203.0.113.1") is not None for _ in range(50)) == NAME_AT_ADDRESS.at_once


def test_what_has_told_nothing_does_not_count(throttle: LoginThrottle) -> None:
    for _ in range(1000):
        attempt = tries(throttle)
        assert attempt
        throttle.take_back(attempt)


def test_registrations_are_bounded_at_each_address(throttle: LoginThrottle, clock: Clock) -> None:
    for _ in range(REGISTRATIONS.at_once):
        throttle.begin_registration("192.0.2.1")
    assert refusal(lambda: throttle.begin_registration("192.0.2.1")) == REGISTRATIONS.every
    throttle.begin_registration("192.0.2.2")
    clock.wait(REGISTRATIONS.every)
    throttle.begin_registration("192.0.2.1")


def test_no_more_is_remembered_than_may_be(throttle: LoginThrottle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_throttle, "MOST_KEYS", 100)
    for number in range(1000):
        name, address = "n" * number, f"2001:db8:{number:x}::1"
        attempt = throttle.begin(name, address)
        if number % 2:
            throttle.succeeded(attempt)
        throttle.begin_registration(address)
    kept = (throttle._names_at_addresses, throttle._names, throttle._addresses, throttle._registrations)
    assert max(len(throttle._known), *(len(counts) for counts in kept)) == 100
    # The last ones are.
    while tries(throttle, address="192.0.2.9"):
        pass
    for number in range(50):
        tries(throttle, name=str(number))
    assert not tries(throttle, address="192.0.2.9")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "unknown", False),
    ],
)
def test_an_address_stands_for_its_network(one: str, other: str, same: bool) -> None:
    assert (network(one) == network(other)) is same


@given(
    st.integers(1, 8),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 90 * SECOND)), min_size=1, max_size=60),
)
def test_of_however_many_at_once_exactly_as_many_begin_as_may(
    at_once: int, every: int, moments: list[tuple[int, int]]
) -> None:
    """In whatever order they come; and who comes when he was told to begins."""
    clock = Clock()
    counts = Counts(Bound(at_once, every), clock)
    start, begun = clock.now, 0

    async def attempt() -> bool:
        await asyncio.sleep(0)
        if counts.wait(b"k"):
            return False
        counts.add(b"k")
        # As long as it takes to hash; it counts since it has begun.
        await asyncio.sleep(0)
        return True

    async def attempts(number: int) -> int:
        return sum(await asyncio.gather(*(attempt() for _ in range(number))))

    async def run() -> None:
        nonlocal begun
        for number, pause in moments:
            clock.now += pause
            now = await attempts(number)
            begun += now
            assert begun <= at_once + (clock.now - start) // (every * SECOND)
            assert now == number or counts.wait(b"k") > 0
            wait = counts.wait(b"k")
            if now < number:
                clock.now += wait - 1
                assert await attempts(3) == 0
                clock.now += 1
                assert await attempts(3) == 1
                begun += 1

    asyncio.run(run())
