"""Calls that an answer is forced to be, by a JSON schema; no model writes them of its own.

Source of the list's form: vLLM's server (get_json_schema_from_tools in vllm/tool_parsers/utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.chat_format import EndReason, Piece, ToolCallDelta
from adapters.tool_calls.families import ends_a_value
from adapters.tool_calls.json_calls import NotACall, ReadCall, after_blanks, read_call, read_value
from adapters.tool_calls.told import call_deltas, end_reason_of
from engine.base import Delta, FinishReason, Tool


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """What the arguments of a call of ``tool`` fit: always an object, an empty one where it takes none."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **tool.parameters}


def calls_schema(tools: Sequence[Tool], parallel_tool_calls: bool) -> dict[str, Any]:
    """A list of calls of ``tools``, at least one."""
    definitions = {f"arguments{index}": tool for index, tool in enumerate(tools)}
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "const": tool.name},
                        "parameters": {"$ref": f"#/$defs/{place}"},
                    },
                    "required": ["name", "parameters"],
                    "additionalProperties": False,
                }
                for place, tool in definitions.items()
            ]
        },
        "$defs": {
            place: _moved(arguments_schema(tool), f"#/$defs/{place}") for place, tool in definitions.items()
        },
    }
    return schema if parallel_tool_calls else schema | {"maxItems": 1}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references into itself hold where it stands at ``place``."""
    if isinstance(schema, Mapping):
        return {
            key: place + value.removeprefix("#")
            if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/"))
            else _moved(value, place)
            for key, value in schema.items()
        }
    return [_moved(one, place) for one in schema] if isinstance(schema, list | tuple) else schema


class NamedCallReader:
    """One answer that is the arguments of a call of ``name``; a Reader. They are told as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._called = False

    def read(self, delta: Delta) -> Piece:
        if not delta.text:
            return Piece()
        calls = [ToolCallDelta(0, None, delta.text)]
        if not self._called:
            calls.insert(0, ToolCallDelta(0, self._name, ""))
        self._called = True
        return Piece(tool_calls=calls)

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        return end_reason_of(finish_reason, called=self._called)


class CallListReader:
    """One answer that is a list of calls; a Reader. A call is told when it is whole, or cut at the end."""

    _before = re.compile(r"\s*[\[,]\s*")
    _cut = re.compile(
        r'\s*[\[,]\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:parameters|arguments)"\s*:\s*'
    )

    def __init__(self) -> None:
        self._unread = ""
        self._count = 0

    def read(self, delta: Delta) -> Piece:
        last = delta.finish_reason is not None
        self._unread += delta.text
        calls: list[ToolCallDelta] = []
        if last or ends_a_value(self._unread):
            self._read_calls(calls)
        rest = ""
        if last and self._unread.strip() not in ("", "]"):
            rest = self._read_cut(calls)
        return Piece(rest, calls)

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        return end_reason_of(finish_reason, called=self._count > 0)

    def _read_calls(self, calls: list[ToolCallDelta]) -> None:
        while before := self._before.match(self._unread):
            try:
                call, end = read_call(self._unread, before.end())
            except NotACall:
                return
            self._tell(call, calls)
            self._unread = self._unread[after_blanks(self._unread, end) :]

    def _read_cut(self, calls: list[ToolCallDelta]) -> str:
        """The text that is no call, after the call that was cut."""
        if (cut := self._cut.match(self._unread)) is None:
            return self._unread
        try:
            name, _ = read_value(cut[1], 0)
        except NotACall:
            return self._unread
        self._tell(ReadCall(name, self._unread[cut.end() :]), calls)
        return ""

    def _tell(self, call: ReadCall, calls: list[ToolCallDelta]) -> None:
        calls += call_deltas(self._count, call.name, call.arguments)
        self._count += 1
