"""A regular expression looked for in a text while it comes.

The module ``regex`` matches partially: it tells whether what follows a text could make a match of its end
(github.com/mrabarnett/mrab-regex). It does so only where there is no match, though more text might make
another one of that: ``\\d+`` fits "12", and goes on in "123". So a second expression is asked, which needs
one more character after the match and then never fits: its partial match begins where the first way of
matching begins that depends on what follows.
"""

from __future__ import annotations

import re
from typing import Any

import regex

from adapters.guard_words import Segment

# What stands before the text is kept so long, for \b and what looks back.
LOOKED_BACK = 64

# What begins or ends a match elsewhere than where it is found, or is about the whole expression.
_NOT_HERE = re.compile(r"\\[KG]|\(\*|\(\?(?:R|0)\)")
# What stands for itself, before $ is looked for.
_LITERAL = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_NOT_AS_IT_COMES = regex.REVERSE | regex.BESTMATCH | regex.ENHANCEMATCH | regex.POSIX


class InvalidPattern(ValueError):
    """An expression that can't be used; the message says why."""


class Pattern:
    """An expression; one for all texts. A match has at most ``longest`` characters: of one that could go on
    the first so many are looked at, as if nothing followed. Raises InvalidPattern."""

    def __init__(self, text: str, *, ignore_case: bool, longest: int, seconds: float) -> None:
        flags = regex.IGNORECASE if ignore_case else 0
        if _NOT_HERE.search(text):
            raise InvalidPattern(r"\K, \G, (*...), (?R) and (?0) can't be used in text that is still coming")
        try:
            self.whole = regex.compile(text, flags)
            # Alone it would find no text: this is what is asked whether more may come.
            self.open = regex.compile(rf"(?:{text})[\s\S](?!)", flags)
        except regex.error as error:
            raise InvalidPattern(f"not a regular expression: {error}") from error
        if self.whole.flags & _NOT_AS_IT_COMES:
            raise InvalidPattern("the flags b, e, p and r can't be used in text that is still coming")
        if not self.whole.flags & regex.MULTILINE and "$" in _LITERAL.sub("", text):
            raise InvalidPattern(r"$ is also before a last line's end: use \Z, or $ with (?m)")
        self.longest = longest
        self.seconds = seconds
        try:
            empty = self.search(self.whole, "", 0)
        except TimeoutError as error:
            raise InvalidPattern("takes too long") from error
        if empty is not None:
            raise InvalidPattern("fits a text of no characters")

    def search(self, expression: Any, text: str, at: int, *, partial: bool = False) -> Any:
        """Raises TimeoutError."""
        return expression.search(text, at, partial=partial, timeout=self.seconds)

    def match(self, text: str, start: int) -> Any:
        """At ``start``, as if the text ended after so many characters as a match may have. Raises
        TimeoutError."""
        return self.whole.match(text, start, start + self.longest, timeout=self.seconds)


class PatternFinder:
    """Looks for ``pattern`` in one text."""

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._text = ""
        # Where what was not given on yet begins.
        self._at = 0

    def more(self, text: str, *, last: bool = False) -> list[Segment]:
        """What is certain now. Raises TimeoutError."""
        self._text += text
        found: list[Segment] = []
        looked_at = self._at
        while looked_at < len(self._text):
            start, end, known = self._next(looked_at, last)
            looked_at = end
            if known:
                self._give(found, start, is_match=False)
                self._give(found, end, is_match=True)
            elif start == end:
                break
        self._give(found, looked_at, is_match=False)
        dropped = max(0, self._at - LOOKED_BACK)
        self._text, self._at = self._text[dropped:], self._at - dropped
        return found

    def _give(self, found: list[Segment], end: int, *, is_match: bool) -> None:
        if end > self._at:
            found.append((self._text[self._at : end], is_match))
            self._at = end

    def _next(self, at: int, last: bool) -> tuple[int, int, bool]:
        """The next match from ``at`` on, and that it is one; else where none can begin: up to the end of a
        character that may be given on, or with both the same, up to where the rest is held back."""
        pattern, text = self._pattern, self._text
        begun = pattern.search(pattern.whole, text, at, partial=True)
        if begun is None or begun.start() == len(text):
            # Mostly so; each search with a time limit takes microseconds.
            return len(text), len(text), False
        maybe = None if last else pattern.search(pattern.open, text, at, partial=True)
        open_from = len(text) if maybe is None else maybe.start()
        match = pattern.search(pattern.whole, text, at)
        while match is not None and match.end() == match.start():
            # What only looks around has nothing to say here.
            start = match.start() + 1
            match = pattern.search(pattern.whole, text, start) if start < len(text) else None
        if match is not None and match.start() < open_from:
            start = match.start()
            if match.end() - start <= pattern.longest:
                return start, match.end(), True
        elif len(text) - open_from >= pattern.longest:
            start = open_from
        else:
            return open_from, open_from, False
        cut = pattern.match(text, start)
        if cut is not None and cut.end() > start:
            return start, cut.end(), True
        return start, start + 1, False
