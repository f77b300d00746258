from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.circuit_breaker import (
    FAILURES,
    FIRST_PAUSE_SECONDS,
    MOST_PAUSE_SECONDS,
    WINDOW,
    CircuitBreaker,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def begun(breaker: CircuitBreaker) -> int:
    number = breaker.begin()
    assert number is not None
    return number


def state_of(breaker: CircuitBreaker) -> str:
    return breaker.state


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(begun(breaker))


def test_it_opens_after_failures_in_a_row(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURES - 1)
    breaker.succeeded(begun(breaker))
    fail(breaker, FAILURES - 1)
    assert state_of(breaker) == "closed"
    fail(breaker)
    assert (state_of(breaker), breaker.openings, breaker.failures) == ("open", 1, 2 * FAILURES - 1)
    assert breaker.begin() is None


def test_it_opens_where_half_of_many_fail(breaker: CircuitBreaker) -> None:
    for _ in range(WINDOW // 2 - 1):
        fail(breaker)
        breaker.succeeded(begun(breaker))
    assert state_of(breaker) == "closed"
    breaker.succeeded(begun(breaker))
    fail(breaker)
    assert state_of(breaker) == "open"


def test_after_its_pause_one_request_decides(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now += FIRST_PAUSE_SECONDS
    assert state_of(breaker) == "half-open"
    probe = begun(breaker)
    assert breaker.begin() is None
    breaker.answers(probe)
    assert state_of(breaker) == "closed"
    breaker.succeeded(probe)
    fail(breaker, FAILURES - 1)
    assert state_of(breaker) == "closed"


def test_a_probe_that_tells_nothing_leaves_its_place_to_another(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, FAILURES)
    clock.now += FIRST_PAUSE_SECONDS
    breaker.released(begun(breaker))
    assert begun(breaker)


def test_the_pause_doubles_up_to_a_bound_until_an_answer_came_whole(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, FAILURES)
    pauses = []
    for _ in range(10):
        pauses.append(breaker.pause_seconds)
        clock.now += breaker.pause_seconds
        fail(breaker)
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert pauses[-1] == MOST_PAUSE_SECONDS
    clock.now += breaker.pause_seconds
    breaker.succeeded(begun(breaker))
    fail(breaker, FAILURES)
    assert breaker.pause_seconds == FIRST_PAUSE_SECONDS


def test_what_began_before_it_opened_tells_nothing_of_the_time_after(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    old = [begun(breaker) for _ in range(3 * FAILURES)]
    for number in old[:FAILURES]:
        breaker.failed(number)
    assert breaker.openings == 1
    for number in old[FAILURES : 2 * FAILURES]:
        breaker.failed(number)
    for number in old[2 * FAILURES :]:
        breaker.succeeded(number)
    assert (state_of(breaker), breaker.openings, breaker.pause_seconds) == ("open", 1, FIRST_PAUSE_SECONDS)
    clock.now += FIRST_PAUSE_SECONDS
    assert state_of(breaker) == "half-open"


class Requests(RuleBasedStateMachine):
    """Any requests, ended in any order at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(self.clock)
        self.running: list[int] = []

    @rule()
    def begin(self) -> None:
        before = self.breaker.state
        if (number := self.breaker.begin()) is not None:
            assert before != "open"
            self.running.append(number)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "failed", "released", "answers"]))
    def end(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.sampled_from(self.running))
        getattr(self.breaker, how)(number)
        if how != "answers":
            self.running.remove(number)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def is_never_left_alone_for_good(self) -> None:
        assert 0 <= self.breaker.pause_seconds <= MOST_PAUSE_SECONDS

    def teardown(self) -> None:
        for number in self.running:
            self.breaker.released(number)
        self.clock.now += MOST_PAUSE_SECONDS
        assert self.breaker.lets_through


TestRequests = Requests.TestCase
