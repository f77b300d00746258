"""How requests end, and what their rows say then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.chat_format import Piece
from adapters.code_points import bytes_of
from adapters.text_reader import TextReader
from engine.base import (
    Delta,
    DeltaStream,
    EngineDead,
    EngineError,
    EngineOverloaded,
    GenerationFailed,
    GenerationRequest,
    RequestRefused,
)
from engine.simulated import SimulatedEngine
from gateway.errors import GatewayError, GenerationError, InvalidRequest, Unavailable
from gateway.generation import Generation
from persistence.message_row import MessageRow
from tests.gateway.fakes import (
    AN_HOUR_MS,
    ONE_IN_1000_SECONDS,
    BreakingEngine,
    Counted,
    House,
    RefusingEngine,
    refusals,
)
from tests.strategies import echo_request, texts


def opened(house: House, text: str, *, stream: bool = False) -> Generation:
    return house.open(echo_request(text, stream=stream), text)


def said(generation: Generation) -> tuple[str, str]:
    """The text and the end of the only choice."""
    (answer,) = generation.answers
    return answer.text, answer.end_reason


def text_of(pieces: Sequence[tuple[int, Piece]]) -> str:
    return "".join(piece.text for _, piece in pieces)


class TakesOne(SimulatedEngine):
    """Dies then."""

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        stream = await super().submit(request)
        self.submit = RefusingEngine(EngineDead()).submit  # type: ignore[method-assign]
        return stream


def ended(row: MessageRow) -> tuple[str, str | None, str, int, int]:
    return row.status, row.finish_reason, row.response, row.prompt_tokens, row.completion_tokens


@given(texts, st.booleans())
async def test_a_finished_request_leaves_its_text_and_the_engines_counts(text: str, stream: bool) -> None:
    house = House()
    async with opened(house, text, stream=stream) as generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()
        await generation.settle()
        assert (generation.status, said(generation)) == ("completed", (text, "stop"))
        assert generation.failure is None
    row = house.recorder.row
    assert ended(row) == ("completed", "stop", text, len(text), len(text))
    assert row.error is None
    assert row.duration_ms is not None
    # An answer without a token has no first one.
    assert (row.ttft_ms is None) == (not text)
    assert 0 <= (row.ttft_ms or 0.0) <= row.duration_ms
    assert len(house.generations) == 0


async def test_a_request_that_reached_its_limit_says_length() -> None:
    house = House()
    request = echo_request("abcdef", max_tokens=2, stream=False)
    async with house.open(request, "abcdef") as generation:
        await generation.next()
        await generation.settle()
    assert ended(house.recorder.row) == ("completed", "length", "ab", 6, 2)


@given(texts.filter(bool), st.data())
async def test_a_client_that_leaves_at_any_moment_keeps_exact_text_and_counts(
    text: str, data: st.DataObject
) -> None:
    house = House()
    async with opened(house, text, stream=True) as generation:
        for _ in range(data.draw(st.integers(0, len(text) - 1))):
            await generation.next()
        await generation.abort("cancelled")
        while not generation.ended:
            await generation.next()
        await generation.settle()
    row = house.recorder.row
    assert text.startswith(row.response)
    assert row.completion_tokens == len(row.response)
    assert row.prompt_tokens == len(text)
    if len(row.response) < len(text):
        assert (row.status, row.finish_reason) == ("cancelled", "cancelled")


async def test_a_route_that_stops_early_settles_with_what_the_engine_had() -> None:
    house = House()
    async with opened(house, "abc", stream=True) as generation:
        await generation.next()
    assert ended(house.recorder.row) == ("cancelled", "cancelled", "a", 3, 1)
    assert len(house.generations) == 0


@pytest.mark.parametrize(
    ("failure", "error", "reason"),
    [
        (RequestRefused("too long", "max_tokens"), InvalidRequest, "engine_refused"),
        (EngineOverloaded(), Unavailable, "engine_full"),
        (EngineDead(), Unavailable, "engine_dead"),
        (GenerationFailed(), GenerationError, "engine_failed"),
    ],
)
async def test_what_the_engine_does_not_take_leaves_no_row_and_is_counted(
    failure: EngineError, error: type[GatewayError], reason: str
) -> None:
    house, before = House(RefusingEngine(failure)), refusals()
    with pytest.raises(error):
        async with opened(house, "abc"):
            pytest.fail("was let in")
    assert house.recorder.begun == house.recorder.closed == []
    assert len(house.generations) == 0
    assert refusals() == before | {reason: before[reason] + 1}


async def test_what_the_engine_took_in_part_has_a_row_and_is_no_refusal() -> None:
    house, before = House(TakesOne()), refusals()
    with pytest.raises(Unavailable):
        await house.stream("abc", n=2)
    assert house.recorder.row.status == "error"
    assert refusals() == before


async def test_an_engine_that_breaks_leaves_the_text_so_far_and_why() -> None:
    house = House(BreakingEngine(2, GenerationFailed("a secret of the inside")))
    with pytest.raises(GenerationError, match="The engine failed on this request"):
        async with opened(house, "abc", stream=True) as generation:
            while True:
                await generation.next()
    row = house.recorder.row
    assert ended(row) == ("error", "error", "ab", 3, 2)
    # For the operator; the client has been told less.
    assert row.error == "a secret of the inside"


async def test_a_gateway_that_breaks_says_error_not_cancelled() -> None:
    house = House()
    with pytest.raises(ZeroDivisionError):
        async with opened(house, "abc", stream=True) as generation:
            await generation.next()
            raise ZeroDivisionError("a bug of ours")
    row = house.recorder.row
    assert ended(row) == ("error", "error", "a", 3, 1)
    assert row.error == "a bug of ours"


async def test_nothing_is_admitted_while_draining() -> None:
    house = House()
    await house.generations.drain(0)
    with pytest.raises(Unavailable, match="shutting down") as refused:
        async with opened(house, "abc"):
            pytest.fail("was let in")
    assert refused.value.headers["retry-after"]
    assert house.recorder.begun == []


async def test_nothing_is_admitted_whose_row_could_not_be_kept() -> None:
    house = House()
    house.recorder.refusing = "The local journal is full."
    with pytest.raises(Unavailable, match="journal is full") as refused:
        async with opened(house, "abc"):
            pytest.fail("was let in")
    assert refused.value.code == "database_unavailable"


async def test_a_drain_waits_for_what_runs() -> None:
    house = House()
    async with opened(house, "abc", stream=True) as generation:
        await generation.next()
        draining = asyncio.create_task(house.generations.drain(AN_HOUR_MS))
        while not generation.ended:
            assert not draining.done()
            await generation.next()
        await generation.settle()
    await draining
    assert house.recorder.row.status == "completed"


async def test_a_hurried_drain_ends_what_runs() -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    async with opened(house, "abc") as generation:
        draining = asyncio.create_task(house.generations.drain(AN_HOUR_MS))
        waiting = asyncio.create_task(generation.next())
        await asyncio.sleep(0)
        house.generations.hurry()
        assert text_of(await waiting) == ""
        assert generation.ended
        assert not generation.finished
        await generation.settle()
        assert generation.failure is not None
        assert generation.failure.status == 503
    await draining
    assert ended(house.recorder.row) == ("shutdown", "shutdown", "", 3, 0)


@pytest.mark.parametrize(
    "engine", [{"ttft_ms": AN_HOUR_MS}, {"tokens_per_second": ONE_IN_1000_SECONDS}], ids=str
)
async def test_a_cancelled_handler_settles_its_row_once(engine: dict[str, float]) -> None:
    house = House(SimulatedEngine(**engine))
    inside = asyncio.Event()

    async def handler() -> None:
        async with opened(house, "abc", stream=True) as generation:
            inside.set()
            while True:
                await generation.next()

    task = asyncio.create_task(handler())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = house.recorder.row
    assert row.status == "shutdown"
    assert row.completion_tokens == len(row.response)
    assert "abc".startswith(row.response)
    assert len(house.generations) == 0


class Lingering(SimulatedEngine):
    """Streams whose end, when they were aborted, is there once it ``may_end``."""

    def __init__(self) -> None:
        super().__init__(tokens_per_second=ONE_IN_1000_SECONDS)
        self.aborted, self.may_end = asyncio.Event(), asyncio.Event()

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        return LingeringStream(self, await super().submit(request))


@dataclass
class LingeringStream:
    engine: Lingering
    stream: DeltaStream

    async def next(self) -> Delta:
        if self.engine.aborted.is_set():
            await self.engine.may_end.wait()
        return await self.stream.next()

    async def abort(self) -> None:
        await self.stream.abort()
        self.engine.aborted.set()


async def test_a_handler_cancelled_twice_gives_back_what_it_held_with_its_end() -> None:
    engine, limiter = Lingering(), Counted()
    house = House(engine, limiter=limiter)
    inside = asyncio.Event()

    async def handler() -> None:
        async with opened(house, "abc", stream=True) as generation:
            await generation.next()
            inside.set()
            await generation.next()

    task = asyncio.create_task(handler())
    await inside.wait()
    task.cancel()
    await engine.aborted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (limiter.settled, len(house.generations)) == ([], 1)
    draining = asyncio.create_task(house.generations.drain(AN_HOUR_MS))
    engine.may_end.set()
    await draining
    assert ended(house.recorder.row) == ("shutdown", "shutdown", "a", 3, 1)
    assert (limiter.settled, len(house.generations)) == ([4], 0)


async def test_a_handler_cancelled_during_its_commit_does_not_settle_again() -> None:
    house = House()
    house.recorder.may_commit.clear()

    async def handler() -> None:
        async with opened(house, "abc") as generation:
            await generation.next()
            await generation.settle()

    task = asyncio.create_task(handler())
    await house.recorder.closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended(house.recorder.row) == ("completed", "stop", "abc", 3, 3)
    assert len(house.generations) == 0


async def test_a_drain_waits_for_the_row_of_a_cancelled_handler() -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    house.recorder.may_commit.clear()

    async def handler() -> None:
        async with opened(house, "abc") as generation:
            await generation.next()

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    task.cancel()
    await house.recorder.closing.wait()
    draining = asyncio.create_task(house.generations.drain(AN_HOUR_MS))
    await asyncio.sleep(0)
    assert not draining.done()
    house.recorder.may_commit.set()
    await draining
    assert house.events == ["commit"]
    with pytest.raises(asyncio.CancelledError):
        await task


class EndingReader(TextReader):
    """Has read enough after the first text."""

    def __init__(self) -> None:
        super().__init__(bytes_of)

    def read(self, delta: Delta) -> Piece:
        return Piece(delta.text, ended=True)


@pytest.mark.parametrize("tokens_per_second", [None, 0.001])
async def test_an_answer_whose_reader_has_read_enough_is_completed_and_counted(
    tokens_per_second: float | None,
) -> None:
    house = House(SimulatedEngine(tokens_per_second=tokens_per_second))
    request = echo_request("abcdef", stream=True)
    async with house.open(request, "abcdef", EndingReader()) as generation:
        assert text_of(await generation.next()) == "a"
        assert generation.ended
        await generation.settle()
        assert said(generation) == ("a", "stop")
    status, finish_reason, response, prompt_tokens, completion_tokens = ended(house.recorder.row)
    assert (status, finish_reason, response, prompt_tokens) == ("completed", "stop", "a", 6)
    assert completion_tokens >= 1
