"""What a client is told of calls."""

from __future__ import annotations

from adapters.chat_format import EndReason, ToolCallDelta
from engine.base import FinishReason


def call_deltas(index: int, name: str, arguments: str) -> list[ToolCallDelta]:
    """A whole call: its name first."""
    return [ToolCallDelta(index, name, ""), ToolCallDelta(index, None, arguments)]


def end_reason_of(finish_reason: FinishReason, *, called: bool) -> EndReason:
    """Why an answer has ended in which something was ``called``, or not."""
    if finish_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"
