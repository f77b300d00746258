"""Calls that are JSON objects: a name, and arguments whose text is kept as the model wrote it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

_BLANKS = re.compile(r"[ \t\n\r]*")

ARGUMENTS = ("arguments", "parameters")


class NotACall(Exception):
    """The text is no call."""


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call; ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str


def _no_number(name: str) -> NoReturn:
    raise NotACall(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def read_value(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at ``at`` and where it ends. Raises NotACall, also where it does not end."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise NotACall("not JSON") from error


def after_blanks(text: str, at: int) -> int:
    """Where the first character stands that JSON does not skip."""
    match = _BLANKS.match(text, at)
    assert match is not None
    return match.end()


def read_calls(text: str, at: int) -> tuple[list[ReadCall], int]:
    """The call at ``at``, or the list of calls, and where it ends. Raises NotACall."""
    if not text.startswith("[", at):
        call, end = read_call(text, at)
        return [call], end
    calls: list[ReadCall] = []
    at += 1
    while True:
        call, at = read_call(text, after_blanks(text, at))
        calls.append(call)
        at = after_blanks(text, at)
        if text.startswith("]", at):
            return calls, at + 1
        at = after(text, at, ",")


def read_call(text: str, at: int) -> tuple[ReadCall, int]:
    """The object ``{"name": …, "arguments": {…}}`` at ``at`` and where it ends; other members are
    skipped. Raises NotACall."""
    members, end = _members(text, at)
    name, _ = members.get("name", (None, ""))
    value, source = next((members[one] for one in ARGUMENTS if one in members), (None, ""))
    if isinstance(value, str):
        # Some models quote the object.
        source = value
        value, rest = read_value(value, after_blanks(value, 0))
        if after_blanks(source, rest) != len(source):
            raise NotACall("the arguments are not JSON")
    if not isinstance(name, str) or not isinstance(value, dict):
        raise NotACall("no name, or no object of arguments")
    return ReadCall(name, source), end


def after(text: str, at: int, expected: str) -> int:
    """Where ``expected`` ends that stands at ``at``. Raises NotACall."""
    if not text.startswith(expected, at):
        raise NotACall(f"no {expected}")
    return at + len(expected)


def _members(text: str, at: int) -> tuple[dict[str, tuple[Any, str]], int]:
    """The values of the object at ``at``, each with its text, and where the object ends."""
    members: dict[str, tuple[Any, str]] = {}
    at = after_blanks(text, after(text, at, "{"))
    if text.startswith("}", at):
        return members, at + 1
    while True:
        key, at = read_value(text, at)
        if not isinstance(key, str):
            raise NotACall("a key is not a string")
        start = after_blanks(text, after(text, after_blanks(text, at), ":"))
        value, end = read_value(text, start)
        members[key] = value, text[start:end]
        at = after_blanks(text, end)
        if text.startswith("}", at):
            return members, at + 1
        at = after_blanks(text, after(text, at, ","))
