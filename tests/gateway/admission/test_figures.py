"""How long a polite caller waits beside a greedy one, and whether Retry-After is true. Figures: pytest -s.

The engine has a fixed rate: 16 places, 20 ms for each token, answers of 50 tokens; time is virtual.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any
from uuid import UUID

import httpx2
import openai
import pytest
from fastapi import FastAPI, Request

from adapters.code_points import READER
from engine.simulated import SimulatedEngine
from gateway.access.caller import Caller
from gateway.admission.fair_queue import FairQueue
from gateway.app import add_error_handlers
from gateway.errors import RateLimitExceeded, Unavailable
from gateway.generation import Generation
from gateway.prompt_answer import Query
from tests.faults.form import report
from tests.gateway.fakes import Client, House, new_row
from tests.strategies import echo_request
from tests.virtual_time import run_virtually

PLACES = 16
TOKEN_SECONDS = 0.02
ANSWER = "x" * 50

GREEDY, POLITE = Caller(user_id=UUID(int=1)), Caller(user_id=UUID(int=2))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


@dataclass
class Gateway:
    """The way of requests through a queue of its own, in a loop of virtual time."""

    most: int = 1000
    most_of_one: int = 1000
    most_seconds: float = 60.0
    share: float = 0.125
    ttft: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue = FairQueue(
            PLACES, self.share, self.most, self.most_of_one, self.most_seconds, self.loop.time
        )
        engine = SimulatedEngine(ttft_ms=TOKEN_SECONDS * 1000, tokens_per_second=1 / TOKEN_SECONDS)
        self.house = House(engine, self.queue)

    def open(self, caller: Caller, text: str = ANSWER, deadline_seconds: float | None = None) -> Generation:
        query = Query(new_row(text), [echo_request(text)], lambda: READER)
        return self.house.generations.open([query], Client([]).receive, deadline_seconds, caller)

    async def ask(self, caller: Caller, text: str = ANSWER, deadline_seconds: float | None = None) -> float:
        """The seconds to the first token; returns at the answer's end."""
        began, first = self.loop.time(), None
        async with self.open(caller, text, deadline_seconds) as generation:
            while not generation.ended:
                await generation.next()
                first = first or self.loop.time()
            await generation.settle()
        assert first is not None
        return first - began

    async def keep_asking(self, caller: Caller) -> None:
        while True:
            await self.ask(caller)


def test_one_at_a_time_does_not_wait_for_64_of_another_caller() -> None:
    """The time to the first token, of one request at a time: within twice of what it is alone."""

    async def test() -> None:
        gateway = Gateway()
        alone = [await gateway.ask(POLITE) for _ in range(30)]
        greedy = [asyncio.create_task(gateway.keep_asking(GREEDY)) for _ in range(64)]
        await asyncio.sleep(10)
        assert gateway.queue.waiting >= 40
        beside = [await gateway.ask(POLITE) for _ in range(100)]
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)
        assert gateway.queue.places_taken == gateway.queue.waiting == 0
        report(
            "one at a time beside 64 open requests",
            alone_p50=milliseconds(median(alone)),
            beside_p50=milliseconds(median(beside)),
            beside_longest=milliseconds(max(beside)),
            behind_them_all_it_would_be=milliseconds(64 / PLACES * 50 * TOKEN_SECONDS),
        )
        assert median(beside) <= 2 * median(alone)
        assert max(beside) <= 2 * median(alone)

    run_virtually(test)


def test_the_first_of_a_caller_waits_for_one_answer_of_another_who_had_all_places() -> None:
    async def test() -> None:
        gateway = Gateway()
        greedy = []
        for _ in range(64):
            # Not all at once: their answers end one after the other.
            greedy.append(asyncio.create_task(gateway.keep_asking(GREEDY)))
            await asyncio.sleep(50 * TOKEN_SECONDS / PLACES)
        assert gateway.queue.places_taken == PLACES
        await asyncio.sleep(TOKEN_SECONDS / 2)
        first = await gateway.ask(POLITE)
        then = [await gateway.ask(POLITE) for _ in range(20)]
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)
        report(
            "a caller who comes to places that are all taken",
            first=milliseconds(first),
            then_p50=milliseconds(median(then)),
        )
        assert first <= 50 * TOKEN_SECONDS / PLACES + 2 * TOKEN_SECONDS
        assert median(then) <= 2 * TOKEN_SECONDS

    run_virtually(test)


REFUSALS = 100


@dataclass
class Told:
    """One who was refused: when he was told to come again, and when there really was room for him."""

    seconds: float
    room_after: float = 0.0
    tries: int = 1

    @property
    def ratio(self) -> float:
        return self.seconds / self.room_after


async def come_again(gateway: Gateway, caller: Caller, told: Told, deadline_seconds: float | None) -> None:
    """As he was told, until he is let in."""
    seconds = told.seconds
    while True:
        await asyncio.sleep(seconds)
        told.tries += 1
        try:
            await gateway.ask(caller, deadline_seconds=deadline_seconds)
        except (RateLimitExceeded, Unavailable) as refused:
            seconds = float(refused.headers["retry-after-ms"]) / 1000
        else:
            return


async def refused_hundred(
    gateway: Gateway, fill: int, one_caller: bool, staggered: bool, deadline_seconds: float | None
) -> list[Told]:
    """``fill`` requests take all there is; the next hundred are refused, and come again as they are told."""
    # Two answers end before: what is known of the engine, is known from them.
    await asyncio.gather(*(gateway.ask(GREEDY) for _ in range(2)))
    tasks: list[asyncio.Task[Any]] = []
    for number in range(fill):
        caller = GREEDY if one_caller else Caller(user_id=UUID(int=10 + number))
        tasks.append(asyncio.create_task(gateway.ask(caller)))
        await asyncio.sleep(45 * TOKEN_SECONDS / PLACES if staggered and number < PLACES else 0)
    for _ in range(10):
        await asyncio.sleep(0)
    began, waiting = gateway.loop.time(), gateway.queue.waiting
    assert waiting == fill - PLACES
    refused: list[Told] = []
    for number in range(REFUSALS):
        caller = GREEDY if one_caller else Caller(user_id=UUID(int=1000 + number))
        with pytest.raises((RateLimitExceeded, Unavailable)) as error:
            await gateway.ask(caller, deadline_seconds=deadline_seconds)
        assert error.value.status == (429 if one_caller else 503)
        refused.append(Told(float(error.value.headers["retry-after-ms"]) / 1000))
        tasks.append(asyncio.create_task(come_again(gateway, caller, refused[-1], deadline_seconds)))
    ended = count(1)
    for told in refused:
        # There is room for the k-th when k of those who waited have gone in, whoever came meanwhile.
        wanted = next(ended)
        while (gone := entered(gateway) - (fill - waiting)) < wanted:
            await asyncio.sleep(TOKEN_SECONDS / 10)
        assert gone >= wanted
        told.room_after = gateway.loop.time() - began
    await asyncio.gather(*tasks)
    return refused


def entered(gateway: Gateway) -> int:
    """How many have been let in, those before the others not counted."""
    return len(gateway.house.recorder.begun) - 2


@pytest.mark.parametrize("staggered", [False, True], ids=["all ends at once", "one after the other"])
@pytest.mark.parametrize("one_caller", [True, False], ids=["429", "503"])
def test_retry_after_is_true_within_a_half_where_the_queue_is_full(one_caller: bool, staggered: bool) -> None:
    async def test() -> None:
        most = 128
        gateway = Gateway(most=1000 if one_caller else most, most_of_one=most, share=0.0)
        refused = await refused_hundred(gateway, PLACES + most, one_caller, staggered, None)
        told(f"Retry-After, {'429' if one_caller else '503'}, queue full, staggered {staggered}", refused)

    run_virtually(test)


def told(name: str, refused: list[Told]) -> None:
    """Print what came of it, and check that it was true."""
    ratios = sorted(one.ratio for one in refused)
    tries = [one.tries for one in refused]
    report(
        name,
        refusals=len(refused),
        told=f"{refused[0].seconds:.2f} to {refused[-1].seconds:.2f} s",
        told_by_true=f"{ratios[0]:.2f} to {ratios[-1]:.2f}, p50 {median(ratios):.2f}",
        let_in_at_the_first_retry=tries.count(2),
    )
    assert len(refused) == REFUSALS
    assert ratios[0] >= 0.5
    assert ratios[-1] <= 1.5
    assert tries.count(2) == REFUSALS


def test_the_sdks_own_retry_succeeds() -> None:
    """A request that is refused is in when the SDK tries it again."""

    async def test() -> None:
        gateway = Gateway(most=0, share=0.0)
        app = FastAPI()
        add_error_handlers(app)
        statuses: list[int] = []

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> dict[str, Any]:
            try:
                await gateway.ask(POLITE)
            except Unavailable as refused:
                statuses.append(refused.status)
                raise
            statuses.append(200)
            return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}

        async with openai.AsyncOpenAI(
            base_url="http://gateway/v1",
            api_key="k",
            max_retries=1,
            http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app)),
        ) as client:
            # The first time, the SDK asks a thread what machine this is: no virtual time passes for that.
            await client.chat.completions.create(model="m", messages=[])
            running = [asyncio.create_task(gateway.ask(GREEDY)) for _ in range(PLACES)]
            await asyncio.sleep(0.2)
            began = gateway.loop.time()
            answer = await client.chat.completions.create(model="m", messages=[])
        assert answer.id == "1"
        assert statuses == [200, 503, 200]
        # The answers that ran had 0.8 s to go; its own took one.
        assert gateway.loop.time() - began == pytest.approx(0.8 * 1.1 + 1, abs=0.05)
        await asyncio.gather(*running)

    run_virtually(test)


def test_retry_after_is_true_where_the_wait_would_be_too_long() -> None:
    """Whoever has 2 seconds, and would wait for 4, comes again when he would wait for 2."""

    async def test() -> None:
        gateway = Gateway(share=0.0)
        await asyncio.gather(*(gateway.ask(GREEDY) for _ in range(2)))
        running = [asyncio.create_task(gateway.ask(GREEDY)) for _ in range(5 * PLACES)]
        await asyncio.sleep(0.5)
        with pytest.raises(RateLimitExceeded) as refused:
            await gateway.ask(GREEDY, deadline_seconds=2.0)
        seconds = float(refused.value.headers["retry-after-ms"]) / 1000
        report("Retry-After, the wait too long", told=f"{seconds:.2f} s")
        assert 2.5 <= seconds <= 1.5 * 2.5
        await asyncio.sleep(seconds)
        waits = asyncio.create_task(gateway.ask(GREEDY, deadline_seconds=2.0))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waits.done()
        waits.cancel()
        await asyncio.gather(waits, *running, return_exceptions=True)

    run_virtually(test)
