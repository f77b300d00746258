from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from adapters.chat_format import Answer, ContentLogprob, EndReason, Piece, ToolCallDelta
from adapters.openai import answer_types
from adapters.openai.answers import Envelope, Head, Wanted
from adapters.openai.answers import chat_completion as chat_completion_of_many
from adapters.openai.answers import completion as completion_of_many
from adapters.openai.chunks import ChatChunks, CompletionChunks, event
from engine.base import ToolCall, Usage
from tests.strategies import json_values, texts

DONE = b"data: [DONE]\n\n"
USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
USAGE_FIELDS = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}

Chunks = ChatChunks | CompletionChunks
envelopes = st.builds(
    Envelope, id=texts, model=texts, created=st.integers(0, 2**40), system_fingerprint=texts
)
kinds = st.sampled_from([ChatChunks, CompletionChunks])
reasons: st.SearchStrategy[EndReason] = st.sampled_from(["stop", "length"])
ENVELOPE = Envelope("chatcmpl-1", "m", 1_700_000_000, "f")


# What /openapi.json says of the answers: all that is written here has to be so.
WHOLE_CHAT = TypeAdapter(answer_types.ChatCompletion)
WHOLE_COMPLETION = TypeAdapter(answer_types.Completion)
CHUNK: dict[type[Chunks], TypeAdapter[Any]] = {
    ChatChunks: TypeAdapter(answer_types.ChatCompletionChunk),
    CompletionChunks: TypeAdapter(answer_types.CompletionChunk),
}


def chat_completion(envelope: Envelope, wanted: Wanted, answer: Answer, usage: Usage) -> bytes:
    """Of one choice."""
    body = chat_completion_of_many(envelope, wanted, [Head()], [answer], usage)
    WHOLE_CHAT.validate_json(body, strict=True)
    return body


def completion(envelope: Envelope, wanted: Wanted, answer: Answer, usage: Usage) -> bytes:
    """Of one choice."""
    body = completion_of_many(envelope, wanted, [Head()], [answer], usage)
    WHOLE_COMPLETION.validate_json(body, strict=True)
    return body


def more(chunks: Chunks, piece: Piece) -> bytes:
    """Of the only choice."""
    data = chunks.more(0, piece, USAGE)
    for one in events(data) if data else ():
        CHUNK[type(chunks)].validate_json(one, strict=True)
    return data


def events(data: bytes) -> list[str]:
    """The data of server-sent events, as the standard has them read."""
    assert data.endswith(b"\n\n")
    blocks = data.removesuffix(b"\n\n").split(b"\n\n")
    for block in blocks:
        assert block.startswith(b"data: ")
        assert not set(b"\n\r") & set(block)
    return [block.removeprefix(b"data: ").decode() for block in blocks]


def frames(chunks: Chunks, pieces: list[str], finish_reason: EndReason = "stop") -> list[bytes]:
    """All writes of one stream."""
    written = [more(chunks, Piece(piece)) for piece in pieces]
    last = chunks.last([finish_reason], USAGE)
    for one in events(last)[:-1]:
        CHUNK[type(chunks)].validate_json(one, strict=True)
    return [*written, last]


def stream(chunks: Chunks, pieces: list[str], finish_reason: EndReason = "stop") -> list[dict[str, Any]]:
    """The objects of one stream, which ends in ``[DONE]``."""
    data = b"".join(frames(chunks, pieces, finish_reason))
    assert data.endswith(DONE)
    assert data.count(DONE) == 1 or any("[DONE]" in piece for piece in pieces)
    return [json.loads(one) for one in events(data)[:-1]]


def text_of(chunk: dict[str, Any]) -> str:
    choice = chunk["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return text


@given(kinds, envelopes, st.booleans(), st.lists(texts, max_size=6), reasons)
def test_the_chunks_joined_are_the_text_and_all_say_the_same_of_the_answer(
    kind: type[Chunks], envelope: Envelope, include_usage: bool, pieces: list[str], finish_reason: EndReason
) -> None:
    chunks = stream(kind(envelope, Wanted(include_usage)), pieces, finish_reason)
    for chunk in chunks:
        assert chunk.items() >= envelope.fields(kind.kind).items()
    with_choice = [chunk for chunk in chunks if chunk["choices"]]
    assert "".join(map(text_of, with_choice)) == "".join(pieces)
    assert [chunk["choices"][0]["finish_reason"] for chunk in with_choice] == [None] * (
        len(with_choice) - 1
    ) + [finish_reason]


@given(kinds, st.booleans(), st.lists(texts.filter(bool), min_size=1, max_size=6))
def test_usage_comes_last_and_only_when_asked_for(
    kind: type[Chunks], include_usage: bool, pieces: list[str]
) -> None:
    chunks = stream(kind(ENVELOPE, Wanted(include_usage)), pieces)
    if include_usage:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == USAGE_FIELDS
        assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    else:
        assert all("usage" not in chunk for chunk in chunks)
        assert all(chunk["choices"] for chunk in chunks)


@given(kinds, texts.filter(bool))
def test_each_piece_of_text_is_one_event(kind: type[Chunks], text: str) -> None:
    chunks = kind(ENVELOPE, Wanted())
    more(chunks, Piece("first"))
    data = more(chunks, Piece(text))
    assert len(events(data)) == 1
    # Also to a reader that takes each line for itself, and ends lines where Python does.
    assert len(data.decode().splitlines()) == 2


@given(st.lists(texts, max_size=4), st.booleans())
def test_openais_own_library_reads_a_chat(pieces: list[str], include_usage: bool) -> None:
    chunks = [
        ChatCompletionChunk.model_validate(chunk, strict=True)
        for chunk in stream(ChatChunks(ENVELOPE, Wanted(include_usage)), pieces, "length")
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:] if chunk.choices)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
    text = "".join(pieces)
    whole = ChatCompletion.model_validate_json(
        chat_completion(ENVELOPE, Wanted(), Answer(text, "stop"), USAGE)
    )
    assert whole.choices[0].message.content == text
    assert whole.usage is not None
    assert whole.usage.total_tokens == 10


@given(texts, st.booleans())
def test_openais_own_library_reads_a_completion(text: str, include_usage: bool) -> None:
    for chunk in stream(CompletionChunks(ENVELOPE, Wanted(include_usage)), [text]):
        if chunk["choices"] and chunk["choices"][0]["finish_reason"] is not None:
            Completion.model_validate(chunk)
    whole = Completion.model_validate_json(completion(ENVELOPE, Wanted(), Answer(text, "length"), USAGE))
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (text, "length")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens_details is not None
    assert whole.usage.prompt_tokens_details.cached_tokens == 4


@given(envelopes, texts, reasons)
def test_a_whole_answer_says_the_same_as_a_stream(envelope: Envelope, text: str, reason: EndReason) -> None:
    chat = json.loads(chat_completion(envelope, Wanted(), Answer(text, reason), USAGE))
    plain = json.loads(completion(envelope, Wanted(), Answer(text, reason), USAGE))
    assert chat.items() >= envelope.fields("chat.completion").items()
    assert plain.items() >= envelope.fields("text_completion").items()
    assert chat["usage"] == plain["usage"] == USAGE_FIELDS
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert plain["choices"][0]["text"] == text
    assert chat["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"] == reason


def test_the_role_comes_in_the_same_write_as_the_first_text() -> None:
    role, text = (json.loads(one) for one in events(more(ChatChunks(ENVELOPE, Wanted()), Piece("Hi"))))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text["choices"][0]["delta"] == {"content": "Hi"}


def test_a_chat_without_text_still_has_its_role() -> None:
    first, last = stream(ChatChunks(ENVELOPE, Wanted()), [])
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["delta"] == {}


@pytest.mark.parametrize("kind", [ChatChunks, CompletionChunks])
def test_two_streams_do_not_share_anything(kind: type[Chunks]) -> None:
    one, two = kind(ENVELOPE, Wanted(True)), kind(Envelope("2", "other", 1, ""), Wanted())
    more(one, Piece("first"))
    before = more(one, Piece("x"))
    two.last(["stop"], USAGE)
    assert more(one, Piece("x")) == before != more(two, Piece("x"))


@given(st.dictionaries(texts, json_values, max_size=4))
def test_an_event_of_anything_is_one_event(fields: dict[str, Any]) -> None:
    (data,) = events(event(fields))
    assert json.loads(data) == fields
    assert len(data.splitlines()) == 1


CALLS = [
    [ToolCallDelta(0, "f", ""), ToolCallDelta(0, None, '{"a": 1'), ToolCallDelta(0, None, "}")],
    [ToolCallDelta(1, "g", ""), ToolCallDelta(1, None, "{}")],
]
LOGPROBS = [ContentLogprob("é".encode(), -0.5, [("é".encode(), -0.5), (b"\xf0\x9f", -2.0)])]


def test_openais_own_library_reads_tool_calls() -> None:
    chunks = ChatChunks(ENVELOPE, Wanted())
    data = more(chunks, Piece("text")) + b"".join(more(chunks, Piece(tool_calls=calls)) for calls in CALLS)
    read = [
        ChatCompletionChunk.model_validate_json(one)
        for one in events(data + chunks.last(["tool_calls"], USAGE))[:-1]
    ]
    told = [call for chunk in read for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.id, call.function and call.function.name) for call in told if call.id] == [
        (0, "call_100", "f"),
        (1, "call_101", "g"),
    ]
    joined = ["", ""]
    for call in told:
        assert call.function is not None
        joined[call.index] += call.function.arguments or ""
    assert joined == ['{"a": 1}', "{}"]
    assert read[-1].choices[0].finish_reason == "tool_calls"
    answer = Answer("", "tool_calls", [ToolCall("f", '{"a": 1}'), ToolCall("g", "{}")])
    whole = ChatCompletion.model_validate_json(chat_completion(ENVELOPE, Wanted(), answer, USAGE))
    assert whole.choices[0].message.content is None
    assert [call.id for call in whole.choices[0].message.tool_calls or ()] == ["call_100", "call_101"]


def test_a_client_of_functions_is_told_of_one_function_call() -> None:
    legacy = Wanted(legacy=True)
    chunks = ChatChunks(ENVELOPE, legacy)
    data = b"".join(more(chunks, Piece(tool_calls=calls)) for calls in CALLS) + chunks.last(
        ["tool_calls"], USAGE
    )
    read = [ChatCompletionChunk.model_validate_json(one) for one in events(data)[:-1]]
    told = [chunk.choices[0].delta.function_call for chunk in read]
    assert "".join(call.arguments or "" for call in told if call) == '{"a": 1}'
    assert [call.name for call in told if call and call.name] == ["f"]
    assert read[-1].choices[0].finish_reason == "function_call"
    body = chat_completion(ENVELOPE, legacy, Answer("", "tool_calls", [ToolCall("f", "{}")]), USAGE)
    whole = ChatCompletion.model_validate_json(body).choices[0]
    assert (whole.finish_reason, whole.message.tool_calls) == ("function_call", None)
    assert whole.message.function_call is not None


def test_openais_own_library_reads_logprobs() -> None:
    (first, *_) = stream_with_logprobs(ChatChunks(ENVELOPE, Wanted(logprobs=True)))
    chat = ChatCompletionChunk.model_validate(first).choices[0].logprobs
    assert chat is not None
    assert chat.content is not None
    token = chat.content[0]
    assert (token.token, token.bytes, token.logprob) == ("é", list("é".encode()), -0.5)
    assert (token.top_logprobs[1].token, token.top_logprobs[1].bytes) == ("\ufffd", [0xF0, 0x9F])
    first, second = stream_with_logprobs(CompletionChunks(ENVELOPE, Wanted(logprobs=True)))
    assert first["choices"][0]["logprobs"] == {
        "tokens": ["é"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"é": -0.5, "\ufffd": -2.0}],
        "text_offset": [0],
    }
    assert second["choices"][0]["logprobs"]["text_offset"] == [1]
    answer = Answer("é", "stop", logprobs=LOGPROBS)
    whole = json.loads(completion(ENVELOPE, Wanted(logprobs=True), answer, USAGE))
    assert Completion.model_validate(whole).choices[0].logprobs is not None
    unasked = json.loads(chat_completion(ENVELOPE, Wanted(), answer, USAGE))
    assert unasked["choices"][0]["logprobs"] is None


def stream_with_logprobs(chunks: Chunks) -> list[dict[str, Any]]:
    """The chunks of two pieces that have logprobs."""
    data = more(chunks, Piece("é", logprobs=LOGPROBS)) + more(chunks, Piece("é", logprobs=LOGPROBS))
    return [one for one in map(json.loads, events(data)) if one["choices"][0].get("logprobs")]
