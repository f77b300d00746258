"""Chatchat's and fufan's routes on the real engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.end_to_end.question import QUESTION
from tests.end_to_end.served import Gateway
from tests.event_streams import EventReader

pytestmark = pytest.mark.vllm

GREEDY = {"temperature": 0, "max_tokens": 24}


def streamed(gateway: Gateway, path: str, body: dict[str, Any]) -> list[str]:
    """The data of each event."""
    reader = EventReader()
    with httpx.stream("POST", gateway.base_url + path, json=body, timeout=120) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [event.data for piece in response.iter_bytes() for event in reader.feed(piece)]


@pytest.mark.parametrize("path", ["/chat/chat", "/api/chat"])
def test_a_conversation_is_remembered_and_is_rows(demo: Gateway, path: str) -> None:
    conversation = f"real{path}"
    asked = {"conversation_id": conversation, "history_len": 5, "stream": True, **GREEDY}
    answers = []
    for turn, query in enumerate([QUESTION, "What did I ask?"]):
        events = [json.loads(data) for data in streamed(demo, path, {"query": query, **asked})]
        assert len(events) > 1
        text, (message_id,) = "".join(event["text"] for event in events), {e["message_id"] for e in events}
        row = demo.row(message_id)
        assert (row["query"], row["response"]) == (query, text)
        assert (row["conversation_id"], row["meta_data"]["turns"]) == (conversation, turn)
        assert row["completion_tokens"] > 1
        answers.append((text, row["prompt_tokens"]))
    assert "Paris" in answers[0][0]
    assert answers[1][1] > answers[0][1]


def test_one_piece_says_what_the_stream_says(demo: Gateway) -> None:
    body = {"query": QUESTION, **GREEDY}
    pieces = [json.loads(data)["text"] for data in streamed(demo, "/chat/chat", body | {"stream": True})]
    (whole,) = [json.loads(data)["text"] for data in streamed(demo, "/chat/chat", body)]
    plain = httpx.post(f"{demo.base_url}/api/chat", json=body | {"stream": False}, timeout=120).json()
    assert "".join(pieces) == whole == plain["text"]


def test_a_completion_is_raw_text(demo: Gateway) -> None:
    body = {"query": "The capital of France is", "echo": True, "stream": True, **GREEDY}
    prompt, *pieces = streamed(demo, "/other/completion", body)
    assert prompt == body["query"]
    assert "Paris" in "".join(pieces)


def test_feedback_is_on_the_row(demo: Gateway) -> None:
    answer = httpx.post(
        f"{demo.base_url}/api/chat", json={"query": "Hello", "stream": False, **GREEDY}, timeout=120
    ).json()
    said = {"message_id": answer["message_id"], "score": 90, "reason": "好"}
    assert httpx.post(f"{demo.base_url}/chat/feedback", json=said).json()["code"] == 200
    row = demo.row(answer["message_id"])
    assert (row["feedback_score"], row["feedback_reason"]) == (90, "好")


def test_the_wrapper_of_courses(demo: Gateway) -> None:
    first = httpx.post(
        f"{demo.base_url}/chat/new/message/", json={"prompt": QUESTION, **GREEDY}, timeout=120
    ).json()
    assert "Paris" in first["response"]
    assert first["status"] == 200
    second = {"prompt": "What did I ask?", "history": first["history"], **GREEDY}
    answer = httpx.post(f"{demo.base_url}/chat/new/message/", json=second, timeout=120).json()
    assert answer["history"][:-2] == first["history"]
