"""Messages and tools as chat templates take them.

Source: transformers' documentation of chat templates and tool use; arguments of calls are objects, as
vLLM's server gives them (_postprocess_messages in vllm/renderers/chat_utils.py).
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from engine.base import ChatMessage, Tool, ToolCall

# Roles that templates of other vendors do not know, as the ones they do.
ROLES = {"developer": "system", "function": "tool"}


def tool_value(tool: Tool) -> dict[str, Any]:
    """In OpenAI's wrapper."""
    return {"type": "function", "function": dict(tool.definition)}


def message_value(message: ChatMessage) -> dict[str, Any]:
    """With what was given alone: templates ask whether a key is there."""
    value: dict[str, Any] = {"role": ROLES.get(message.role, message.role), "content": message.content}
    if message.tool_calls:
        value["tool_calls"] = [call_value(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        value["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        value["name"] = message.name
    return value


def call_value(call: ToolCall) -> dict[str, Any]:
    """Arguments that are no JSON object stay the text that they are."""
    function = {"name": call.name, "arguments": arguments_value(call.arguments)}
    return ({"id": call.id} if call.id else {}) | {"type": "function", "function": function}


def arguments_value(text: str) -> dict[str, Any] | str:
    """The object that ``text`` is; an empty one for no text, and ``text`` itself for anything else."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        # Half a surrogate pair, which only an escape can carry, is no text.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
