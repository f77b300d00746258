"""What a client of Chatchat's sees of an answer, message by message, and of a refusal."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from adapters.chatchat.events import ChatEvents, StreamStyle, TextEvents
from engine.base import EngineDead, GenerationFailed, RequestRefused
from engine.simulated import SimulatedEngine
from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ModelNotFound
from gateway.native_answer import JSON, NativeStream, in_one_piece, name_as_sent, wants_json
from tests.gateway.fakes import ONE_IN_1000_SECONDS, BreakingEngine, House
from tests.sse_clients import event_source
from tests.strategies import echo_request, texts

NAMES = {"messages": "query", "prompt": "query", "model": "model_name"}


def start(house: House, text: str, events: ChatEvents | TextEvents, opening: bytes = b"") -> NativeStream:
    """An answer with ``text``, ready to be sent."""
    generation = house.open(echo_request(text), text)
    return NativeStream(generation, events, "1f", NAMES, opening)


async def send(house: House, stream: NativeStream) -> list[bytes]:
    """The bodies of all messages that were sent, but for an empty last one."""
    await stream({"type": "http"}, house.client.receive, house.client.send)
    sent = [message["body"] for message in house.client.messages if message["type"] == "http.response.body"]
    assert [message.get("more_body") for message in house.client.messages[1:]][-1:] == [False]
    return [body for body in sent if body]


def only_event(body: bytes) -> str:
    """The data of the one event that is in ``body``."""
    assert body.endswith(b"\r\n\r\n")
    (data,) = event_source(body.decode())
    return data


@given(texts, st.sampled_from(["delta", "cumulative"]))
async def test_each_message_is_one_event(text: str, style: StreamStyle) -> None:
    house = House()
    sent = await send(house, start(house, text, ChatEvents("1f", style)))
    told = [json.loads(only_event(body)) for body in sent]
    assert {one["message_id"] for one in told} == {"1f"}
    assert len(told) == max(len(text), 1)
    assert ("".join(one["text"] for one in told) if style == "delta" else told[-1]["text"]) == text
    assert house.recorder.row.response == text
    # The end waits for the row.
    assert house.events.index("commit") >= len(house.events) - 2


@given(texts, texts)
async def test_a_repeated_prompt_leaves_by_itself(text: str, echo: str) -> None:
    house = House()
    events = TextEvents(echo)
    sent = await send(house, start(house, text, events, events.opening))
    told = [only_event(body) for body in sent]
    assert "".join(told) == (echo + text).replace("\r\n", "\n").replace("\r", "\n")
    assert told[: bool(echo)] == [echo.replace("\r\n", "\n").replace("\r", "\n")][: bool(echo)]
    assert house.recorder.row.response == text


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("deltas", [1, 2])
async def test_an_engine_that_breaks_in_mid_stream_ends_it_with_an_event(deltas: int, raw: bool) -> None:
    house = House(BreakingEngine(deltas, GenerationFailed("inside")))
    events = TextEvents() if raw else ChatEvents("1f")
    *told, failure = await send(house, start(house, "abc", events))
    assert failure == (
        b'data: {"code": 500, "msg": "The engine failed on this request.", "text": "", '
        b'"message_id": "1f"}\r\n\r\n'
    )
    texts_told = [only_event(body) if raw else json.loads(only_event(body))["text"] for body in told]
    assert texts_told == list("abc"[:deltas])
    assert house.recorder.row.status == "error"


@pytest.mark.parametrize("opening", [b"", b"data: echo\r\n\r\n"])
async def test_nothing_leaves_before_the_engines_first_output(opening: bytes) -> None:
    house = House(BreakingEngine(0, EngineDead("inside")))
    with pytest.raises(GatewayError) as raised:
        await send(house, start(house, "abc", TextEvents(), opening))
    assert raised.value.status == 503
    assert house.client.messages == []


async def test_what_the_engine_refuses_late_names_the_clients_field() -> None:
    house = House(BreakingEngine(0, RequestRefused("The prompt is too long.", "prompt")))
    with pytest.raises(InvalidRequest) as refused:
        await send(house, start(house, "abc", ChatEvents("1f")))
    assert (refused.value.param, refused.value.message) == ("query", "'query': The prompt is too long.")


async def test_a_drain_ends_a_stream_with_an_event() -> None:
    house = House(SimulatedEngine(tokens_per_second=ONE_IN_1000_SECONDS))
    task = asyncio.create_task(send(house, start(house, "abc", ChatEvents("1f"))))
    await house.client.has_text.wait()
    await house.generations.drain(0)
    await task
    first, last = (json.loads(data) for data in event_source(house.client.body.decode()))
    assert first == {"text": "a", "message_id": "1f"}
    assert (last["code"], last["text"]) == (500, "")
    assert "shutting down" in last["msg"]


async def test_an_answer_in_one_piece_is_as_no_proxy_may_keep_it() -> None:
    for media_type, headers in (("text/event-stream", True), (JSON, False)):
        house = House()
        generation = house.open(echo_request("abc"), "abc")
        response = await in_one_piece(generation, str.encode, media_type)
        assert response.body == b"abc"
        assert response.headers["content-type"].split(";")[0] == media_type
        assert (response.headers.get("x-accel-buffering") == "no") == headers
        assert (response.headers.get("cache-control") == "no-cache") == headers


@pytest.mark.parametrize(
    ("error", "param", "message"),
    [
        (ModelNotFound("'m' is not served.", "model"), "model_name", "'model_name': 'm' is not served."),
        (ContextLengthExceeded("Too long.", "messages"), "query", "'query': Too long."),
        (
            InvalidRequest("Invalid 'messages[0].content': no.", "messages.0.content"),
            "query",
            "Invalid 'query': no.",
        ),
        (InvalidRequest("Invalid 'history[1]': no.", "history.1"), "history.1", None),
        (InvalidRequest("Too many for 'max_tokens'.", "max_tokens"), "max_tokens", None),
        (InvalidRequest("No.", None), None, None),
    ],
)
def test_a_refusal_names_what_the_client_sent(
    error: InvalidRequest, param: str | None, message: str | None
) -> None:
    said = error.message
    name_as_sent(error, NAMES)
    assert (error.param, error.message) == (param, message or said)


@pytest.mark.parametrize(
    ("accept", "json_only"),
    [
        ([], False),
        (["*/*"], False),
        (["text/event-stream"], False),
        (["application/json"], True),
        (["Application/JSON; charset=utf-8"], True),
        (["application/json, text/plain"], True),
        (["application/json, text/plain, */*"], False),
        (["application/json", "text/event-stream"], False),
        (["application/json, */*;q=0.1"], False),
    ],
)
def test_which_clients_want_nothing_but_json(accept: list[str], json_only: bool) -> None:
    headers = [(b"accept", value.encode()) for value in accept]
    assert wants_json(Request({"type": "http", "headers": headers})) == json_only
