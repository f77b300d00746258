"""Reads answers whose calls only a parser of the engine knows, at their end."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.chat_format import ContentLogprob, EndReason, Piece, ToolCallDelta
from adapters.hidden_tokens import HiddenTokens
from adapters.text_reader import TextReader
from adapters.tool_calls.told import call_deltas, end_reason_of
from engine.base import Delta, FinishReason, Tool, ToolParser


class ParsedReader:
    """One answer; a Reader. Nothing is told before its end, and logprobs only where nothing is called.

    ``hidden`` takes what is left of control tokens out of the text; it is given all ids at once.
    """

    def __init__(
        self,
        parser: ToolParser,
        tools: Sequence[Tool],
        parallel_tool_calls: bool,
        text: TextReader,
        hidden: HiddenTokens,
    ) -> None:
        self._parser = parser
        self._tools = tools
        self._parallel_tool_calls = parallel_tool_calls
        self._text = text
        self._hidden = hidden
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[ContentLogprob] = []
        self._called = False

    def read(self, delta: Delta) -> Piece:
        piece = self._text.read(delta)
        self._texts.append(piece.text)
        self._ids += delta.token_ids
        self._logprobs += piece.logprobs
        return Piece() if delta.finish_reason is None else self._whole()

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        return end_reason_of(finish_reason, called=self._called)

    def _whole(self) -> Piece:
        answer = "".join(self._texts)
        content, calls = self._parser(answer, self._tools)
        offered = {tool.name for tool in self._tools}
        if not calls or not all(call.name in offered for call in calls):
            return Piece(self._hidden.more(answer, self._ids, last=True), logprobs=self._logprobs)
        self._called = True
        told: list[ToolCallDelta] = []
        for index, call in enumerate(calls[: None if self._parallel_tool_calls else 1]):
            told += call_deltas(index, call.name, call.arguments)
        return Piece(self._hidden.more(content, self._ids, last=True), told)
