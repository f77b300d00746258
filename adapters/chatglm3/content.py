"""The text of an answer on its way to the client: what is cleaned up, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.chat_format import TextRules

# Stands in the model's training data for the year; the model's authors replace it in plain answers
# (process_response in modeling_chatglm.py of ChatGLM3).
PLACEHOLDER, YEAR = "[[训练时间]]", "2023年"


class ContentText:
    """Replaces the placeholder, then finds stop strings, piece by piece.

    Text that could still become either is held back. ``stopped`` is set when a stop string has ended the
    text; where two are completed by the same character, the first of the list counts. The rule is that of
    vLLM (check_stop_strings in vllm/v1/engine/detokenizer.py): a stop string has to end after the early
    characters, and may begin in them.
    """

    __slots__ = (
        "_include_stop",
        "_placeholders",
        "_stop",
        "_unreplaced",
        "_unreplaced_early",
        "_unstopped",
        "_unstopped_early",
        "stopped",
    )

    def __init__(self, rules: TextRules, *, replace: bool) -> None:
        self._stop = rules.stop
        self._include_stop = rules.include_stop_str_in_output
        self._placeholders = (PLACEHOLDER,) if replace else ()
        self._unreplaced, self._unreplaced_early = "", 0
        self._unstopped, self._unstopped_early = "", 0
        self.stopped = False

    def more(self, text: str, early: int = 0) -> str:
        """What can be told after ``text`` has come, of which the first ``early`` characters are early."""
        if self._placeholders and (self._unreplaced or PLACEHOLDER[0] in text):
            text, early = self._replaced(self._unreplaced + text, self._unreplaced_early + early)
            certain = end_of_certain(text, self._placeholders)
            self._unreplaced, self._unreplaced_early = text[certain:], max(0, early - certain)
            text, early = text[:certain], min(early, certain)
        return self._until_stop(text, early)

    def end(self) -> str:
        """What was held back."""
        text = self._until_stop(self._unreplaced, self._unreplaced_early) + self._unstopped
        self._unreplaced = self._unstopped = ""
        return text

    def _replaced(self, text: str, early: int) -> tuple[str, int]:
        """The text with the year, which is early where the whole placeholder was."""
        if PLACEHOLDER not in text:
            return text, early
        reach = len(PLACEHOLDER) - 1
        if (halved := text.find(PLACEHOLDER, max(0, early - reach), early + reach)) >= 0:
            early = halved
        return text.replace(PLACEHOLDER, YEAR), len(text[:early].replace(PLACEHOLDER, YEAR))

    def _until_stop(self, text: str, early: int) -> str:
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        text, early = self._unstopped + text, self._unstopped_early + early
        ends = [
            (at + len(stop), order, stop)
            for order, stop in enumerate(self._stop)
            if (at := text.find(stop, max(0, early + 1 - len(stop)))) >= 0
        ]
        if ends:
            end, _, stop = min(ends)
            self.stopped, self._unstopped = True, ""
            return text[: end if self._include_stop else end - len(stop)]
        certain = end_of_certain(text, self._stop)
        self._unstopped, self._unstopped_early = text[certain:], max(0, early - certain)
        return text[:certain]


def end_of_certain(text: str, patterns: Sequence[str]) -> int:
    """Where the first tail begins that may be the beginning of a pattern."""
    longest = max(map(len, patterns))
    for start in range(max(0, len(text) - longest + 1), len(text)):
        tail = text[start:]
        if any(pattern.startswith(tail) for pattern in patterns):
            return start
    return len(text)
