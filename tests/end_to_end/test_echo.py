"""What goes in comes out: with the simulated engine every byte of an answer is known beforehand."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.end_to_end.served import Gateway

# Every Unicode scalar value; weighted towards what breaks servers.
TEXT = st.one_of(
    st.text(),
    st.text(st.sampled_from('\0\x01\n\r\u2028\ufdd0\ufffe\ufffd"\\{}aé你👋\u0301🏳️‍🌈')),
    st.text(min_size=200, max_size=2000),
)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "simulated", "messages": [{"role": "user", "content": text}]} | more


def streamed(client: httpx.Client, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The concatenated text, and all chunks; the stream ends well."""
    answer = client.post(
        "/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert answer.status_code == 200, answer.text
    events = answer.content.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices), chunks


@settings(max_examples=150, deadline=None)
@given(TEXT)
@example("")
@example("\0")
@example("\ufdd0" * 3 + "\0")
def test_streamed_whole_and_stored_answers_equal_the_query(simulated: Gateway, text: str) -> None:
    with httpx.Client(base_url=simulated.base_url) as client:
        whole = client.post("/v1/chat/completions", json=asked(text)).json()
        joined, chunks = streamed(client, asked(text))
        completed = client.post("/v1/completions", json={"prompt": text, "max_tokens": None}).json()
    assert joined == whole["choices"][0]["message"]["content"] == completed["choices"][0]["text"] == text
    counts = {"prompt_tokens": len(text), "completion_tokens": len(text)}
    for answer in (whole, chunks[-1], completed):
        assert answer["usage"].items() >= counts.items()
    stored = simulated.rows(
        "id = any($1::text[]::uuid[])", [one["id"].split("-")[1] for one in (whole, chunks[0], completed)]
    )
    assert len(stored) == 3
    for row in stored:
        assert row["query"] == row["response"] == text
        assert row.items() >= counts.items()
        assert (row["status"], row["finish_reason"], row["model"]) == ("completed", "stop", "simulated")


def test_a_hundred_thousand_characters(simulated: Gateway, client: httpx.Client) -> None:
    text = "".join(chr(0x4E00 + index % 20_000) for index in range(99_999)) + "👋"
    joined, chunks = streamed(client, asked(text))
    assert joined == text
    assert chunks[-1]["usage"]["completion_tokens"] == 100_000
    assert simulated.row(chunks[0]["id"])["response"] == text


@pytest.mark.parametrize("escaped", ["\\ud83d", "a\\udc4b", "\\udc4b\\ud83d", "\\ud83d\\ud83d\\udc4b"])
@pytest.mark.parametrize("field", ["messages", "prompt"])
def test_lone_surrogates_are_refused(client: httpx.Client, escaped: str, field: str) -> None:
    message = f'[{{"role":"user","content":"{escaped}"}}]'
    body = f'{{"{field}":{message if field == "messages" else json.dumps("x").replace("x", escaped)}}}'
    url = "/v1/chat/completions" if field == "messages" else "/v1/completions"
    answer = client.post(url, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("limit", [None, 0, -1, -5])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_no_positive_limit_means_the_rest_of_the_context(
    client: httpx.Client, limit: int | None, field: str
) -> None:
    text = "x" * 5000
    answer = client.post("/v1/chat/completions", json=asked(text, **{field: limit})).json()
    assert answer["choices"][0]["message"]["content"] == text
    if field == "max_tokens":
        completion = client.post("/v1/completions", json={"prompt": text, "max_tokens": limit}).json()
        assert completion["choices"][0]["text"] == text


def test_a_completion_without_a_limit_has_sixteen_tokens(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"prompt": "x" * 50}).json()
    assert answer["choices"][0]["text"] == "x" * 16
    assert answer["choices"][0]["finish_reason"] == "length"


@settings(max_examples=60, deadline=None)
@given(
    st.text("abc👋", max_size=40),
    st.lists(st.text("abc👋", min_size=1, max_size=3), max_size=4),
    st.integers(1, 50),
)
def test_stop_and_limit_cut_streams_and_whole_answers_alike(
    simulated: Gateway, text: str, stop: list[str], limit: int
) -> None:
    body = asked(text, stop=stop, max_tokens=limit)
    with httpx.Client(base_url=simulated.base_url) as client:
        whole = client.post("/v1/chat/completions", json=body).json()
        joined, chunks = streamed(client, body)
    choice = whole["choices"][0]
    assert joined == choice["message"]["content"]
    assert text.startswith(joined)
    assert not any(string in joined for string in stop)
    assert chunks[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_whole_conversation_is_kept_with_its_row(simulated: Gateway, client: httpx.Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief.\0"},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
    ]
    answer = client.post("/v1/chat/completions", json={"messages": messages}).json()
    row = simulated.row(answer["id"])
    assert (row["query"], row["response"]) == ("Two?", "Two?")
    assert row["messages"] == messages
