"""The text of an answer on its way to the client: what is cleaned up, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence

# Stands in the model's training data for the year; the model's authors replace it in plain answers
# (process_response in modeling_chatglm.py of ChatGLM3).
PLACEHOLDER, YEAR = "[[训练时间]]", "2023年"


class ContentText:
    """Replaces the placeholder, then finds stop strings, piece by piece.

    Text that could still become either is held back. ``stopped`` is set when a stop string has ended the
    text; where two are completed by the same character, the first of the list counts.
    """

    __slots__ = ("_placeholders", "_stop", "_unreplaced", "_unstopped", "stopped")

    def __init__(self, stop: Sequence[str], *, replace: bool) -> None:
        self._stop = stop
        self._placeholders = (PLACEHOLDER,) if replace else ()
        self._unreplaced = ""
        self._unstopped = ""
        self.stopped = False

    def more(self, text: str) -> str:
        """What can be told after ``text`` has come."""
        if self._placeholders and (self._unreplaced or PLACEHOLDER[0] in text):
            text = (self._unreplaced + text).replace(PLACEHOLDER, YEAR)
            certain = end_of_certain(text, self._placeholders)
            text, self._unreplaced = text[:certain], text[certain:]
        return self._until_stop(text)

    def end(self) -> str:
        """What was held back."""
        rest, self._unreplaced = self._unreplaced, ""
        text = self._until_stop(rest) + self._unstopped
        self._unstopped = ""
        return text

    def _until_stop(self, text: str) -> str:
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        text = self._unstopped + text
        ends = [
            (at + len(stop), order, stop)
            for order, stop in enumerate(self._stop)
            if (at := text.find(stop)) >= 0
        ]
        if ends:
            end, _, stop = min(ends)
            self.stopped, self._unstopped = True, ""
            return text[: end - len(stop)]
        certain = end_of_certain(text, self._stop)
        self._unstopped = text[certain:]
        return text[:certain]


def end_of_certain(text: str, patterns: Sequence[str]) -> int:
    """Where the first tail begins that may be the beginning of a pattern."""
    longest = max(map(len, patterns))
    for start in range(max(0, len(text) - longest + 1), len(text)):
        tail = text[start:]
        if any(pattern.startswith(tail) for pattern in patterns):
            return start
    return len(text)
