"""The three families of text that most models write tool calls in.

A family reads what is left of an answer from its start, one Step after the other. What a Step makes of a
text does not depend on what comes after it, so that an answer is read the same however it is cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from adapters.text_search import Texts
from adapters.tool_calls.json_calls import NotACall, ReadCall, after_blanks, read_call, read_calls, read_value


@dataclass(frozen=True, slots=True)
class Step:
    """The next ``length`` characters are these ``calls``, or text where there are none."""

    length: int
    calls: Sequence[ReadCall] = ()


class Family(Protocol):
    """One way to write calls. ``markers`` are the texts that frame them, which may be control tokens."""

    @property
    def markers(self) -> tuple[str, ...]: ...

    def step(self, text: str, offered: Set[str], *, first: bool, last: bool) -> Step | None:
        """What ``text``, which is not empty, begins with; None where more of it has to come first.

        ``first``: only calls have come before it. ``last``: nothing comes after it. Calls of functions
        that are not ``offered`` are text.
        """


class Hermes:
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, or a list of such objects.

    Source: the chat templates of Hermes 2 Pro, Qwen 2.5 and 3, Granite 4 and SmolLM2.
    """

    markers = ("<tool_call>", "</tool_call>")
    _begin = Texts(markers[:1])
    # Strings, so that what closes a call is not found in one; the last one may not be whole yet.
    _close = re.compile(r'"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|(</tool_call>)', re.DOTALL)

    def step(self, text: str, offered: Set[str], *, first: bool, last: bool) -> Step | None:
        begin, close = self.markers
        if not text.startswith(begin):
            return text_step(text, self._begin, last=last)
        if close not in text and not last:
            return None
        end = next((match.start() for match in self._close.finditer(text) if match[1]), None)
        if end is None and not last:
            return None
        # A few end their answers without closing the last call.
        body_end = len(text) if end is None else end
        try:
            calls, at = read_calls(text[:body_end], after_blanks(text, len(begin)))
            if after_blanks(text, at) != body_end:
                raise NotACall("there is more than calls")
            check_offered(calls, offered)
        except NotACall:
            return Step(len(begin))
        return Step(len(text) if end is None else end + len(close), calls)


class Mistral:
    """``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]``, and as newer models write it
    ``[TOOL_CALLS]name[ARGS]{…}``, perhaps with ``[CALL_ID]id`` after the name.

    Source: Mistral's instruct tokenizers, versions 3 to 13 (github.com/mistralai/mistral-common).
    """

    markers = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    _begin = Texts(markers[:1])
    _named = re.compile(r"\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\][^\[\]{}]*)?(?:\[ARGS\]\s*)?(?=\{)")

    def step(self, text: str, offered: Set[str], *, first: bool, last: bool) -> Step | None:
        begin = self.markers[0]
        if not text.startswith(begin):
            return text_step(text, self._begin, last=last)
        if not (last or ends_a_value(text)):
            return None
        try:
            calls, end = self._calls(text, after_blanks(text, len(begin)))
        except NotACall:
            # It may be a call that is not whole yet.
            return Step(len(begin)) if last else None
        try:
            check_offered(calls, offered)
        except NotACall:
            return Step(len(begin))
        return Step(end, calls)

    def _calls(self, text: str, at: int) -> tuple[list[ReadCall], int]:
        if text.startswith("[", at):
            return read_calls(text, at)
        if (named := self._named.match(text, at)) is None:
            raise NotACall("no name before arguments")
        _, end = read_value(text, named.end())
        return [ReadCall(named[1], text[named.end() : end])], end


class Llama3Json:
    """The answer begins with ``{"name": …, "parameters": {…}}``, or several of these with ``;`` between
    them, perhaps after ``<|python_tag|>``.

    Source: the chat templates of Llama 3.1 to 3.3.
    """

    markers = ("<|python_tag|>",)
    _begin = Texts(markers)
    _before = re.compile(r"[\s;]*(?:<\|python_tag\|>\s*)?")
    # What can become an object, as far as it has come.
    _object = re.compile(r'\{\s*(?:"|\Z)|\Z')

    def step(self, text: str, offered: Set[str], *, first: bool, last: bool) -> Step | None:
        if not first:
            return Step(len(text))
        if not last and self._begin.certain(text) < len(text):
            return None
        before = self._before.match(text)
        assert before is not None
        if self._object.match(text, before.end()) is None:
            return Step(len(text))
        if not (last or ends_a_value(text)):
            return None
        try:
            call, end = read_call(text, before.end())
            check_offered([call], offered)
        except NotACall:
            return Step(len(text)) if last or self._is_whole(text, before.end()) else None
        return Step(end, [call])

    def _is_whole(self, text: str, at: int) -> bool:
        try:
            read_value(text, at)
        except NotACall:
            return False
        return True


FAMILIES: Mapping[str, Family] = {"hermes": Hermes(), "llama3_json": Llama3Json(), "mistral": Mistral()}


def text_step(text: str, begin: Texts, *, last: bool) -> Step | None:
    """What comes before ``begin``, where ``text`` does not begin with it."""
    found = begin.find(text)
    if found is not None:
        return Step(found[0])
    length = len(text) if last else begin.certain(text)
    return Step(length) if length else None


def ends_a_value(text: str) -> bool:
    """Whether an object or a list may end where ``text`` does: reading it for every token would take
    time that grows with the square of its length."""
    return text.rstrip(" \t\r\n;").endswith(("}", "]"))


def check_offered(calls: Sequence[ReadCall], offered: Set[str]) -> None:
    """Raises NotACall."""
    if not calls or not all(call.name in offered for call in calls):
        raise NotACall("not a function that was offered")
