"""Answers in OpenAI's form: whole ones, and streams as server-sent events.

Source: OpenAI's published specification (CreateChatCompletionResponse, ...StreamResponse,
CreateCompletionResponse). A chunk's bytes are put together from a template made once for each
stream, because building and dumping an object for each token is what a server spends its time on.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from sse_starlette import ServerSentEvent

from engine.base import Usage

LINE_END = "\n"
DONE = ServerSentEvent("[DONE]", sep=LINE_END).encode()


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of an answer repeats. ``id`` is the whole id, with its prefix; ``created`` Unix
    seconds."""

    id: str
    model: str
    created: int
    system_fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def usage_fields(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def chat_completion(envelope: Envelope, text: str, finish_reason: str, usage: Usage) -> bytes:
    """The body of a chat answer that is not streamed."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return to_json(envelope.fields("chat.completion") | {"choices": [choice], "usage": usage_fields(usage)})


def completion(envelope: Envelope, text: str, finish_reason: str, usage: Usage) -> bytes:
    """The body of a completion that is not streamed."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    return to_json(envelope.fields("text_completion") | {"choices": [choice], "usage": usage_fields(usage)})


class _Chunks:
    """Encodes one stream; ``include_usage`` adds the chunk of usage, and ``usage: null`` to the others."""

    kind: str

    def __init__(self, envelope: Envelope, include_usage: bool) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        head = json.dumps(envelope.fields(self.kind), ensure_ascii=False, separators=(",", ":"))
        self._open = b"data: " + head[:-1].encode() + b',"choices":['
        self._close = b"]%s}\n\n" % (b',"usage":null' if include_usage else b"")
        before, after = self._text_choice()
        self._before, self._after = self._open + before, after + self._close

    @abstractmethod
    def _text_choice(self) -> tuple[bytes, bytes]:
        """A choice's JSON before and after its text."""

    @abstractmethod
    def first(self, text: str) -> bytes:
        """The beginning of the stream, with its first text."""

    @abstractmethod
    def _finish_choice(self, finish_reason: str) -> bytes: ...

    def more(self, text: str) -> bytes:
        """One more piece of text."""
        return self._before + to_json(text) + self._after

    def last(self, finish_reason: str, usage: Usage) -> bytes:
        """The end of the stream: finish_reason, usage where asked for, ``[DONE]``."""
        end = self._open + self._finish_choice(finish_reason) + self._close
        if self._include_usage:
            fields = self._envelope.fields(self.kind) | {"choices": [], "usage": usage_fields(usage)}
            end += event(fields)
        return end + DONE


class ChatChunks(_Chunks):
    """chat.completion.chunk."""

    kind = "chat.completion.chunk"

    def first(self, text: str) -> bytes:
        role = b'{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'
        return self._open + role + self._close + (self.more(text) if text else b"")

    def _text_choice(self) -> tuple[bytes, bytes]:
        return b'{"index":0,"delta":{"content":', b'},"finish_reason":null}'

    def _finish_choice(self, finish_reason: str) -> bytes:
        return b'{"index":0,"delta":{},"finish_reason":%s}' % to_json(finish_reason)


class CompletionChunks(_Chunks):
    """text_completion."""

    kind = "text_completion"

    def first(self, text: str) -> bytes:
        return self.more(text) if text else b""

    def _text_choice(self) -> tuple[bytes, bytes]:
        return b'{"index":0,"text":', b',"logprobs":null,"finish_reason":null}'

    def _finish_choice(self, finish_reason: str) -> bytes:
        return b'{"index":0,"text":"","logprobs":null,"finish_reason":%s}' % to_json(finish_reason)


def event(fields: Mapping[str, Any]) -> bytes:
    """One event of any content; an error in a stream is one with the key ``error``."""
    return ServerSentEvent(to_json(fields).decode(), sep=LINE_END).encode()
