from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import GenerationFailed
from engine.event_stream import EventReader
from engine.upstream_answer import AnswerReader, Text
from tests.engine.upstream_server import answer, events, finish, piece, usage_of
from tests.strategies import json_values, texts

halves = st.text(alphabet=st.sampled_from("\ud83d\udc4b\udfff aé👋"), max_size=12)


def utf_16(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def read(pieces: list[bytes]) -> tuple[str, int, str | None]:
    events_, reader, text, tokens = EventReader(10**6), AnswerReader(), "", 0
    for data in pieces:
        for event in events_.feed(data):
            reader.feed_event(event)
        delta = reader.take(reader.finish_reason if reader.done else None)
        assert delta.told is not None
        text, tokens = text + delta.text, tokens + delta.told.completion_tokens
    return text, tokens, reader.finish_reason


@given(st.lists(texts, max_size=5), st.data())
def test_the_answer_is_the_same_however_its_bytes_are_cut(parts: list[str], data: st.DataObject) -> None:
    raw = b"".join(events(*map(piece, parts), finish("length"), usage_of(3, len(parts))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    expected = ("".join(parts), len(parts), "length")
    assert read(pieces) == read([bytes([one]) for one in raw]) == expected


@given(st.lists(halves, max_size=5))
def test_halves_of_a_code_point_come_together_and_what_stays_alone_is_no_text(parts: list[str]) -> None:
    text, told = Text(), ""
    for part in parts:
        text.add(part)
        told += text.take()
        told.encode()
    text.end()
    told += text.take()
    assert told == utf_16("".join(parts))


@given(st.lists(halves, max_size=4))
def test_a_whole_answer_is_what_its_stream_would_be(parts: list[str]) -> None:
    whole = AnswerReader()
    whole.feed_body(json.dumps(answer("".join(parts)) | usage_of(1, 2)).encode())
    delta = whole.take(whole.finish_reason)
    streamed, _, _ = read([b"".join(events(*map(piece, parts), finish("stop")))])
    assert delta.text == streamed
    assert delta.told is not None
    assert (delta.told.completion_tokens, delta.told.counted) == (2, True)


PATHS = [
    ("choices",),
    ("choices", 0),
    ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "message", "tool_calls"),
    ("choices", 0, "message", "tool_calls", 0),
    ("choices", 0, "message", "tool_calls", 0, "function"),
    ("choices", 0, "message", "tool_calls", 0, "function", "name"),
    ("choices", 0, "logprobs"),
    ("choices", 0, "logprobs", "content", 0, "logprob"),
    ("choices", 0, "logprobs", "content", 0, "bytes"),
    ("choices", 0, "finish_reason"),
    ("usage",),
    ("usage", "prompt_tokens"),
    ("usage", "completion_tokens"),
    ("usage", "prompt_tokens_details"),
]


@given(st.sampled_from(PATHS), json_values)
def test_whatever_stands_somewhere_is_read_or_refused(path: tuple[str | int, ...], value: Any) -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    body: Any = answer("a", tool_calls=[call]) | usage_of(1, 2)
    body["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -1.0, "bytes": [97]}]}
    at = body
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    reader = AnswerReader()
    try:
        reader.feed_body(json.dumps(body).encode())
    except GenerationFailed:
        return
    delta = reader.take(reader.finish_reason)
    assert delta.told is not None
    delta.text.encode()
    json.dumps([delta.text, delta.prompt_tokens, delta.told.completion_tokens], allow_nan=False)
    assert all(-9999.0 <= one.logprob <= 0.0 for one in delta.told.logprobs)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"choices":' + b"9" * 9000,
        b'{"choices":[{"message":{"content":"a"}}]}',
        b'{"choices":[],"usage":{"prompt_tokens":1e999,"completion_tokens":1}}',
    ],
    ids=range(9),
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(GenerationFailed):
        AnswerReader().feed_body(body)


def test_a_count_that_goes_back_is_not_believed() -> None:
    reader = AnswerReader()
    for chunk in (piece("a") | usage_of(1, 5), piece("b") | usage_of(1, 3), finish("stop") | usage_of(1, 6)):
        reader.feed_event(json.dumps(chunk).encode())
    told = reader.take("stop").told
    assert told is not None
    assert told.completion_tokens == 6
