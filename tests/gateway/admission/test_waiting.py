"""What becomes of a request that waits for its place at the engine."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY
from starlette.requests import ClientDisconnect

from engine.base import EngineOverloaded, GenerationFailed, GenerationRequest
from engine.simulated import SimulatedEngine
from gateway.admission.fair_queue import FairQueue
from gateway.errors import DeadlineExceeded, RateLimitExceeded, Unavailable
from gateway.generation import Generation
from tests.gateway.fakes import AN_HOUR_MS, Breaking, Client, House, RefusingEngine, refusals
from tests.strategies import echo_request
from tests.virtual_time import run_virtually


def one_place(*, most: int = 10, engine: SimulatedEngine | None = None) -> tuple[House, FairQueue]:
    queue = FairQueue(1, 0.0, most, most, 1000.0)
    return House(engine or SimulatedEngine(), queue), queue


async def answered(generation: Generation) -> str:
    async with generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()
    return generation.answers[0].text


async def standing(queue: FairQueue, requests: int) -> None:
    """Until so many wait."""
    while queue.waiting != requests:
        await asyncio.sleep(0)


def left(reason: str) -> float:
    return REGISTRY.get_sample_value("gateway_requests_left_total", {"reason": reason}) or 0.0


async def test_a_request_waits_until_the_one_before_it_has_ended_and_says_how_long() -> None:
    house, queue = one_place()
    second = house.open(echo_request("second"), "second")
    async with house.open(echo_request("first"), "first") as first:
        waiting = asyncio.create_task(answered(second))
        await standing(queue, 1)
        assert len(house.recorder.begun) == 1
        while not first.ended:
            await first.next()
        await first.settle()
    assert await waiting == "second"
    assert queue.places_taken == queue.waiting == 0
    one, two = house.recorder.closed
    assert one.queue_ms is None
    assert two.queue_ms is not None
    assert two.queue_ms > 0
    assert float(second.headers["x-gateway-queue-ms"]) == pytest.approx(two.queue_ms, abs=0.06)
    assert "x-gateway-queue-ms" not in first.headers


async def test_a_place_is_free_before_the_row_is_committed() -> None:
    house, queue = one_place()
    house.recorder.may_commit.clear()
    first = asyncio.create_task(answered(house.open(echo_request("first"), "first")))
    await house.recorder.closing.wait()
    assert queue.places_taken == 0
    async with house.open(echo_request("second"), "second"):
        assert queue.places_taken == 1
        house.recorder.may_commit.set()
        assert await first == "first"


@pytest.mark.parametrize("keep_alive_seconds", [0.0, 0.01])
async def test_a_client_that_leaves_waits_no_more_and_has_no_row(keep_alive_seconds: float) -> None:
    house, queue = one_place(engine=SimulatedEngine(ttft_ms=AN_HOUR_MS))
    before = left("cancelled")
    async with house.open(echo_request("first"), "first"):
        other = Client([])
        house.client, first_client = other, house.client
        task = house.stream("second", keep_alive_seconds=keep_alive_seconds)
        await standing(queue, 1)
        if keep_alive_seconds:
            await other.has_text.wait()
        other.leave()
        await task
        assert queue.waiting == 0
        assert all(
            message.get("body", b": keep-alive\n\n") == b": keep-alive\n\n" for message in other.messages
        )
        house.client = first_client
    assert [row.query for row in house.recorder.begun] == ["first"]
    assert left("cancelled") == before + 1
    assert len(house.generations) == 0


async def test_an_answer_in_one_piece_is_not_made_for_a_client_that_has_left() -> None:
    house, queue = one_place()
    async with house.open(echo_request("first"), "first"):
        waiting = asyncio.create_task(answered(house.open(echo_request("second"), "second")))
        await standing(queue, 1)
        house.client.leave()
        with pytest.raises(ClientDisconnect):
            await waiting


async def test_a_deadline_that_passes_ends_the_wait_with_a_real_504() -> None:
    house, queue = one_place(engine=SimulatedEngine(ttft_ms=AN_HOUR_MS))
    async with house.open(echo_request("first"), "first"):
        with pytest.raises(DeadlineExceeded):
            await house.stream("second", deadline_seconds=0.01)
        assert queue.waiting == 0
    assert house.client.messages == []


async def test_a_drain_serves_those_who_wait_as_long_as_it_lasts() -> None:
    house, queue = one_place()
    async with house.open(echo_request("first"), "first") as first:
        waiting = asyncio.create_task(answered(house.open(echo_request("second"), "second")))
        await standing(queue, 1)
        draining = asyncio.create_task(house.generations.drain(AN_HOUR_MS))
        while not first.ended:
            await first.next()
        await first.settle()
    assert await waiting == "second"
    await draining
    assert [row.status for row in house.recorder.closed] == ["completed", "completed"]


async def test_the_end_of_a_drain_ends_the_wait_with_a_real_503() -> None:
    house, queue = one_place(engine=SimulatedEngine(ttft_ms=AN_HOUR_MS))

    async def first() -> None:
        async with house.open(echo_request("first"), "first") as generation:
            while not generation.ended:
                await generation.next()

    running = asyncio.create_task(first())
    task = house.stream("second")
    await standing(queue, 1)
    await house.generations.drain(0)
    with pytest.raises(Unavailable, match="shutting down") as refused:
        await task
    assert refused.value.code == "shutting_down"
    await running
    assert house.client.messages == []
    assert [row.query for row in house.recorder.closed] == ["first"]


def test_a_stream_that_waits_is_kept_alive_and_told_in_band_what_becomes_of_it() -> None:
    house = run_virtually(told_in_band)
    assert house.client.body.startswith(b": keep-alive\n\n")
    assert house.client.messages[0]["status"] == 200
    assert b'"code":"timeout"' in house.client.body.replace(b" ", b"")
    assert house.client.messages[-1]["more_body"] is False


async def told_in_band() -> House:
    """Waits for longer than it may."""
    house, queue = one_place(engine=SimulatedEngine(ttft_ms=2 * AN_HOUR_MS))
    async with house.open(echo_request("first"), "first"):
        task = house.stream("second", keep_alive_seconds=1, deadline_seconds=5)
        await house.client.has_text.wait()
        assert queue.waiting == 1
        await task
    return house


async def test_whoever_is_refused_gets_a_real_status() -> None:
    house, _ = one_place(most=0)
    before = refusals()
    async with house.open(echo_request("first"), "first"):
        with pytest.raises((RateLimitExceeded, Unavailable)) as refused:
            await house.stream("second", keep_alive_seconds=0.01)
    assert refused.value.refused_as is not None
    assert refusals() == before | {refused.value.refused_as: before[refused.value.refused_as] + 1}
    assert float(refused.value.headers["retry-after-ms"]) > 0
    assert house.client.messages == []
    assert len(house.generations) == 0


async def test_what_the_engine_does_not_take_gives_its_place_back() -> None:
    house, queue = one_place(engine=RefusingEngine(EngineOverloaded()))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await house.stream("abc")
    assert queue.places_taken == 0


class HalfBreakingEngine(SimulatedEngine):
    """Breaks the first choice after one Delta; the others never end."""

    def __init__(self) -> None:
        super().__init__(tokens_per_second=0.001)
        self.streams: list[Breaking] = []

    async def submit(self, request: GenerationRequest) -> Breaking:  # type: ignore[override]
        first = not self.streams
        stream = await super().submit(request)
        self.streams.append(Breaking(stream, 1 if first else 1000, GenerationFailed("inside")))
        return self.streams[-1]


async def test_a_choice_that_breaks_in_mid_stream_ends_the_others_in_the_engine() -> None:
    engine = HalfBreakingEngine()
    queue = FairQueue(4, 0.0, 10, 10, 1000.0)
    house = House(engine, queue)
    await house.stream("abc", n=2)
    assert house.client.error["type"] == "server_error"
    assert queue.places_taken == 0
    # It is told that it was aborted, at once.
    async with asyncio.timeout(30):
        delta = await engine.streams[1].next()
    assert delta.finish_reason == "abort"


async def test_a_request_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    house, queue = one_place()
    async with house.open(echo_request("first"), "first") as first:
        waiting = asyncio.create_task(answered(house.open(echo_request("second"), "second")))
        await standing(queue, 1)
        await first.abort("cancelled")
        while not first.ended:
            await first.next()
        # Its place is given to the other one, who is cancelled before it knows.
        await first.settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert queue.places_taken == queue.waiting == 0
    assert len(house.generations) == 0
