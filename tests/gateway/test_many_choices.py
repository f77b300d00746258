"""Several choices and prompts on the one path: their rows, and what happens when some of them fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.code_points import READER
from engine.base import DeltaStream, EngineOverloaded, GenerationFailed, GenerationRequest, RequestRefused
from engine.simulated import SimulatedEngine
from gateway.errors import GenerationError, InvalidRequest, Unavailable
from gateway.generation import Generation
from gateway.prompt_answer import Query
from tests.gateway.fakes import AN_HOUR_MS, ONE_IN_1000_SECONDS, Breaking, House, RefusingEngine, new_row
from tests.strategies import echo_request, texts


def opened(house: House, prompts: Sequence[str], n: int = 1, *, stream: bool = True) -> Generation:
    queries = [
        Query(new_row(text), [echo_request(text, stream=stream)] * n, lambda: READER) for text in prompts
    ]
    return house.generations.open(queries, house.client.receive)


async def read(generation: Generation) -> list[str]:
    """Each choice's text as its pieces joined."""
    joined = [""] * len(generation.choices)
    while not generation.ended:
        for index, piece in await generation.next():
            joined[index] += piece.text
    return joined


@given(st.lists(texts, min_size=1, max_size=3), st.integers(1, 3), st.booleans())
async def test_each_prompt_leaves_a_row_with_all_its_choices(
    prompts: list[str], n: int, stream: bool
) -> None:
    house = House()
    async with opened(house, prompts, n, stream=stream) as generation:
        joined = await read(generation)
        await generation.settle()
        assert joined == [answer.text for answer in generation.answers]
        assert generation.usage.prompt_tokens == sum(map(len, prompts))
        assert generation.usage.completion_tokens == n * sum(map(len, prompts))
    assert joined == [text for text in prompts for _ in range(n)]
    assert [row.query for row in house.recorder.closed] == prompts
    for row in house.recorder.closed:
        assert (row.status, row.finish_reason, row.response) == ("completed", "stop", row.query)
        assert (row.prompt_tokens, row.completion_tokens) == (len(row.query), n * len(row.query))
        counted = {"finish_reason": "stop", "completion_tokens": len(row.query)}
        assert row.meta_data.get("choices", []) == ([counted] * n if n > 1 else [])
        assert row.details.get("choices", []) == ([{"response": row.query}] * n if n > 1 else [])
    assert len(house.generations) == 0


@given(st.lists(texts, min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 20))
async def test_whoever_stops_early_leaves_exact_rows(prompts: list[str], n: int, steps: int) -> None:
    house = House()
    async with opened(house, prompts, n) as generation:
        for _ in range(steps):
            if generation.ended:
                break
            await generation.next()
    assert len(house.recorder.closed) == len(prompts)
    for row in house.recorder.closed:
        told = row.details.get("choices") or [{"response": row.response}]
        assert all(row.query.startswith(choice["response"]) for choice in told)
        assert row.completion_tokens == sum(len(choice["response"]) for choice in told)
        assert row.status in ("completed", "cancelled")
        if row.status == "completed":
            assert {choice["response"] for choice in told} == {row.query}
    assert len(house.generations) == 0


async def test_a_client_that_leaves_ends_all_choices() -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    async with opened(house, ["abc", "de"], 3) as generation:
        house.client.leave()
        await read(generation)
        await generation.settle()
        assert generation.status == "cancelled"
    assert [(row.status, row.completion_tokens) for row in house.recorder.closed] == [("cancelled", 0)] * 2


class OneBreaks(SimulatedEngine):
    """The stream of the ``broken``-th request breaks after a Delta."""

    def __init__(self, broken: int) -> None:
        super().__init__()
        self._left = broken

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        stream = await super().submit(request)
        self._left -= 1
        return Breaking(stream, 1, GenerationFailed("inside")) if self._left == 0 else stream


@pytest.mark.parametrize("broken", [1, 2, 3])
async def test_one_choice_that_breaks_fails_the_request_and_the_others_are_counted(broken: int) -> None:
    house = House(OneBreaks(broken))
    with pytest.raises(GenerationError):
        async with opened(house, ["a" * 50], 3) as generation:
            await read(generation)
    row = house.recorder.row
    assert (row.status, row.error) == ("error", "inside")
    assert row.completion_tokens == sum(len(choice["response"]) for choice in row.details["choices"])
    assert row.details["choices"][broken - 1]["response"] == "a"
    assert len(house.generations) == 0


@pytest.mark.parametrize("broken", [1, 2, 3])
async def test_a_stream_in_which_one_choice_breaks_ends_with_an_error(broken: int) -> None:
    house = House(OneBreaks(broken))
    await house.stream("a" * 50, n=3)
    assert house.client.error["type"] == "server_error"
    assert house.recorder.row.status == "error"


class OneIsRefused(SimulatedEngine):
    """Takes ``taken`` requests, then no more."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self._left = taken

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        if self._left == 0:
            raise EngineOverloaded
        self._left -= 1
        return await super().submit(request)


@pytest.mark.parametrize(("taken", "rows"), [(0, 0), (1, 1), (2, 1), (3, 2)])
async def test_what_the_engine_took_before_it_refused_leaves_rows(taken: int, rows: int) -> None:
    house = House(OneIsRefused(taken))
    generation = opened(house, ["abc", "def"], 2)
    with pytest.raises(Unavailable, match="full"):
        async with generation:
            pytest.fail("was let in")
    assert [row.status for row in house.recorder.closed] == ["error"] * rows
    # Of prompts that the engine did not take nothing is counted, nor does it cost a limit anything.
    assert generation.usage.prompt_tokens == sum(row.prompt_tokens for row in house.recorder.closed)
    assert [row.id for row in house.recorder.begun] == [row.id for row in house.recorder.closed]
    assert len(house.generations) == 0


async def test_a_cancelled_handler_settles_every_row_once() -> None:
    house = House(SimulatedEngine(tokens_per_second=ONE_IN_1000_SECONDS))
    inside = asyncio.Event()

    async def handler() -> None:
        async with opened(house, ["abc", "de"], 2) as generation:
            while True:
                await generation.next()
                inside.set()

    task = asyncio.create_task(handler())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [row.status for row in house.recorder.closed] == ["shutdown"] * 2
    for row in house.recorder.closed:
        told = [choice["response"] for choice in row.details["choices"]]
        assert row.completion_tokens == sum(map(len, told))
    assert len(house.generations) == 0


async def test_interleaved_choices_come_as_the_engine_gives_them() -> None:
    house = House()
    await house.stream("abc", n=3)
    indexes = [choice["index"] for one in house.client.objects for choice in one["choices"]]
    texts_of = dict.fromkeys(indexes, "")
    for one in house.client.objects:
        for choice in one["choices"]:
            texts_of[choice["index"]] += choice["delta"].get("content", "")
    assert texts_of == {0: "abc", 1: "abc", 2: "abc"}
    assert indexes != sorted(indexes)
    finished = [c["index"] for one in house.client.objects for c in one["choices"] if c["finish_reason"]]
    assert finished == [0, 1, 2]


async def test_a_refusal_names_the_field_as_the_client_does() -> None:
    house = House(RefusingEngine(RequestRefused("no schema", "structured")))
    query = Query(new_row("a"), [echo_request("a")], lambda: READER, {"structured": "response_format"})
    with pytest.raises(InvalidRequest, match="no schema") as refused:
        async with house.generations.open([query], house.client.receive):
            pytest.fail("was let in")
    assert refused.value.param == "response_format"


class SlowToTake(SimulatedEngine):
    """Takes requests only when it may."""

    def __init__(self) -> None:
        super().__init__(ttft_ms=AN_HOUR_MS)
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        self.asked.set()
        await self.may.wait()
        return await super().submit(request)


@pytest.mark.parametrize("n", [1, 3])
async def test_a_request_that_is_to_end_while_it_is_submitted_ends(n: int) -> None:
    engine = SlowToTake()
    house = House(engine)

    async def handler() -> Generation:
        async with opened(house, ["abc"], n) as generation:
            await read(generation)
            await generation.settle()
            return generation

    task = asyncio.create_task(handler())
    await engine.asked.wait()
    draining = asyncio.create_task(house.generations.drain(0))
    await asyncio.sleep(0)
    while not draining.done() and not house.recorder.closed:
        engine.may.set()
        await asyncio.sleep(0)
    assert (await task).status == "shutdown"
    await draining
    assert house.recorder.row.status == "shutdown"
