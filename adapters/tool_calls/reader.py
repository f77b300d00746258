"""Reads answers in which a model may call tools, as it likes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from adapters.chat_format import EndReason, Piece, ToolCallDelta
from adapters.hidden_tokens import HiddenTokens
from adapters.tool_calls.families import Family
from adapters.tool_calls.json_calls import ReadCall
from adapters.tool_calls.logprobs import TextLogprobs
from adapters.tool_calls.told import call_deltas, end_reason_of
from engine.base import Delta, FinishReason


@dataclass(frozen=True, slots=True)
class Calling:
    """How calls are read: ``offered`` are the names that count."""

    family: Family
    offered: Set[str]
    parallel_tool_calls: bool = True


class CallReader:
    """One answer; a Reader.

    A call is told when it is whole. What is no call is text, and nothing of it is lost but blanks that
    stand before a call, or between calls and the end.
    """

    def __init__(self, calling: Calling, hidden: HiddenTokens, logprobs: TextLogprobs) -> None:
        self._calling = calling
        self._hidden = hidden
        self._logprobs = logprobs
        self._unread = ""
        self._blanks = ""
        self._only_calls = True
        self._after_call = False
        self._call_count = 0
        self._ended = False
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []

    def read(self, delta: Delta) -> Piece:
        last = delta.finish_reason is not None
        self._logprobs.come(delta.logprobs)
        self._unread += self._hidden.more(delta.text, delta.token_ids, last=last)
        self._read_steps(last)
        if last and not self._ended:
            self._pass(self._blanks, content=not self._after_call)
            self._logprobs.end()
        piece = Piece("".join(self._texts), self._calls, self._logprobs.take(), self._ended)
        self._texts, self._calls = [], []
        return piece

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        return end_reason_of("stop" if self._ended else finish_reason, called=self._call_count > 0)

    def _read_steps(self, last: bool) -> None:
        while self._unread and not self._ended:
            step = self._calling.family.step(
                self._unread, self._calling.offered, first=self._only_calls, last=last
            )
            if step is None:
                return
            text, self._unread = self._unread[: step.length], self._unread[step.length :]
            if step.calls:
                self._pass(self._blanks, content=False)
                self._pass(text, content=False)
                self._blanks, self._after_call = "", True
                self._tell_calls(step.calls)
            else:
                self._only_calls = False
                self._tell_text(self._blanks + text)

    def _tell_text(self, text: str) -> None:
        told = text.rstrip()
        self._blanks = text[len(told) :]
        if told:
            self._after_call = False
            self._pass(told, content=True)

    def _tell_calls(self, calls: Sequence[ReadCall]) -> None:
        for call in calls[: None if self._calling.parallel_tool_calls else 1]:
            self._calls += call_deltas(self._call_count, call.name, call.arguments)
            self._call_count += 1
        self._ended = not self._calling.parallel_tool_calls

    def _pass(self, text: str, *, content: bool) -> None:
        self._logprobs.passed(text, content=content)
        if content:
            self._texts.append(text)
