"""Who is let in to the engine, when, and who is refused."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import UUID

import pytest

from engine.base import Usage
from gateway.access.caller import Caller
from gateway.admission.fair_queue import ALONE_SECONDS, FairQueue, admission_of, kept
from gateway.admission.queue import AllAtOnce, Place, Work
from gateway.errors import GatewayError, RateLimitExceeded, Unavailable
from gateway.settings import load
from tests.virtual_time import run_virtually

GREEDY, POLITE, THIRD = (Caller(user_id=UUID(int=number)) for number in (1, 2, 3))
WORK = Work(prompt_tokens=10, completion_tokens=90, requests=1, deadline_seconds=None)
USED = Usage(10, 90)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def check_what_it_counts_as(refusal: GatewayError) -> None:
    """The caller's own fault where it is told so."""
    assert refusal.refused_as is not None
    assert refusal.refused_as.startswith("caller_") is isinstance(refusal, RateLimitExceeded)


class Hall:
    """A queue, who stands in it, and the order in which they were let in."""

    def __init__(
        self, places: int, *, share: float = 0.0, most: int = 100, of_one: int = 100, seconds: float = 1000.0
    ) -> None:
        self.clock = Clock()
        self.queue = FairQueue(places, share, most, of_one, seconds, self.clock)
        self.entered: list[str] = []
        self.places: dict[str, Place] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, name: str, caller: Caller, work: Work = WORK) -> None:
        """A request called ``name`` comes; returns when it is in, refused, or waits."""

        async def come() -> None:
            try:
                self.places[name] = await self.queue.enter(caller, work)
            except GatewayError as error:
                check_what_it_counts_as(error)
                raise
            self.entered.append(name)

        self.tasks[name] = asyncio.create_task(come())
        await self.settled()

    async def leave(self, name: str, used: Usage = USED) -> None:
        self.places.pop(name).leave(used)
        await self.settled()

    async def settled(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    async def empty(self) -> None:
        """All leave, in the order in which they came in."""
        while self.places:
            await self.leave(next(name for name in self.entered if name in self.places))


async def test_as_many_as_there_are_places_go_in_at_once() -> None:
    hall = Hall(2)
    for name in "abc":
        await hall.send(name, GREEDY)
    assert hall.entered == ["a", "b"]
    assert (hall.queue.places_taken, hall.queue.waiting, hall.queue.callers_waiting) == (2, 1, 1)
    await hall.leave("a")
    assert hall.entered == ["a", "b", "c"]
    await hall.empty()
    assert (hall.queue.places_taken, hall.queue.waiting, hall.queue.callers_waiting) == (0, 0, 0)


async def test_one_caller_is_served_in_the_order_of_his_requests() -> None:
    hall = Hall(1)
    for name in "abcdef":
        await hall.send(name, GREEDY)
    await hall.empty()
    assert hall.entered == list("abcdef")


async def test_whoever_comes_later_does_not_wait_behind_a_hundred() -> None:
    hall = Hall(1, most=200, of_one=200)
    for number in range(100):
        await hall.send(f"greedy {number}", GREEDY)
    await hall.send("polite", POLITE)
    await hall.empty()
    # One that runs, and one whose turn had come.
    assert hall.entered.index("polite") <= 2


async def test_nobody_saves_up_what_he_has_not_used() -> None:
    hall = Hall(1)
    await hall.send("early", POLITE)
    await hall.leave("early")
    for number in range(20):
        await hall.send(f"alone {number}", GREEDY)
    for number in range(10):
        await hall.leave(f"alone {number}")
    for number in range(5):
        await hall.send(f"back {number}", POLITE)
    await hall.empty()
    contended = hall.entered[12:22]
    assert sum(name.startswith("back") for name in contended) == 5
    # They take turns.
    assert all(one.startswith("back") != next_.startswith("back") for one, next_ in pairwise(contended))


async def test_who_has_twice_the_weight_is_served_twice_as_much() -> None:
    heavy = Caller(user_id=UUID(int=9), weight=2.0)
    hall = Hall(1)
    await hall.send("first", THIRD)
    for number in range(30):
        await hall.send(f"heavy {number}", heavy)
        await hall.send(f"light {number}", GREEDY)
    await hall.empty()
    assert abs(sum(name.startswith("heavy") for name in hall.entered[1:31]) - 20) <= 1


async def test_what_was_really_used_counts_not_what_was_expected() -> None:
    hall = Hall(1)
    for number in range(40):
        await hall.send(f"long {number}", GREEDY, Work(10, 90, 1, None))
        await hall.send(f"short {number}", POLITE, Work(10, 90, 1, None))
    for _ in range(44):
        (name,) = hall.places
        await hall.leave(name, Usage(10, 90 if name.startswith("long") else 10))
    long = sum(name.startswith("long") for name in hall.entered)
    short = len(hall.entered) - long
    # 100 tokens against 20.
    assert 4 <= short / long <= 6


async def test_a_request_with_several_choices_takes_as_many_places_and_nobody_passes_it() -> None:
    hall = Hall(4)
    for name in "abcd":
        await hall.send(name, GREEDY)
    await hall.send("three", POLITE, Work(10, 30, 3, None))
    await hall.send("e", GREEDY)
    for name in "ab":
        await hall.leave(name)
        assert hall.entered == list("abcd")
    await hall.leave("c")
    assert hall.entered == [*"abcd", "three"]
    await hall.leave("d")
    assert hall.entered == [*"abcd", "three", "e"]
    await hall.empty()


async def test_a_request_of_more_than_there_are_places_runs_alone() -> None:
    hall = Hall(4, share=0.25)
    await hall.send("a", GREEDY)
    await hall.send("hundred", POLITE, Work(1, 100, 100, None))
    # What asks for less would have its turn before.
    await hall.send("b", THIRD, Work(10, 9900, 1, None))
    assert hall.entered == ["a"]
    await hall.leave("a")
    assert hall.entered == ["a", "hundred"]
    assert hall.queue.places_taken == 4
    await hall.leave("hundred")
    assert hall.entered == ["a", "hundred", "b"]
    await hall.empty()


async def test_places_are_kept_for_callers_who_hold_none() -> None:
    hall = Hall(8, share=0.25)
    await hall.send("before", POLITE)
    await hall.leave("before")
    for number in range(10):
        await hall.send(f"greedy {number}", GREEDY)
    assert (hall.queue.places_taken, hall.queue.waiting) == (6, 4)
    await hall.send("polite", POLITE)
    await hall.send("third", THIRD)
    assert hall.entered[-2:] == ["polite", "third"]
    # The second of each waits for its turn as all do.
    await hall.send("polite again", POLITE)
    assert hall.queue.waiting == 5
    await hall.leave("polite")
    assert hall.entered[-1] == "polite again"
    await hall.empty()


async def test_whoever_is_alone_for_long_gets_all_places() -> None:
    hall = Hall(8, share=0.25)
    for number in range(10):
        await hall.send(f"alone {number}", GREEDY)
    assert hall.queue.places_taken == 8
    await hall.send("polite", POLITE)
    for number in range(3):
        await hall.leave(f"alone {number}")
    # The polite one has the first place that became free; the next two are kept now.
    assert hall.entered[8:] == ["polite"]
    hall.clock.now = ALONE_SECONDS
    await hall.leave("polite")
    assert hall.queue.places_taken == 7
    await hall.empty()


def test_few_places_are_kept_of_few() -> None:
    assert [kept(places, 0.125) for places in (1, 3, 4, 8, 15, 16, 64, 256)] == [0, 0, 1, 1, 1, 2, 8, 32]
    assert [kept(places, 0.5) for places in (1, 4, 8, 100)] == [0, 1, 2, 25]
    assert kept(256, 0.0) == 0


async def test_too_many_of_one_caller_are_his_fault_and_too_many_of_all_ours() -> None:
    hall = Hall(1, most=3, of_one=2)
    for name in "abc":
        await hall.send(name, GREEDY)
    with pytest.raises(RateLimitExceeded, match="2 of your requests wait already") as own:
        await hall.queue.enter(GREEDY, WORK)
    await hall.send("d", POLITE)
    with pytest.raises(Unavailable, match="Too many requests wait") as ours:
        await hall.queue.enter(THIRD, WORK)
    assert [(error.value.status, error.value.code) for error in (own, ours)] == [
        (429, "rate_limit_exceeded"),
        (503, "overloaded"),
    ]
    # Nothing is known yet of how long an answer takes.
    assert {error.value.headers["retry-after"] for error in (own, ours)} == {"5"}
    await hall.empty()


async def test_the_last_of_the_queue_is_kept_for_callers_of_whom_nobody_waits() -> None:
    hall = Hall(1, share=0.25, most=8)
    await hall.send("in", GREEDY)
    for number in range(6):
        await hall.send(f"greedy {number}", GREEDY)
    with pytest.raises(Unavailable):
        await hall.queue.enter(GREEDY, WORK)
    await hall.send("polite", POLITE)
    await hall.send("third", THIRD)
    assert hall.queue.waiting == 8
    with pytest.raises(Unavailable):
        await hall.queue.enter(Caller(user_id=UUID(int=4)), WORK)
    await hall.empty()


async def test_without_a_queue_who_finds_no_place_is_refused() -> None:
    hall = Hall(1, most=0)
    await hall.send("a", GREEDY)
    with pytest.raises(Unavailable):
        await hall.queue.enter(POLITE, WORK)
    await hall.empty()
    await hall.send("b", POLITE)
    assert hall.entered == ["a", "b"]


async def learned(hall: Hall) -> None:
    """An answer of 90 tokens took 9 seconds."""
    await hall.send("known", GREEDY)
    hall.clock.now += 9.0
    await hall.leave("known")


async def test_whoever_would_wait_beyond_his_deadline_is_refused_at_once() -> None:
    hall = Hall(1)
    await learned(hall)
    for name in "ab":
        await hall.send(name, GREEDY)
    await hall.send("in time", GREEDY, Work(10, 90, 1, 20.0))
    assert hall.queue.waiting == 2
    # 27 seconds, of which 7 and 10 % are too many.
    with pytest.raises(RateLimitExceeded, match="Your requests before") as own:
        await hall.queue.enter(GREEDY, Work(10, 90, 1, 20.0))
    assert float(own.value.headers["retry-after-ms"]) == pytest.approx(7700, abs=1)
    # Nobody else waits, but the one that runs goes on for 9 seconds.
    with pytest.raises(Unavailable, match="The requests before") as ours:
        await hall.queue.enter(POLITE, Work(10, 90, 1, 5.0))
    assert float(ours.value.headers["retry-after-ms"]) >= 4400
    await hall.empty()


async def test_nobody_waits_longer_than_anyone_may() -> None:
    hall = Hall(1, seconds=10.0)
    await learned(hall)
    for name in "ab":
        await hall.send(name, GREEDY)
    with pytest.raises(RateLimitExceeded):
        await hall.queue.enter(GREEDY, WORK)
    await hall.empty()


def test_a_wait_that_was_not_foreseen_ends_all_the_same() -> None:
    async def test() -> None:
        hall = Hall(1, seconds=10.0)
        await hall.send("stuck", GREEDY)
        await hall.send("waits", POLITE)
        loop = asyncio.get_running_loop()
        with pytest.raises(Unavailable):
            await hall.tasks["waits"]
        assert loop.time() == pytest.approx(10.0)
        assert hall.queue.waiting == 0
        await hall.empty()

    run_virtually(test)


async def test_whoever_is_cancelled_when_his_place_is_given_gives_it_back() -> None:
    hall = Hall(1)
    await hall.send("a", GREEDY)
    await hall.send("b", GREEDY)
    await hall.send("c", GREEDY)
    hall.places.pop("a").leave(USED)
    # It has its place, and does not know yet.
    assert hall.queue.places_taken == 1
    hall.tasks["b"].cancel()
    await hall.settled()
    assert hall.entered == ["a", "c"]
    await hall.empty()
    assert hall.queue.places_taken == 0


async def test_the_place_of_whoever_has_just_given_up_goes_to_the_next() -> None:
    hall = Hall(1)
    for name in "abc":
        await hall.send(name, GREEDY)
    hall.tasks["b"].cancel()
    hall.places.pop("a").leave(USED)
    await hall.settled()
    assert hall.entered == ["a", "c"]
    await hall.empty()


async def test_a_big_request_that_gives_up_lets_those_go_on_whom_it_kept_waiting() -> None:
    hall = Hall(2)
    await hall.send("a", GREEDY)
    await hall.send("both", POLITE, Work(10, 20, 2, None))
    await hall.send("b", THIRD)
    assert hall.entered == ["a"]
    hall.tasks["both"].cancel()
    await hall.settled()
    assert hall.entered == ["a", "b"]
    await hall.empty()


async def test_a_request_that_used_nothing_costs_nothing() -> None:
    hall = Hall(1)
    for number in range(10):
        await hall.send(f"refused {number}", POLITE)
        await hall.leave(f"refused {number}", Usage())
    await hall.send("first", THIRD)
    await hall.send("other", GREEDY)
    await hall.send("one more", POLITE)
    await hall.empty()
    assert hall.entered[-2:] == ["other", "one more"]


def test_the_engine_says_how_many_places_there_are_unless_a_setting_does() -> None:
    def places(setting: int | None, engine: int | None) -> int | None:
        admission = admission_of(load({"max_running_requests": setting}), engine)
        return admission.places if isinstance(admission, FairQueue) else None

    assert [places(*pair) for pair in ((None, 256), (8, 256), (8, None), (None, None))] == [256, 8, 8, None]
    assert isinstance(admission_of(load(), None), AllAtOnce)
