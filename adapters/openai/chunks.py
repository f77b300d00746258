"""Streamed answers in OpenAI's form, as server-sent events.

Source: OpenAI's published specification (CreateChatCompletionStreamResponse, CreateCompletionResponse), and
vLLM's server for continuous_usage_stats and return_token_ids. A chunk's bytes are put together from a
template made once for each choice, because building and dumping an object for each token is what a server
spends its time on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from sse_starlette import ServerSentEvent

from adapters.chat_format import EndReason, Piece, ToolCallDelta
from adapters.openai.answers import Envelope, Head, Wanted, call_id, finish_reason, usage_fields
from adapters.openai.logprobs import CompletionLogprobs, chat_logprobs
from engine.base import Usage

LINE_END = "\n"
DONE = ServerSentEvent("[DONE]", sep=LINE_END).encode()
KEEP_ALIVE = ServerSentEvent(comment="keep-alive", sep=LINE_END).encode()

# End a line for Python's str.splitlines, and so for httpx's iter_lines; JSON leaves them as they are.
_LINE_ENDS = [(end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029"]


def one_line(value: object) -> bytes:
    """JSON that is one line to every reader."""
    text = to_json(value)
    if not text.isascii():
        for end, escaped in _LINE_ENDS:
            text = text.replace(end, escaped)
    return text


def event(fields: Mapping[str, Any]) -> bytes:
    """One event of any content; an error in a stream is one with the key ``error``."""
    return ServerSentEvent(one_line(fields).decode(), sep=LINE_END).encode()


class _Chunks:
    """Encodes one stream; its choices come interleaved, each named by its index."""

    kind: str

    def __init__(self, envelope: Envelope, wanted: Wanted, heads: Sequence[Head] = (Head(),)) -> None:
        self._envelope = envelope
        self._wanted = wanted
        self._heads = heads
        self._begun: set[int] = set()
        self._top = b"data: " + one_line(envelope.fields(self.kind))[:-1]
        self._open = self._top + b',"choices":['
        self._close = b"]%s}\n\n" % (b',"usage":null' if wanted.usage else b"")
        pairs = [self._text_choice(index) for index in range(len(heads))]
        self._before = [self._open + before for before, _ in pairs]
        self._after = [after + self._close for _, after in pairs]
        self.tells_usage = wanted.continuous_usage
        # A chunk that is more than a text is built as an object.
        self._detailed = wanted.token_ids or wanted.continuous_usage

    @abstractmethod
    def _text_choice(self, index: int) -> tuple[bytes, bytes]:
        """A choice's JSON before and after its text."""

    @abstractmethod
    def _first(self, index: int, piece: Piece) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """What stands before a choice's first piece: choices, and what stands beside them."""

    @abstractmethod
    def _choices(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """The choices of a piece that is more than text."""

    @abstractmethod
    def _finish_choice(self, index: int, end_reason: EndReason) -> dict[str, Any]: ...

    def more(self, index: int, piece: Piece, usage: Usage) -> bytes:
        """One more piece of a choice; nothing where it has nothing to tell. ``usage`` is that of the whole
        answer so far."""
        if self._detailed or piece.tool_calls or piece.logprobs or piece.prompt_logprobs:
            begin = b"" if index in self._begun else self._begin(index, piece, usage)
            return begin + b"".join(self._chunk(choice, usage) for choice in self._choices(index, piece))
        if not piece.text:
            return b""
        data = self._before[index] + one_line(piece.text) + self._after[index]
        return data if index in self._begun else self._begin(index, piece, usage) + data

    def last(self, end_reasons: Sequence[EndReason], usage: Usage) -> bytes:
        """The end of the stream: each choice's finish_reason, usage where asked for, ``[DONE]``."""
        end = b""
        for index, end_reason in enumerate(end_reasons):
            if index not in self._begun:
                end += self._begin(index, Piece(), usage)
            end += self._chunk(self._finish_choice(index, end_reason), usage)
        if self._wanted.usage:
            end += event(self._envelope.fields(self.kind) | {"choices": [], "usage": usage_fields(usage)})
        return end + DONE

    def _begin(self, index: int, piece: Piece, usage: Usage) -> bytes:
        self._begun.add(index)
        return b"".join(self._chunk(choice, usage, beside) for choice, beside in self._first(index, piece))

    def _chunk(self, choice: dict[str, Any], usage: Usage, beside: dict[str, Any] | None = None) -> bytes:
        close = self._close
        if self._wanted.continuous_usage:
            close = b'],"usage":%s}\n\n' % to_json(usage_fields(usage))
        top = self._top + b"," + one_line(beside)[1:-1] if beside else self._top
        return top + b',"choices":[' + one_line(choice) + close


class ChatChunks(_Chunks):
    """chat.completion.chunk."""

    kind = "chat.completion.chunk"

    def _text_choice(self, index: int) -> tuple[bytes, bytes]:
        return b'{"index":%d,"delta":{"content":' % index, b'},"finish_reason":null}'

    def _first(self, index: int, piece: Piece) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        head = self._heads[index]
        tokens = {"prompt_token_ids": head.prompt_token_ids} if self._wanted.token_ids else {}
        delta = {"role": "assistant", "content": ""}
        yield {"index": index, "delta": delta, "finish_reason": None}, tokens
        if head.echo:
            yield {"index": index, "delta": {"content": head.echo}, "finish_reason": None}, {}

    def _choices(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        tokens = {"token_ids": piece.token_ids} if self._wanted.token_ids else {}
        if piece.text or piece.logprobs or (piece.token_ids and not piece.tool_calls and self._detailed):
            choice: dict[str, Any] = {"index": index, "delta": {"content": piece.text}}
            if piece.logprobs:
                choice["logprobs"] = chat_logprobs(piece.logprobs)
            yield choice | {"finish_reason": None} | tokens
            tokens = {}
        for call in piece.tool_calls:
            if not self._wanted.legacy:
                delta: dict[str, Any] = {"tool_calls": [self._call(index, call)]}
            elif call.index == 0:
                delta = {"function_call": self._function(call)}
            else:
                continue
            yield {"index": index, "delta": delta, "finish_reason": None} | tokens
            tokens = {}

    def _call(self, choice: int, call: ToolCallDelta) -> dict[str, Any]:
        fields: dict[str, Any] = {"index": call.index}
        if call.name is not None:
            fields |= {"id": call_id(self._envelope, choice, call.index), "type": "function"}
        return fields | {"function": self._function(call)}

    def _function(self, call: ToolCallDelta) -> dict[str, str]:
        name = {} if call.name is None else {"name": call.name}
        return name | {"arguments": call.arguments}

    def _finish_choice(self, index: int, end_reason: EndReason) -> dict[str, Any]:
        return {"index": index, "delta": {}, "finish_reason": finish_reason(end_reason, self._wanted)}


class CompletionChunks(_Chunks):
    """text_completion."""

    kind = "text_completion"

    def __init__(self, envelope: Envelope, wanted: Wanted, heads: Sequence[Head] = (Head(),)) -> None:
        super().__init__(envelope, wanted, heads)
        self._logprobs = [CompletionLogprobs(wanted.bytes_of) for _ in heads]

    def _text_choice(self, index: int) -> tuple[bytes, bytes]:
        return b'{"index":%d,"text":' % index, b',"logprobs":null,"finish_reason":null}'

    def _first(self, index: int, piece: Piece) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        head = self._heads[index]
        if not head.echo and not self._wanted.token_ids:
            return
        logprobs = None
        if head.echo and self._wanted.logprobs:
            logprobs = self._logprobs[index].of_prompt(head.prompt_token_ids, piece.prompt_logprobs)
        choice = {"index": index, "text": head.echo, "logprobs": logprobs, "finish_reason": None}
        tokens = {"prompt_token_ids": head.prompt_token_ids} if self._wanted.token_ids else {}
        yield choice | tokens, {}

    def _choices(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        if not (piece.text or piece.logprobs or piece.token_ids):
            return
        logprobs = self._logprobs[index].of_answer(piece.logprobs) if self._wanted.logprobs else None
        choice = {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
        yield choice | ({"token_ids": piece.token_ids} if self._wanted.token_ids else {})

    def _finish_choice(self, index: int, end_reason: EndReason) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": end_reason}
