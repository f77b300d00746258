"""Text that goes into spans: always valid UTF-8, never without a bound."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.base import ChatMessage

# Of all messages of one attribute together.
MOST_CONTENT_CHARACTERS = 32_768
MOST_MESSAGES = 128
CUT = "…"


def plain(text: str, most: int) -> str:
    """``text`` in at most so many characters; a lone surrogate, which protobuf refuses with the whole batch,
    becomes a question mark."""
    return text[:most].encode("utf-8", "replace").decode()


class Budget:
    """How many characters there is still room for."""

    def __init__(self, characters: int = MOST_CONTENT_CHARACTERS) -> None:
        self._left = characters

    def taken(self, text: str) -> str:
        """As much of ``text`` as there is room for, with a CUT where that is not all."""
        room, self._left = self._left, max(0, self._left - len(text))
        return text if len(text) <= room else text[:room] + CUT


def input_messages(messages: Sequence[ChatMessage]) -> str:
    """The attribute gen_ai.input.messages, JSON as the conventions' schema has it (gen-ai-input-messages):
    the last messages first looked at, so that a long conversation loses its beginning."""
    budget = Budget()
    kept = [_message(message, budget) for message in reversed(messages[-MOST_MESSAGES:])]
    return json.dumps(kept[::-1])


def output_messages(answers: Iterable[tuple[str, Iterable[tuple[str, str]], str]]) -> str:
    """The attribute gen_ai.output.messages: text, calls (name and arguments) and finish reason of each
    choice."""
    budget = Budget()
    made = []
    for text, calls, finish_reason in answers:
        parts = [_text(text, budget)] if text else []
        parts += [_call(name, arguments, budget) for name, arguments in calls]
        made.append({"role": "assistant", "parts": parts, "finish_reason": finish_reason})
    return json.dumps(made)


def _message(message: ChatMessage, budget: Budget) -> Mapping[str, Any]:
    if message.tool_call_id is not None:
        response = {
            "type": "tool_call_response",
            "id": budget.taken(message.tool_call_id),
            "response": budget.taken(message.content),
        }
        return {"role": message.role, "parts": [response]}
    parts = [_text(message.content, budget)] if message.content else []
    parts += [_call(call.name, call.arguments, budget, call.id) for call in message.tool_calls]
    return {"role": message.role, "parts": parts}


def _text(text: str, budget: Budget) -> dict[str, Any]:
    return {"type": "text", "content": budget.taken(text)}


def _call(name: str, arguments: str, budget: Budget, id_: str = "") -> dict[str, Any]:
    call = {"type": "tool_call", "name": budget.taken(name), "arguments": budget.taken(arguments)}
    return call | ({"id": budget.taken(id_)} if id_ else {})
