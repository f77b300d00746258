"""What a client sees of a stream, and when."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import EngineDead, EngineError, GenerationFailed, RequestRefused
from engine.simulated import SimulatedEngine
from gateway.errors import DeadlineExceeded, GatewayError, Unavailable
from tests.gateway.fakes import (
    AN_HOUR_MS,
    ONE_IN_1000_SECONDS,
    BreakingEngine,
    House,
    RefusingEngine,
)
from tests.strategies import texts
from tests.virtual_time import run_virtually


@given(texts, st.integers(1, 30), st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple))
async def test_the_text_that_was_sent_is_the_text_of_the_row(
    text: str, max_tokens: int, stop: tuple[str, ...]
) -> None:
    house = House()
    await house.stream(text, stop=stop, max_tokens=max_tokens)
    row, client = house.recorder.row, house.client
    assert client.text == row.response
    assert text.startswith(row.response)
    assert client.data[-1] == "[DONE]"
    finish, usage = client.objects[-2:]
    assert finish["choices"][0]["finish_reason"] == row.finish_reason
    assert usage["usage"]["completion_tokens"] == row.completion_tokens
    assert usage["usage"]["prompt_tokens"] == row.prompt_tokens


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("abc", ["text", "text", "commit", "end"]),
        ("a", ["text", "commit", "end"]),
        ("", ["commit", "end"]),
    ],
)
async def test_the_end_waits_for_the_commit_and_the_first_text_does_not(text: str, events: list[str]) -> None:
    house = House()
    await house.stream(text)
    assert house.events == events
    last = house.client.messages[-1]["body"]
    assert b'"finish_reason":"stop"' in last
    assert b'"usage":{' in last
    assert last.endswith(b"data: [DONE]\n\n")


async def test_an_answer_whose_row_is_kept_nowhere_does_not_end_well() -> None:
    house = House()
    house.recorder.keeps = False
    await house.stream("abc")
    assert house.client.text == "abc"
    assert house.client.error["code"] == "not_recorded"
    assert [choice["finish_reason"] for one in house.client.objects for choice in one.get("choices", [])] == (
        [None] * (len(house.client.objects) - 1)
    )
    nothing_sent = House()
    nothing_sent.recorder.keeps = False
    with pytest.raises(Unavailable, match="could not be recorded"):
        await nothing_sent.stream("")


async def test_a_stream_starts_as_one_that_no_proxy_may_keep() -> None:
    house = House()
    await house.stream("abc")
    start = house.client.messages[0]
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in headers


@pytest.mark.parametrize(
    ("engine", "text"),
    [({"ttft_ms": AN_HOUR_MS}, ""), ({"tokens_per_second": ONE_IN_1000_SECONDS}, "a")],
    ids=["before the first token", "after it"],
)
async def test_a_client_that_leaves_ends_the_request_and_keeps_its_text(
    engine: dict[str, float], text: str
) -> None:
    house = House(SimulatedEngine(**engine))
    task = house.stream("abc")
    if text:
        await house.client.has_text.wait()
    house.client.leave()
    await task
    row = house.recorder.row
    assert (row.status, row.finish_reason, row.response) == ("cancelled", "cancelled", text)
    assert (row.prompt_tokens, row.completion_tokens) == (3, len(text))
    assert row.error is None
    assert "end" not in house.events
    assert house.client.text == text


@pytest.mark.parametrize("deltas", [1, 2])
async def test_an_engine_that_breaks_in_mid_stream_ends_it_with_an_error(deltas: int) -> None:
    house = House(BreakingEngine(deltas, GenerationFailed("inside")))
    await house.stream("abc")
    assert house.client.error == {
        "message": "The engine failed on this request.", "type": "server_error", "param": None, "code": None,
    }  # fmt: skip
    assert all("finish_reason" not in one or one["finish_reason"] is None for one in house.client.objects)
    row = house.recorder.row
    assert (row.status, row.response, row.completion_tokens) == ("error", "abc"[:deltas], deltas)
    assert row.error
    assert house.events[-2:] == ["commit", "end"]


@pytest.mark.parametrize(
    ("failure", "status"),
    [(GenerationFailed("inside"), 500), (RequestRefused("no", "seed"), 400), (EngineDead("gone"), 503)],
)
async def test_an_engine_that_breaks_before_its_first_output_gets_a_real_status(
    failure: EngineError, status: int
) -> None:
    house = House(BreakingEngine(0, failure))
    with pytest.raises(GatewayError) as raised:
        await house.stream("abc")
    assert raised.value.status == status
    assert house.client.messages == []
    row = house.recorder.row
    assert (row.status, row.response, row.prompt_tokens) == ("error", "", 3)


async def test_a_request_that_the_engine_refuses_gets_a_real_status() -> None:
    house = House(RefusingEngine(RequestRefused("too long", "max_tokens")))
    with pytest.raises(GatewayError, match="too long"):
        await house.stream("abc")
    assert house.client.messages == []
    assert house.recorder.closed == []


async def test_a_drain_ends_a_stream_at_its_deadline_with_an_error() -> None:
    house = House(SimulatedEngine(tokens_per_second=ONE_IN_1000_SECONDS))
    task = house.stream("abc")
    await house.client.has_text.wait()
    await house.generations.drain(0)
    await task
    assert house.client.error["code"] == "shutting_down"
    row = house.recorder.row
    assert (row.status, row.finish_reason, row.response) == ("shutdown", "shutdown", "a")
    assert house.client.text == "a"
    with pytest.raises(Unavailable):
        await house.stream("more")


async def test_a_drain_before_the_first_token_gives_a_real_status() -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    task = house.stream("abc")
    await asyncio.sleep(0)
    await house.generations.drain(0)
    with pytest.raises(Unavailable, match="shutting down"):
        await task
    assert house.client.messages == []
    assert house.recorder.row.status == "shutdown"


async def test_a_cancelled_stream_settles_its_row_once_and_sends_no_end() -> None:
    house = House(SimulatedEngine(tokens_per_second=ONE_IN_1000_SECONDS))
    task = house.stream("abc")
    await house.client.has_text.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (house.recorder.row.status, house.recorder.row.response) == ("shutdown", "a")
    assert "end" not in house.events


async def test_a_deadline_before_the_first_token_is_a_real_504() -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.01 seconds") as refused:
        await house.stream("abc", deadline_seconds=0.01)
    assert refused.value.status == 504
    assert house.client.messages == []
    assert (house.recorder.row.status, house.recorder.row.finish_reason) == ("timeout", "timeout")


def test_a_deadline_in_mid_stream_keeps_the_text_and_ends_with_an_error() -> None:
    house = run_virtually(cut_in_mid_stream)
    assert house.client.error["code"] == "timeout"
    row = house.recorder.row
    assert (row.status, row.response, row.completion_tokens) == ("timeout", "a", 1)
    assert house.client.text == "a"


async def cut_in_mid_stream() -> House:
    house = House(SimulatedEngine(tokens_per_second=ONE_IN_1000_SECONDS))
    await house.stream("abc", deadline_seconds=5.0)
    return house


async def test_a_deadline_that_is_not_reached_changes_nothing() -> None:
    house = House()
    await house.stream("abc", deadline_seconds=3600.0)
    assert house.recorder.row.status == "completed"
    assert house.client.text == "abc"


@pytest.mark.parametrize(
    ("engine", "text"),
    [({"ttft_ms": AN_HOUR_MS}, ""), ({"tokens_per_second": ONE_IN_1000_SECONDS}, "a")],
    ids=["before the first token", "between tokens"],
)
async def test_a_stream_that_waits_is_kept_alive_by_comments(engine: dict[str, float], text: str) -> None:
    house = House(SimulatedEngine(**engine))
    task = house.stream("abc", keep_alive_seconds=0.01)
    while house.client.body.count(b": keep-alive\n\n") < 3:
        house.client.has_text.clear()
        await house.client.has_text.wait()
    house.client.leave()
    await task
    # Each comment is a write of its own, so it can't stand inside an event.
    comments = [message for message in house.client.messages if b"keep-alive" in message.get("body", b"")]
    assert all(message["body"] == b": keep-alive\n\n" for message in comments)
    assert [message["type"] for message in house.client.messages].count("http.response.start") == 1
    assert house.recorder.row.response == text


async def test_a_failure_after_a_comment_is_told_in_the_stream() -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    task = house.stream("abc", keep_alive_seconds=0.01)
    await house.client.has_text.wait()
    await house.generations.drain(0)
    await task
    assert house.client.messages[-1]["body"].startswith(b'data: {"error":')


async def test_a_stream_that_does_not_wait_has_no_comments() -> None:
    house = House()
    await house.stream("abc" * 100, keep_alive_seconds=60.0)
    assert b"keep-alive" not in house.client.body
    assert house.client.data[-1] == "[DONE]"


async def test_the_headers_tell_the_time_to_the_first_token() -> None:
    house = House()
    await house.stream("abc")
    headers = dict(house.client.messages[0]["headers"])
    assert float(headers[b"x-gateway-ttft-ms"]) >= 0
