"""The official client's parser, and what else reads Chatchat's streams, at the running server: nothing is
lost. What httpx gives it piece by piece is what the wire brought, so this is about body messages, too."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.end_to_end.served import Gateway
from tests.sse_clients import by_line, event_source, fetch_event_source, official

PATHS = ("/chat/chat", "/api/chat")
WIDE = "👩‍👧\U0010ffff中\u0301é"
NASTY = (
    '\u2028\u2029\x85\0\x0b\x0c\x1c\x1d\x1e\r\n\n\r\t"\\/{}{{ input }}{% raw %}data: : ping\n\ndata: [DONE]'
)
TEXTS = {
    "300 tokens at once": "你好" * 150,
    "wide": WIDE * 60,
    "nasty": NASTY * 4,
    "one token": "x",
    "nothing": "",
    "ends in a newline": "a\n",
    "looks like an event": 'data: {"text": "x"}\r\n\r\n',
}


def read_officially(
    client: httpx.Client, path: str, body: dict[str, Any], **headers: str
) -> list[dict[str, Any]]:
    """What the official client makes of an answer."""
    with client.stream("POST", path, json=body, headers=headers) as answer:
        return list(official(answer.iter_text(None)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_nothing_of_a_stream_is_lost(simulated: Gateway, client: httpx.Client, path: str, text: str) -> None:
    told = read_officially(client, path, {"query": text, "stream": True})
    assert [list(one) for one in told] == [["text", "message_id"]] * max(len(text), 1)
    assert "".join(one["text"] for one in told) == text
    [message_id] = {one["message_id"] for one in told}
    assert simulated.row(message_id)["response"] == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_others_lose_nothing_either(client: httpx.Client, text: str) -> None:
    body = {"query": text, "stream": True}
    stream = client.post("/chat/chat", json=body).text
    for read in (event_source, fetch_event_source):
        assert "".join(json.loads(data)["text"] for data in read(stream)) == text
    with client.stream("POST", "/chat/chat", json=body) as answer:
        assert "".join(one["text"] for one in by_line(answer.iter_lines())) == text


@pytest.mark.parametrize("text", [*TEXTS.values(), "中:" * 8_000, NASTY * 4_000])
def test_nothing_of_an_answer_in_one_piece_is_lost(client: httpx.Client, text: str) -> None:
    [told] = read_officially(client, "/chat/chat", {"query": text})
    assert told["text"] == text
    stream = client.post("/chat/chat", json={"query": text}).text
    assert [json.loads(data)["text"] for data in event_source(stream)] == [text]


def test_a_reader_that_is_far_behind_loses_nothing(simulated: Gateway, client: httpx.Client) -> None:
    """It begins when all is there: 600 events, which are less than httpx reads at once (64 KiB)."""
    conversation = uuid4().hex
    body = {"query": "你好" * 300, "stream": True, "conversation_id": conversation}
    with client.stream("POST", "/chat/chat", json=body) as answer:
        simulated.wait_for(
            lambda: simulated.rows("conversation_id = $1 AND status = 'completed'", conversation)
        )
        told = list(official(answer.iter_text(None)))
    assert "".join(one["text"] for one in told) == body["query"]


def test_many_slow_streams_at_once_lose_nothing(slow: Gateway) -> None:
    """Comments are on there, for OpenAI's clients."""

    def ask(number: int) -> str:
        with httpx.Client(base_url=slow.base_url, timeout=60) as client:
            told = read_officially(client, PATHS[number % 2], {"query": f"{number}: {WIDE}", "stream": True})
            return "".join(one["text"] for one in told)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(20))) == [f"{number}: {WIDE}" for number in range(20)]


def test_a_failure_in_mid_stream_is_an_error_to_it(slow: Gateway) -> None:
    with httpx.Client(base_url=slow.base_url, timeout=60) as client:
        body = {"query": "x" * 400, "stream": True}
        *told, failure = read_officially(client, "/chat/chat", body, **{"x-request-timeout": "2"})
    assert told
    assert all("code" not in one for one in told)
    assert failure["code"] == 500
    assert failure["msg"]
    assert failure["message_id"] == told[0]["message_id"]
    # Whoever knows no errors adds nothing.
    assert failure["text"] == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"model_name": "gpt"},
        {"prompt_name": "gpt"},
        {"temperature": 2.1},
        {"history": [{"role": "wizard", "content": "x"}]},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_is_an_error_to_it(client: httpx.Client, fields: dict[str, Any], stream: bool) -> None:
    [failure] = read_officially(client, "/chat/chat", {"query": "x", "stream": stream} | fields)
    assert failure["code"] in (400, 404, 422)
    assert failure["msg"]
    assert failure["data"] is None
