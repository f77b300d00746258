"""Reads answers that need no reading: whoever gave them has told text and calls apart."""

from __future__ import annotations

from adapters.chat_format import ContentLogprob, EndReason, Piece, Reader, ToolCallDelta
from adapters.text_reader import SilentReader
from adapters.tool_calls.told import end_reason_of
from engine.base import Delta, FinishReason


class ToldReader:
    """Gives on what was told; a Reader."""

    __slots__ = ("_called",)

    def __init__(self) -> None:
        self._called = False

    def read(self, delta: Delta) -> Piece:
        if (told := delta.told) is None:
            return Piece(delta.text)
        self._called = self._called or bool(told.tool_calls)
        return Piece(
            delta.text,
            [ToolCallDelta(call.index, call.name, call.arguments) for call in told.tool_calls],
            [ContentLogprob(one.token, one.logprob, one.top) for one in told.logprobs],
        )

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        if finish_reason == "content_filter":
            return finish_reason
        return end_reason_of(finish_reason, called=self._called)


def told_in_place_of(reader: Reader) -> Reader:
    """Who reads an answer that ``reader`` expected as ids. Of one that is not to be told, nothing is."""
    return reader if isinstance(reader, SilentReader) else ToldReader()
