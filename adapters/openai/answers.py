"""Whole answers in OpenAI's form.

Source: OpenAI's published specification (CreateChatCompletionResponse, CreateCompletionResponse); the
fields that vLLM's server adds (prompt_logprobs, prompt_token_ids, token_ids) are there where they were asked
for, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from adapters.chat_format import Answer, EndReason
from adapters.openai.logprobs import CompletionLogprobs, chat_logprobs, joined, prompt_logprobs
from engine.base import ToolCall, Usage


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of an answer repeats. ``id`` is the whole id, with its prefix; ``created`` Unix
    seconds; ``beside`` are another dialect's fields."""

    id: str
    model: str
    created: int
    system_fingerprint: str
    service_tier: str | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)

    def fields(self, kind: str) -> dict[str, Any]:
        tier = {} if self.service_tier is None else {"service_tier": self.service_tier}
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            **tier,
            "system_fingerprint": self.system_fingerprint,
            **self.beside,
        }


def no_bytes(token_id: int) -> bytes:
    """For answers in which no token is told."""
    return b""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer's form depends on beside the answer.

    ``usage``: a stream ends with a chunk of usage, and the others say ``usage: null``, or how much so far
    with ``continuous_usage``. ``logprobs``, ``prompt_logprobs`` and ``token_ids`` were asked for.
    ``legacy``: the client offers ``functions`` and knows no ``tool_calls``. ``bytes_of`` gives a token's
    bytes.
    """

    usage: bool = False
    continuous_usage: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    token_ids: bool = False
    legacy: bool = False
    bytes_of: Callable[[int], bytes] = no_bytes


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before one choice: the prompt that it answers, and ``echo``, the text that the client
    wants to have repeated."""

    prompt_token_ids: Sequence[int] = ()
    echo: str = ""


def usage_fields(usage: Usage) -> dict[str, Any] | None:
    """OpenAI's usage object; None where nobody knows."""
    if usage.untold:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _usage_beside(usage: Usage) -> dict[str, Any]:
    """A whole answer's usage may be left out, and can't be null."""
    fields = usage_fields(usage)
    return {} if fields is None else {"usage": fields}


def chat_completion(
    envelope: Envelope, wanted: Wanted, heads: Sequence[Head], answers: Sequence[Answer], usage: Usage
) -> bytes:
    """The body of a chat answer that is not streamed: one choice for each answer."""
    choices = [
        _chat_choice(envelope, wanted, index, head, answer)
        for index, (head, answer) in enumerate(zip(heads, answers, strict=True))
    ]
    fields = envelope.fields("chat.completion") | {"choices": choices} | _usage_beside(usage)
    if wanted.prompt_logprobs:
        fields["prompt_logprobs"] = prompt_logprobs(answers[0].prompt_logprobs, wanted.bytes_of)
    if wanted.token_ids:
        fields["prompt_token_ids"] = heads[0].prompt_token_ids
    return to_json(fields)


def _chat_choice(
    envelope: Envelope, wanted: Wanted, index: int, head: Head, answer: Answer
) -> dict[str, Any]:
    calls = [tool_call_fields(envelope, index, place, call) for place, call in enumerate(answer.tool_calls)]
    text = head.echo + answer.text
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["content"] = text or None
        message |= {"function_call": calls[0]["function"]} if wanted.legacy else {"tool_calls": calls}
    choice = {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(answer.logprobs) if wanted.logprobs else None,
        "finish_reason": finish_reason(answer.end_reason, wanted),
    }
    return choice | ({"token_ids": answer.token_ids} if wanted.token_ids else {})


def completion(
    envelope: Envelope, wanted: Wanted, heads: Sequence[Head], answers: Sequence[Answer], usage: Usage
) -> bytes:
    """The body of a completion that is not streamed: one choice for each answer."""
    choices = [
        _completion_choice(wanted, index, head, answer)
        for index, (head, answer) in enumerate(zip(heads, answers, strict=True))
    ]
    return to_json(envelope.fields("text_completion") | {"choices": choices} | _usage_beside(usage))


def _completion_choice(wanted: Wanted, index: int, head: Head, answer: Answer) -> dict[str, Any]:
    logprobs: dict[str, Any] | None = None
    if wanted.logprobs:
        told = CompletionLogprobs(wanted.bytes_of)
        of_prompt = told.of_prompt(head.prompt_token_ids, answer.prompt_logprobs) if head.echo else None
        logprobs = told.of_answer(answer.logprobs)
        logprobs = joined(of_prompt, logprobs) if of_prompt is not None else logprobs
    choice: dict[str, Any] = {
        "index": index,
        "text": head.echo + answer.text,
        "logprobs": logprobs,
        "finish_reason": answer.end_reason,
    }
    if wanted.prompt_logprobs:
        choice["prompt_logprobs"] = prompt_logprobs(answer.prompt_logprobs, wanted.bytes_of)
    if wanted.token_ids:
        choice |= {"prompt_token_ids": head.prompt_token_ids, "token_ids": answer.token_ids}
    return choice


def finish_reason(end_reason: EndReason, wanted: Wanted) -> str:
    """As the client knows it: one that offers functions is told of a function's call."""
    return "function_call" if wanted.legacy and end_reason == "tool_calls" else end_reason


def tool_call_fields(envelope: Envelope, choice: int, index: int, call: ToolCall) -> dict[str, Any]:
    """OpenAI's tool call; its id follows from the answer's."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(envelope, choice, index), "type": "function", "function": function}


def call_id(envelope: Envelope, choice: int, index: int) -> str:
    """The id of the ``index``-th tool call of a choice."""
    return f"call_{envelope.id.rpartition('-')[2]}{index:02}" + (f"_{choice}" if choice else "")
