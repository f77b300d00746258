"""What any reader of event streams may count on: the standard's way of reading is enough, and takes every
event for what it is. Nothing is told of ids, types or reconnecting: an answer is given once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end.served import Gateway
from tests.event_streams import EventReader

# Each character here ends a line somewhere.
TEXT = "a\nb\r\nc\rd\u2028e\u2029f\u0085g\x0ch\x1ci data: j\n\ndata: k\n: l\nid: m\n你好👋"
LINES = "a\nb\n\ndata: c\n: d\nid: e\n 你好👋"

Body = dict[str, Any]


def messages(text: str) -> Body:
    return {"messages": [{"role": "user", "content": text}]}


def query(text: str) -> Body:
    return {"query": text}


def prompt(text: str) -> Body:
    return {"prompt": text, "max_tokens": 1000}


OPENAI: dict[str, Callable[[str], Body]] = {
    "/v1/chat/completions": messages,
    "/v1/completions": prompt,
    "/chat/chat/completions": messages,
}
NATIVE: dict[str, Callable[[str], Body]] = {"/chat/chat": query, "/api/chat": query}
COMPLETION = "/other/completion"
ALL = OPENAI | NATIVE | {COMPLETION: query}


def read(client: httpx.Client, path: str, body: Body, **headers: str) -> tuple[list[str], EventReader]:
    """The data of a stream's events, and what read them. The stream has to end as HTTP has it."""
    reader, events = EventReader(), []
    with client.stream("POST", path, json=body | {"stream": True}, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        kind, _, charset = answer.headers["content-type"].partition(";")
        assert kind == "text/event-stream"
        assert charset.strip().lower() in ("", "charset=utf-8")
        for received in answer.iter_raw():
            events += reader.feed(received)
    assert not reader.unfinished
    assert reader.retry_ms is None
    assert {(event.type, event.last_event_id) for event in events} == {("message", "")}
    return [event.data for event in events], reader


def openai_text(path: str, chunk: Any) -> str:
    (choice,) = chunk["choices"]
    text: str = choice["text"] if path == "/v1/completions" else choice["delta"].get("content", "")
    return text


@pytest.mark.parametrize("path", OPENAI)
def test_each_event_of_openais_streams_is_a_chunk_and_the_last_is_done(
    client: httpx.Client, path: str
) -> None:
    (*chunks, done), _ = read(client, path, OPENAI[path](TEXT))
    assert done == "[DONE]"
    assert "".join(openai_text(path, json.loads(chunk)) for chunk in chunks) == TEXT


@pytest.mark.parametrize("path", NATIVE)
def test_each_event_of_a_native_stream_is_an_object_and_nothing_comes_after(
    client: httpx.Client, path: str
) -> None:
    data, _ = read(client, path, NATIVE[path](TEXT))
    pieces = [json.loads(piece) for piece in data]
    assert "".join(piece["text"] for piece in pieces) == TEXT
    assert len({piece["message_id"] for piece in pieces}) == 1


def test_the_data_of_a_native_completion_is_its_text(client: httpx.Client) -> None:
    data, _ = read(client, COMPLETION, query(LINES))
    assert "".join(data) == LINES


@pytest.fixture(scope="module")
def slow_client(slow: Gateway) -> Iterator[httpx.Client]:
    """A client of a gateway that lets wait, and says so in comments where they disturb nobody."""
    with httpx.Client(base_url=slow.base_url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", ALL)
def test_comments_stand_only_where_clients_expect_them(slow_client: httpx.Client, path: str) -> None:
    _, reader = read(slow_client, path, ALL[path]("slow"))
    assert set(reader.comments) == ({"keep-alive"} if path in OPENAI else set())


@pytest.fixture(scope="module")
def cut_off(slow_client: httpx.Client) -> dict[str, list[str]]:
    """The data of a stream that a deadline cuts, by its path; long before it, its first token has come."""

    def data_of(path: str) -> list[str]:
        return read(slow_client, path, ALL[path]("slow" * 50), **{"x-request-timeout": "3"})[0]

    paths = [*OPENAI, *NATIVE]
    with ThreadPoolExecutor(len(paths)) as together:
        return dict(zip(paths, together.map(data_of, paths), strict=True))


@pytest.mark.parametrize("path", [*OPENAI, *NATIVE])
def test_a_failure_on_the_way_is_the_last_event(cut_off: dict[str, list[str]], path: str) -> None:
    *pieces, last = [json.loads(piece) for piece in cut_off[path]]
    assert pieces
    told = last["error"]["message"] if path in OPENAI else last["msg"]
    assert "3 seconds" in told
    if path in NATIVE:
        assert last["code"] != 200
        assert (last["text"], last["message_id"]) == ("", pieces[0]["message_id"])


@pytest.mark.parametrize("path", ALL)
def test_a_browsers_own_eventsource_is_told_at_once_that_it_can_only_get(
    client: httpx.Client, path: str
) -> None:
    """Anything but a 200 with events, and it does not come again."""
    refused = client.get(path, headers={"accept": "text/event-stream"})
    assert refused.status_code == 405
    assert refused.headers["content-type"] == "application/json"
