"""Reads answers the ways they may come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from adapters.chat_format import ContentLogprob, Conversation, Reader
from engine.base import ChatMessage, Delta, FinishReason, TokenLogprob, Tool
from tests.adapters.template_models import SEARCH, WEATHER, Model

Told = tuple[str, list[tuple[str, str]], str]

TOOLS = [WEATHER, SEARCH]


def asking(may_call: Sequence[Tool] = TOOLS, *, parallel: bool = True, **more: Any) -> Conversation:
    return Conversation(
        [ChatMessage("user", "Rain?")],
        tools=TOOLS,
        may_call=may_call,
        parallel_tool_calls=parallel,
        **more,
    )


def read(reader: Reader, deltas: Sequence[Delta]) -> Told:
    """What a client is told: text, calls, why it ended."""
    texts: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for delta in deltas:
        piece = reader.read(delta)
        texts.append(piece.text)
        for call in piece.tool_calls:
            if call.name is not None:
                assert (call.index, call.arguments) == (len(calls), "")
                calls.append((call.name, []))
            else:
                calls[call.index][1].append(call.arguments)
        if piece.ended:
            break
    finish_reason = deltas[-1].finish_reason
    assert finish_reason is not None
    return (
        "".join(texts),
        [(name, "".join(arguments)) for name, arguments in calls],
        reader.end_reason(finish_reason),
    )


def deltas_of(parts: Sequence[str], finish_reason: FinishReason = "stop") -> list[Delta]:
    last = len(parts) - 1
    return [Delta(part, [], finish_reason if index == last else None) for index, part in enumerate(parts)]


def cuts(text: str) -> Iterator[list[str]]:
    """In one, at each place in two, and character by character with a last one that is empty."""
    yield [text]
    for at in range(len(text) + 1):
        yield [text[:at], text[at:]]
    yield [*text, ""]


def read_all_ways(new_reader: Callable[[], Reader], text: str, finish_reason: FinishReason = "stop") -> Told:
    """The same however the text comes."""
    told = {json.dumps(read(new_reader(), deltas_of(parts, finish_reason))) for parts in cuts(text)}
    (one,) = told
    content, calls, end_reason = json.loads(one)
    return content, [tuple(call) for call in calls], end_reason


def decoded(model: Model, ids: Sequence[int], *, skip_special_tokens: bool) -> list[str]:
    """The text that vLLM gives with each id; it leaves out that of the end of sequence."""
    stream = _stream(skip_special_tokens)
    end = model.tokenizer.eos_token_id
    return [stream.step(model.tokenizer.backend_tokenizer, id_) or "" if id_ != end else "" for id_ in ids]


def _stream(skip_special_tokens: bool) -> Any:
    from tokenizers.decoders import DecodeStream

    return DecodeStream(ids=[], skip_special_tokens=skip_special_tokens)


def token_deltas(model: Model, ids: Sequence[int], at: Sequence[int], *, skip: bool) -> list[Delta]:
    """The engine's Deltas for ``ids``, with logprobs, cut at ``at``."""
    texts = decoded(model, ids, skip_special_tokens=skip)
    bounds = [0, *at, len(ids)]
    deltas = []
    for start, end in pairwise(bounds):
        part = ids[start:end]
        logprobs = [TokenLogprob(token_id, -0.5, [(token_id, -0.5)]) for token_id in part]
        deltas.append(Delta("".join(texts[start:end]), part, logprobs=logprobs))
    deltas[-1].finish_reason = "stop"
    return deltas


def logprobs_of(reader: Reader, deltas: Sequence[Delta]) -> list[ContentLogprob]:
    return [one for delta in deltas for one in reader.read(delta).logprobs]
