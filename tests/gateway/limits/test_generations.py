"""Limits on the way that every request takes: what it has not used is given back, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from engine.base import EngineOverloaded, GenerationFailed
from engine.simulated import SimulatedEngine
from gateway.access.caller import ANONYMOUS, Caller
from gateway.admission.queue import AllAtOnce, Place, Work
from gateway.errors import GatewayError, RateLimitExceeded, Unavailable
from gateway.generation import Generation
from gateway.limits.account import Account
from gateway.limits.memory import MemoryLimiter
from persistence.caller_limits import Limits
from tests.gateway.fakes import BreakingEngine, House, RefusingEngine
from tests.gateway.limits.moments import Moments, limiter_of
from tests.strategies import echo_request

LIMITS = Limits(requests_per_minute=10, tokens_per_minute=1000, tokens_per_day=5000, concurrent_requests=5)
QUESTION = "twelve chars"


class Queue(AllAtOnce):
    """Lets nobody through before ``opened``; then raises ``failure``, where there is one."""

    def __init__(self, failure: GatewayError | None = None) -> None:
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()
        self.failure = failure

    async def enter(self, caller: Caller, work: Work) -> Place:
        self.entered.set()
        await self.opened.wait()
        if self.failure is not None:
            raise self.failure
        return self


def house_of(engine: SimulatedEngine | None = None, queue: AllAtOnce | None = None) -> House:
    """A gateway where each address has LIMITS."""
    house = House(engine or SimulatedEngine())
    house.generations.limiter = limiter_of(Moments(), anonymous=LIMITS)
    house.generations.admission = queue or AllAtOnce()
    return house


def account_of(house: House) -> Account:
    limiter = house.generations.limiter
    assert isinstance(limiter, MemoryLimiter)
    return limiter.accounts.find(f"address:{ANONYMOUS.address}", 10**15, 0)


def used(house: House) -> tuple[int, int, int]:
    """Requests and tokens that count, and requests that run."""
    account = account_of(house)
    assert account.day_tokens == account.window.tokens
    return account.window.requests, account.window.tokens, len(account.running)


def opened(house: House, max_tokens: int = 500) -> Generation:
    return house.open(echo_request(QUESTION, max_tokens=max_tokens), QUESTION)


async def all_of(generation: Generation) -> None:
    async with generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()


async def test_an_answer_costs_what_the_engine_counts() -> None:
    house = house_of()
    generation = opened(house)
    async with generation:
        assert used(house) == (1, 12 + 500, 1)
        assert generation.headers["x-ratelimit-remaining-tokens"] == "488"
        while not generation.ended:
            await generation.next()
        await generation.settle()
    assert used(house) == (1, 24, 0)


async def test_all_choices_are_reserved_and_the_prompt_once() -> None:
    house = house_of()
    task = house.stream(QUESTION, max_tokens=100, n=3)
    await house.client.has_text.wait()
    await task
    headers = dict(house.client.messages[0]["headers"])
    assert headers[b"x-ratelimit-remaining-tokens"] == str(1000 - 12 - 3 * 100).encode()
    assert used(house) == (1, 12 + 3 * 12, 0)


async def cancelled_while_it_waits(house: House, queue: Queue) -> None:
    task = asyncio.create_task(all_of(opened(house)))
    await queue.entered.wait()
    assert used(house) == (1, 512, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def refused_by_the_queue(house: House, queue: Queue) -> None:
    queue.failure = Unavailable("full")
    queue.opened.set()
    with pytest.raises(Unavailable):
        await all_of(opened(house))


@pytest.mark.parametrize("ends", [cancelled_while_it_waits, refused_by_the_queue])
async def test_what_never_reached_the_engine_costs_nothing(
    ends: Callable[[House, Queue], Awaitable[None]],
) -> None:
    queue = Queue()
    house = house_of(queue=queue)
    await ends(house, queue)
    assert used(house) == (0, 0, 0)


async def test_what_the_engine_refuses_costs_nothing() -> None:
    house = house_of(RefusingEngine(EngineOverloaded("full")))
    with pytest.raises(Unavailable):
        await all_of(opened(house))
    assert used(house) == (0, 0, 0)


async def test_a_client_who_leaves_pays_for_what_was_generated() -> None:
    house = house_of(SimulatedEngine(tokens_per_second=1.0))
    task = house.stream(QUESTION, max_tokens=500)
    await house.client.has_text.wait()
    house.client.leave()
    await task
    row = house.recorder.row
    assert used(house) == (1, row.prompt_tokens + row.completion_tokens, 0)
    assert 13 <= used(house)[1] < 24


async def test_an_answer_that_breaks_costs_what_had_come() -> None:
    house = house_of(BreakingEngine(3, GenerationFailed("broken")))
    await house.stream(QUESTION, max_tokens=500)
    assert used(house) == (1, 12 + 3, 0)


async def test_one_that_is_cancelled_while_it_is_answered_costs_what_had_come() -> None:
    house = house_of(SimulatedEngine(tokens_per_second=1.0))
    task = house.stream(QUESTION, max_tokens=500)
    await house.client.has_text.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = house.recorder.row
    assert used(house) == (1, row.prompt_tokens + row.completion_tokens, 0)


async def test_what_is_refused_takes_no_place_in_the_queue_and_leaves_no_row() -> None:
    queue = Queue()
    house = house_of(queue=queue)
    await house.generations.limiter.reserve(ANONYMOUS, 600)
    with pytest.raises(RateLimitExceeded):
        await all_of(opened(house))
    assert not queue.entered.is_set()
    assert house.recorder.begun == []
    assert len(house.generations) == 0
    assert used(house) == (1, 600, 1)
