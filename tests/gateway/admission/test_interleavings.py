"""What holds in the queue before the engine whatever comes, leaves and gives up in whatever order."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base import Usage
from gateway.access.caller import Caller
from gateway.admission.fair_queue import FairQueue
from gateway.admission.queue import Place, Work
from gateway.errors import GatewayError

CALLERS = [Caller(user_id=UUID(int=number), weight=weight) for number, weight in enumerate((1, 1, 2, 0.5))]

callers = st.sampled_from(CALLERS)
works = st.builds(
    Work, st.integers(0, 50), st.integers(1, 200), st.integers(1, 6), st.none() | st.floats(0.1, 50)
)
usages = st.builds(Usage, st.integers(0, 50), st.integers(0, 200))
steps = st.one_of(
    st.tuples(st.just("come"), callers, works),
    st.tuples(st.just("leave"), st.integers(0, 100), usages),
    st.tuples(st.just("give up"), st.integers(0, 100)),
    # Neither has been told yet what happened before.
    st.tuples(st.just("leave and give up"), st.integers(0, 100), st.integers(0, 100), usages),
    st.tuples(st.just("give up and leave"), st.integers(0, 100), st.integers(0, 100), usages),
    st.tuples(st.just("pass"), st.floats(0.01, 1000)),
)


class Crowd:
    """Many requests on their ways through one queue, which it checks after each step."""

    def __init__(self, places: int, share: float, most: int, of_one: int) -> None:
        self.now = 0.0
        self.most = most
        self.queue = FairQueue(places, share, most, of_one, 1e6, lambda: self.now)
        self.waiting: dict[asyncio.Task[Place], tuple[Caller, Work]] = {}
        self.inside: list[tuple[Place, Caller, Work]] = []

    async def take(self, step: tuple[object, ...]) -> None:
        match step:
            case ("come", Caller() as caller, Work() as work):
                self.waiting[asyncio.create_task(self.queue.enter(caller, work))] = (caller, work)
            case ("leave", int(which), Usage() as used):
                self.leave(which, used)
            case ("give up", int(which)):
                self.give_up(which)
            case ("leave and give up", int(which), int(other), Usage() as used):
                self.leave(which, used)
                self.give_up(other)
            case ("give up and leave", int(which), int(other), Usage() as used):
                self.give_up(other)
                self.leave(which, used)
            case ("pass", float(seconds)):
                self.now += seconds
        await self.settled()
        self.check()

    def leave(self, which: int, used: Usage) -> None:
        if self.inside:
            self.inside.pop(which % len(self.inside))[0].leave(used)

    def give_up(self, which: int) -> None:
        if self.waiting:
            list(self.waiting)[which % len(self.waiting)].cancel()

    async def settled(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        for task in [task for task in self.waiting if task.done()]:
            caller, work = self.waiting.pop(task)
            if task.cancelled() or isinstance(task.exception(), GatewayError):
                continue
            self.inside.append((task.result(), caller, work))

    async def end(self) -> None:
        """All who wait give up."""
        for task in list(self.waiting):
            task.cancel()
        await self.settled()

    def check(self) -> None:
        queue = self.queue
        needs = [min(work.requests, queue.places) for _, _, work in self.inside]
        assert queue.places_taken == sum(needs) <= queue.places
        assert queue.waiting == len(self.waiting) <= self.most
        assert queue.callers_waiting == len({caller.name for caller, _ in self.waiting.values()})
        if not self.inside:
            # Nobody waits for nothing.
            assert not self.waiting


@given(
    st.integers(1, 9),
    st.sampled_from([0.0, 0.125, 0.5]),
    st.integers(0, 12),
    st.integers(0, 12),
    st.lists(steps, max_size=60),
)
async def test_no_interleaving_passes_the_places_or_loses_one(
    places: int, share: float, most: int, of_one: int, taken: list[tuple[object, ...]]
) -> None:
    crowd = Crowd(places, share, most, of_one)
    for step in taken:
        await crowd.take(step)
    # Nobody is forgotten: if those inside leave, all who wait come in.
    while crowd.inside:
        await crowd.take(("leave", 0, Usage(1, 1)))
    assert not crowd.waiting
    # And all places are there again, for callers who hold none.
    for number in range(places):
        await crowd.take(("come", Caller(user_id=UUID(int=100 + number)), Work(1, 1, 1, None)))
    assert crowd.queue.places_taken == places
    assert crowd.queue.waiting == 0


MOST_TOKENS = 250


@settings(max_examples=20)
@given(
    st.integers(1, 8),
    st.sampled_from([0.0, 0.25]),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.integers(0, 2**32),
)
async def test_what_two_who_always_ask_are_served_differs_by_no_more_than_what_fits_the_places(
    places: int, share: float, weight: float, seed: int
) -> None:
    """The bound: three of the largest requests for each place, and for the next: charged too much to the one,
    too little to the other, and got by way of the places that are kept."""
    random = Random(seed)
    heavy, light = Caller(user_id=UUID(int=1), weight=weight), Caller(user_id=UUID(int=2))
    crowd = Crowd(places, share, 1000, 500)
    served: Counter[Caller] = Counter()
    bound = 3 * (places + 1) * MOST_TOKENS

    async def come(caller: Caller) -> None:
        await crowd.take(
            ("come", caller, Work(random.randint(0, 50), random.randint(1, 200), 1, None)),
        )

    for _ in range(places + 3):
        await come(heavy)
        await come(light)
    # From here on both have something waiting at all times.
    for number in range(200):
        crowd.now += 1
        which = random.randrange(len(crowd.inside))
        _, caller, work = crowd.inside[which]
        used = Usage(work.prompt_tokens, random.randint(0, work.completion_tokens))
        await crowd.take(("leave", which, used))
        served[caller] += used.prompt_tokens + used.completion_tokens
        await come(caller)
        if number % 50 == 0:
            assert all(any(one is who for one, _ in crowd.waiting.values()) for who in (heavy, light))
        assert abs(served[heavy] / weight - served[light]) <= bound
    assert served[light] > 0
    await crowd.end()


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 10))
async def test_whoever_has_nothing_is_passed_by_each_other_caller_twice_at_most(
    places: int, others: int, before: int
) -> None:
    """Requests that are alike, and take as long as expected."""
    alike, used = Work(10, 90, 1, None), Usage(10, 90)
    crowd = Crowd(places, 0.0, 1000, 1000)
    backlogged = [Caller(user_id=UUID(int=number)) for number in range(1, others + 1)]
    for _ in range(places + 5 + before):
        for caller in backlogged:
            await crowd.take(("come", caller, alike))
    for _ in range(before):
        await crowd.take(("leave", 0, used))
    polite = Caller(user_id=UUID(int=99))
    await crowd.take(("come", polite, alike))
    passed: Counter[Caller] = Counter()
    while not any(caller is polite for _, caller, _ in crowd.inside):
        await crowd.take(("leave", 0, used))
        passed[crowd.inside[-1][1]] += 1
    del passed[polite]
    assert all(times <= 2 for times in passed.values())
    await crowd.end()


async def test_an_endless_row_of_new_callers_does_not_keep_anyone_waiting() -> None:
    crowd = Crowd(1, 0.0, 1000, 1000)
    long, short = Work(100, 100, 1, None), Work(1, 9, 1, None)
    asker = Caller(user_id=UUID(int=1))
    await crowd.take(("come", asker, long))
    await crowd.take(("leave", 0, Usage(100, 100)))
    await crowd.take(("come", asker, long))
    await crowd.take(("come", asker, long))
    strangers = 3
    for number in range(strangers):
        await crowd.take(("come", Caller(user_id=UUID(int=100 + number)), short))
    await crowd.take(("leave", 0, Usage(100, 100)))
    while crowd.inside[0][1] is not asker:
        strangers += 1
        await crowd.take(("come", Caller(user_id=UUID(int=100 + strangers)), short))
        await crowd.take(("leave", 0, Usage(1, 9)))
        # It costs as much as twenty of theirs, and there are never more than three of them before it.
        assert strangers <= 3 * 20 + 5
    await crowd.end()


async def test_callers_who_are_gone_are_forgotten_and_their_debts_with_them() -> None:
    crowd = Crowd(2, 0.0, 10, 10)
    await crowd.take(("come", CALLERS[0], Work(1, 1, 1, None)))
    for number in range(10_100):
        place = await crowd.queue.enter(Caller(user_id=UUID(int=5000 + number)), Work(1, 1, 1, None))
        place.leave(Usage(1, 1))
    assert len(crowd.queue._turns._accounts) <= 10_001
    await crowd.take(("leave", 0, Usage(1, 1)))
    assert crowd.queue.places_taken == 0
