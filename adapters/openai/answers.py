"""Answers in OpenAI's form: whole ones, and streams as server-sent events.

Source: OpenAI's published specification (CreateChatCompletionResponse, ...StreamResponse,
CreateCompletionResponse). A chunk's bytes are put together from a template made once for each
stream, because building and dumping an object for each token is what a server spends its time on.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from sse_starlette import ServerSentEvent

from adapters.chat_format import Answer, ContentLogprob, EndReason, Piece, ToolCallDelta
from engine.base import ToolCall, Usage

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer's form depends on beside the answer.

    ``usage``: a stream ends with a chunk of usage, and the others say ``usage: null``. ``logprobs``: they
    were asked for. ``legacy``: the client offers ``functions`` and knows no ``tool_calls``.
    """

    usage: bool = False
    logprobs: bool = False
    legacy: bool = False


def usage_fields(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def chat_completion(envelope: Envelope, wanted: Wanted, answer: Answer, usage: Usage) -> bytes:
    """The body of a chat answer that is not streamed."""
    calls = [tool_call_fields(envelope, index, call) for index, call in enumerate(answer.tool_calls)]
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if calls:
        message["content"] = answer.text or None
        message |= {"function_call": calls[0]["function"]} if wanted.legacy else {"tool_calls": calls}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": chat_logprobs(answer.logprobs) if wanted.logprobs else None,
        "finish_reason": finish_reason(answer.end_reason, wanted),
    }
    return to_json(envelope.fields("chat.completion") | {"choices": [choice], "usage": usage_fields(usage)})


def completion(envelope: Envelope, wanted: Wanted, answer: Answer, usage: Usage) -> bytes:
    """The body of a completion that is not streamed."""
    choice = {
        "index": 0,
        "text": answer.text,
        "logprobs": completion_logprobs(answer.logprobs, 0) if wanted.logprobs else None,
        "finish_reason": answer.end_reason,
    }
    return to_json(envelope.fields("text_completion") | {"choices": [choice], "usage": usage_fields(usage)})


def finish_reason(end_reason: EndReason, wanted: Wanted) -> str:
    """As the client knows it: one that offers functions is told of a function's call."""
    return "function_call" if wanted.legacy and end_reason == "tool_calls" else end_reason


def tool_call_fields(envelope: Envelope, index: int, call: ToolCall) -> dict[str, Any]:
    """OpenAI's tool call; its id follows from the answer's."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(envelope, index), "type": "function", "function": function}


def call_id(envelope: Envelope, index: int) -> str:
    """The id of the ``index``-th tool call of an answer."""
    return f"call_{envelope.id.rpartition('-')[2]}{index:02}"


def chat_logprobs(logprobs: Iterable[ContentLogprob]) -> dict[str, Any]:
    """OpenAI's logprobs of a chat answer: an entry for each token of its content."""

    def entry(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}

    content = [
        entry(one.token, one.logprob) | {"top_logprobs": [entry(*likely) for likely in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(logprobs: Iterable[ContentLogprob], offset: int) -> dict[str, list[Any]]:
    """OpenAI's logprobs of a completion; ``offset`` is where the first token begins in the text, in
    characters."""
    fields: dict[str, list[Any]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for one in logprobs:
        token = one.token.decode(errors="replace")
        likely: dict[str, float] = {}
        for text, value in (*one.top, (one.token, one.logprob)):
            likely.setdefault(text.decode(errors="replace"), value)
        fields["tokens"].append(token)
        fields["token_logprobs"].append(one.logprob)
        fields["top_logprobs"].append(likely)
        fields["text_offset"].append(offset)
        offset += len(token)
    return fields


class _Chunks:
    """Encodes one stream."""

    kind: str

    def __init__(self, envelope: Envelope, wanted: Wanted) -> None:
        self._envelope = envelope
        self._wanted = wanted
        self._started = False
        head = json.dumps(envelope.fields(self.kind), ensure_ascii=False, separators=(",", ":"))
        self._open = b"data: " + head[:-1].encode() + b',"choices":['
        self._close = b"]%s}\n\n" % (b',"usage":null' if wanted.usage else b"")
        before, after = self._text_choice()
        self._before, self._after = self._open + before, after + self._close

    @abstractmethod
    def _text_choice(self) -> tuple[bytes, bytes]:
        """A choice's JSON before and after its text."""

    @abstractmethod
    def _start(self) -> bytes:
        """What stands before the first piece."""

    @abstractmethod
    def _choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The choices of a piece that is more than text."""

    @abstractmethod
    def _finish_choice(self, end_reason: EndReason) -> bytes: ...

    def more(self, piece: Piece) -> bytes:
        """One more piece of the answer; nothing where it has nothing to tell."""
        if piece.tool_calls or piece.logprobs:
            choices = b"".join(map(self._chunk, self._choices(piece)))
        elif piece.text:
            choices = self._before + to_json(piece.text) + self._after
        else:
            return b""
        return choices if self._started else self._first() + choices

    def last(self, end_reason: EndReason, usage: Usage) -> bytes:
        """The end of the stream: finish_reason, usage where asked for, ``[DONE]``."""
        end = b"" if self._started else self._first()
        end += self._open + self._finish_choice(end_reason) + self._close
        if self._wanted.usage:
            fields = self._envelope.fields(self.kind) | {"choices": [], "usage": usage_fields(usage)}
            end += event(fields)
        return end + DONE

    def _first(self) -> bytes:
        self._started = True
        return self._start()

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._open + to_json(choice) + self._close


class ChatChunks(_Chunks):
    """chat.completion.chunk."""

    kind = "chat.completion.chunk"

    def _start(self) -> bytes:
        role = b'{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'
        return self._open + role + self._close

    def _text_choice(self) -> tuple[bytes, bytes]:
        return b'{"index":0,"delta":{"content":', b'},"finish_reason":null}'

    def _choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if piece.text or piece.logprobs:
            choice: dict[str, Any] = {"index": 0, "delta": {"content": piece.text}}
            if piece.logprobs:
                choice["logprobs"] = chat_logprobs(piece.logprobs)
            yield choice | {"finish_reason": None}
        for call in piece.tool_calls:
            if not self._wanted.legacy:
                yield {"index": 0, "delta": {"tool_calls": [self._call(call)]}, "finish_reason": None}
            elif call.index == 0:
                yield {"index": 0, "delta": {"function_call": self._function(call)}, "finish_reason": None}

    def _call(self, call: ToolCallDelta) -> dict[str, Any]:
        fields: dict[str, Any] = {"index": call.index}
        if call.name is not None:
            fields |= {"id": call_id(self._envelope, call.index), "type": "function"}
        return fields | {"function": self._function(call)}

    def _function(self, call: ToolCallDelta) -> dict[str, str]:
        name = {} if call.name is None else {"name": call.name}
        return name | {"arguments": call.arguments}

    def _finish_choice(self, end_reason: EndReason) -> bytes:
        return b'{"index":0,"delta":{},"finish_reason":%s}' % to_json(finish_reason(end_reason, self._wanted))


class CompletionChunks(_Chunks):
    """text_completion."""

    kind = "text_completion"

    def __init__(self, envelope: Envelope, wanted: Wanted) -> None:
        super().__init__(envelope, wanted)
        self._offset = 0

    def _start(self) -> bytes:
        return b""

    def _text_choice(self) -> tuple[bytes, bytes]:
        return b'{"index":0,"text":', b',"logprobs":null,"finish_reason":null}'

    def _choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        logprobs = completion_logprobs(piece.logprobs, self._offset)
        self._offset += sum(map(len, logprobs["tokens"]))
        yield {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": None}

    def _finish_choice(self, end_reason: EndReason) -> bytes:
        return b'{"index":0,"text":"","logprobs":null,"finish_reason":%s}' % to_json(end_reason)


def event(fields: Mapping[str, Any]) -> bytes:
    """One event of any content; an error in a stream is one with the key ``error``."""
    return ServerSentEvent(to_json(fields).decode(), sep=LINE_END).encode()
