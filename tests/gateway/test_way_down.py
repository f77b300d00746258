"""What clients see and rows say while the engine is dead or full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from adapters.chat_format import Piece
from adapters.code_points import bytes_of
from adapters.text_reader import TextReader
from engine.base import Delta, EngineDead, EngineOverloaded, GenerationRequest
from engine.ladder import Ladder, Rung
from engine.notice import NoticeEngine
from engine.simulated import SimulatedEngine
from gateway.access.caller import Caller
from gateway.admission.queue import AllAtOnce, Place, Work
from gateway.errors import RateLimitExceeded, Unavailable
from tests.engine.mortal import GONE, MortalEngine
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

DEAD = EngineDead(GONE)


class Shouting(SimulatedEngine):
    """A fallback: its answers can be told from the engine's."""

    async def submit(self, request: GenerationRequest) -> Any:
        text = request.messages[-1].content.upper()
        return await super().submit(echo_request(text, max_tokens=1000, stream=request.stream))


class Waiting(SimulatedEngine):
    """A fallback that takes a request and never comes back with it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def submit(self, request: GenerationRequest) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


class Closed(AllAtOnce):
    """Lets nobody through."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def enter(self, caller: Caller, work: Work) -> Place:
        raise self._error


def house_of(main: SimulatedEngine, *fallbacks: SimulatedEngine | NoticeEngine, **parts: Any) -> House:
    rungs = [Rung(f"f{number}", fallback) for number, fallback in enumerate(fallbacks)]
    return House(Ladder(main, rungs), **parts)


def headers_of(house: House) -> dict[str, str]:
    (start,) = [message for message in house.client.messages if message["type"] == "http.response.start"]
    return {name.decode(): value.decode() for name, value in start["headers"]}


def degraded_answers(by: str, reason: str) -> float:
    labels = {"by": by, "reason": reason}
    return REGISTRY.get_sample_value("gateway_degraded_answers_total", labels) or 0.0


@given(texts.filter(bool), st.integers(1, 20))
async def test_a_stream_cut_by_a_death_ends_in_band_and_its_row_has_what_was_seen(text: str, at: int) -> None:
    main = BreakingEngine(at, DEAD)
    house = house_of(main, Shouting())
    await house.stream(text)
    row = house.recorder.row
    assert row.meta_data == {}
    assert "x-gateway-degraded" not in headers_of(house)
    if at >= len(text):
        assert row.status == "completed"
        return
    assert house.client.error["code"] == "engine_unavailable"
    assert (row.status, row.response, row.completion_tokens) == ("error", text[:at], at)
    assert house.client.text == text[:at]
    assert row.error == GONE


async def test_what_dies_before_its_first_token_is_answered_by_another_and_says_so() -> None:
    house = house_of(BreakingEngine(0, DEAD), Shouting())
    before = degraded_answers("f0", "engine_dead")
    await house.stream("hello")
    assert house.client.text == "HELLO"
    assert house.client.data[-1] == "[DONE]"
    assert headers_of(house)["x-gateway-degraded"] == "f0"
    row = house.recorder.row
    assert row.meta_data["degraded"] == {"by": "f0", "reason": "engine_dead"}
    assert (row.status, row.response, row.completion_tokens, row.model) == ("completed", "HELLO", 5, "m")
    assert degraded_answers("f0", "engine_dead") == before + 1


async def test_all_choices_of_a_request_are_counted_as_one_degraded_answer() -> None:
    house = house_of(RefusingEngine(DEAD), Shouting())
    before = degraded_answers("f0", "engine_dead")
    await house.stream("hi", n=3)
    assert [house.client.body.count(b'"content":"%b"' % letter) for letter in (b"H", b"I")] == [3, 3]
    assert headers_of(house)["x-gateway-degraded"] == "f0"
    assert degraded_answers("f0", "engine_dead") == before + 1


async def test_a_fallback_that_dies_in_its_answer_cuts_the_stream_and_is_named() -> None:
    house = house_of(RefusingEngine(DEAD), BreakingEngine(2, DEAD), Shouting())
    await house.stream("hello")
    assert house.client.error["code"] == "engine_unavailable"
    row = house.recorder.row
    assert (row.status, row.response, row.meta_data["degraded"]["by"]) == ("error", "he", "f0")


async def test_where_nobody_can_be_asked_it_is_a_503_without_a_row() -> None:
    dead = MortalEngine()
    dead.die()
    house = house_of(RefusingEngine(DEAD), dead)
    with pytest.raises(Unavailable) as refused:
        await house.stream("hello")
    assert refused.value.code == "engine_unavailable"
    assert house.recorder.begun == []


async def test_where_all_who_were_asked_fail_it_is_a_503_and_the_row_says_so() -> None:
    house = house_of(RefusingEngine(DEAD), BreakingEngine(0, DEAD))
    with pytest.raises(Unavailable) as refused:
        await house.stream("hello")
    assert refused.value.code == "engine_unavailable"
    row = house.recorder.row
    assert (row.status, row.response, row.completion_tokens) == ("error", "", 0)
    assert "degraded" not in row.meta_data


async def test_a_notice_is_an_answer_in_no_tokens_that_names_itself() -> None:
    house = House(Ladder(RefusingEngine(DEAD), [Rung("notice", NoticeEngine("Back soon."))]))
    await house.stream("hello")
    assert house.client.text == "Back soon."
    last = house.client.objects[-1]
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (0, 0)
    assert headers_of(house)["x-gateway-degraded"] == "notice"
    assert (house.recorder.row.status, house.recorder.row.response) == ("completed", "Back soon.")


async def test_a_fallbacks_text_is_read_as_text_whatever_form_the_model_has() -> None:
    class Blind(TextReader):
        def read(self, delta: Delta) -> Piece:
            raise AssertionError("reads ids only")

    house = house_of(RefusingEngine(DEAD), Shouting())
    async with house.open(echo_request("hello"), "hello", Blind(bytes_of)) as generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()
        assert generation.answers[0].text == "HELLO"
        assert generation.headers["x-gateway-degraded"] == "f0"


async def test_what_a_dead_engine_had_not_told_is_on_the_row_where_nobody_else_answers() -> None:
    untold = Delta("hel", [1, 2, 3], prompt_tokens=5)
    house = house_of(BreakingEngine(0, EngineDead(GONE, untold)))
    with pytest.raises(Unavailable):
        await house.stream("hello")
    row = house.recorder.row
    assert (row.status, row.response, row.completion_tokens) == ("error", "hel", 3)


async def test_a_client_that_leaves_during_the_switch_ends_the_request() -> None:
    limiter, fallback = Counted(), Waiting()
    house = house_of(BreakingEngine(0, DEAD), fallback, limiter=limiter)
    answering = house.stream("hello")
    await fallback.asked.wait()
    house.client.leave()
    await answering
    assert house.recorder.row.status == "cancelled"
    assert limiter.settled == [5]


async def test_a_deadline_that_passes_during_the_switch_ends_the_request() -> None:
    house = house_of(BreakingEngine(0, DEAD), Waiting())
    with pytest.raises(Exception, match="took longer than"):
        await house.stream("hello", deadline_seconds=ONE_IN_1000_SECONDS)
    assert house.recorder.row.status == "timeout"


async def test_a_gateway_that_ends_during_the_switch_ends_the_request() -> None:
    fallback = Waiting()
    house = house_of(BreakingEngine(0, DEAD), fallback)
    answering = house.stream("hello")
    await fallback.asked.wait()
    await house.generations.drain(0)
    with pytest.raises(Unavailable):
        await answering
    assert house.recorder.row.status == "shutdown"


# Overload


FULL = Unavailable("The queue is full.", retry_after_seconds=17).counted_as("queue_full")


def overflowing(*fallbacks: SimulatedEngine, error: Exception = FULL) -> tuple[House, Counted]:
    rungs = [Rung(f"f{number}", fallback) for number, fallback in enumerate(fallbacks)]
    ladder, limiter = Ladder(SimulatedEngine(AN_HOUR_MS), rungs, on_overload=True), Counted()
    return House(ladder, Closed(error), limiter, ladder.overflow), limiter


async def test_what_finds_no_place_is_answered_by_a_fallback_where_that_is_wanted() -> None:
    house, limiter = overflowing(Shouting())
    before = refusals()
    await house.stream("hello", max_tokens=7)
    assert house.client.text == "HELLO"
    assert refusals() == before
    assert house.recorder.row.meta_data["degraded"] == {"by": "f0", "reason": "overloaded"}
    assert limiter.settled == [10]


async def test_where_no_fallback_has_a_place_either_the_queues_own_refusal_is_told() -> None:
    dead = MortalEngine()
    dead.die()
    for house, limiter in (overflowing(), overflowing(dead)):
        before = refusals()
        with pytest.raises(Unavailable) as refused:
            await house.stream("hello")
        assert refusals() == before | {"queue_full": before["queue_full"] + 1}
        assert refused.value is FULL
        assert refused.value.headers["retry-after"] == "17"
        assert limiter.settled == [0]
        assert house.recorder.begun == []


async def test_a_callers_own_limit_is_not_an_overload() -> None:
    house, limiter = overflowing(Shouting(), error=RateLimitExceeded("Too many.", 3))
    with pytest.raises(RateLimitExceeded):
        await house.stream("hello")
    assert limiter.settled == [0]


async def test_without_the_setting_what_finds_no_place_is_refused() -> None:
    house = House(Ladder(SimulatedEngine(), [Rung("f", Shouting())]), Closed(FULL))
    with pytest.raises(Unavailable) as refused:
        await house.stream("hello")
    assert refused.value is FULL


async def test_an_engine_that_is_full_by_itself_is_an_overload_too() -> None:
    full = RefusingEngine(EngineOverloaded("full"))
    for on_overload in (True, False):
        house = House(Ladder(full, [Rung("f", Shouting())], on_overload))
        if on_overload:
            await house.stream("hello")
            assert house.recorder.row.meta_data["degraded"] == {"by": "f", "reason": "overloaded"}
        else:
            with pytest.raises(Unavailable):
                await house.stream("hello")
