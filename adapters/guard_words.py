"""Many words looked for in a text while it comes.

An Aho-Corasick automaton (Aho and Corasick, "Efficient string matching", 1975) over folded characters: each
character of the text is looked at once, however many words there are. Of words that overlap the one that
begins first counts, of those the longest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex

Segment = tuple[str, bool]
"""A piece of the text, and whether it is what was looked for."""

# Scripts that are written without blanks between words: every place in them is a word's edge.
_JOINED = regex.compile(
    r"[\w--[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]", regex.V1
)


@lru_cache(maxsize=65536)
def joins(character: str) -> bool:
    """Whether a word goes on over this character, to both sides."""
    return _JOINED.match(character) is not None


class Words:
    """The automaton; one for all texts. ``whole``: a word counts only where no word goes on before or after
    it. Upper and lower case are the same, by Unicode's full case folding."""

    def __init__(self, words: Iterable[str], *, whole: bool) -> None:
        self.whole = whole
        self.steps: list[dict[str, int]] = [{}]
        # Of each state: how many characters led to it, the state of the longest shorter end of these, and the
        # lengths of the words that end there, the longest first.
        self.depth = [0]
        self.shorter = [0]
        self.lengths: list[tuple[int, ...]] = [()]
        for word in words:
            self._add(word.casefold())
        self._link()

    def _add(self, word: str) -> None:
        state = 0
        for character in word:
            following = self.steps[state].get(character)
            if following is None:
                following = self.steps[state][character] = len(self.steps)
                self.steps.append({})
                self.depth.append(self.depth[state] + 1)
                self.shorter.append(0)
                self.lengths.append(())
            state = following
        self.lengths[state] = (len(word),)

    def _link(self) -> None:
        waiting = deque(self.steps[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self.steps[state].items():
                self.shorter[following] = self.step(self.shorter[state], character)
                waiting.append(following)
            self.lengths[state] += self.lengths[self.shorter[state]]

    def step(self, state: int, character: str) -> int:
        """The state after one more folded character."""
        steps = self.steps
        while True:
            following = steps[state].get(character)
            if following is not None:
                return following
            if not state:
                return 0
            state = self.shorter[state]


class WordFinder:
    """Looks for ``words`` in one text."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._text = ""
        self._begin()

    def _begin(self, before: str = "") -> None:
        """Look anew from the text's start, which ``before`` stands before."""
        self._before = before
        self._state = 0
        self._read = 0
        # The end of each character read, counted in folded ones; None where each is one.
        self._ends: list[int] | None = None
        self._best: tuple[int, int] | None = None

    def more(self, text: str, *, last: bool = False) -> list[Segment]:
        """What is certain now. Held back is what a word may have begun with, or ended with where its edge is
        not known yet."""
        self._text += text
        found: list[Segment] = []
        while (span := self._find(last)) is not None:
            start, end = span
            self._give(found, start, is_word=False)
            self._give(found, end - start, is_word=True)
            self._begin(found[-1][0][-1])
        self._give(found, len(self._text) if last else self._held_from(), is_word=False)
        return found

    def _give(self, found: list[Segment], length: int, *, is_word: bool) -> None:
        if length == 0:
            return
        given, self._text = self._text[:length], self._text[length:]
        found.append((given, is_word))
        self._before = given[-1]
        self._read -= length
        if self._best is not None:
            self._best = (self._best[0] - length, self._best[1] - length)
        if self._ends is not None:
            first = self._ends[length]
            self._ends = [end - first for end in self._ends[length:]]
            if self._ends[-1] == len(self._ends) - 1:
                self._ends = None

    def _find(self, last: bool) -> tuple[int, int] | None:
        """The next word that nothing coming can change, reading on until there is one."""
        words, text = self._words, self._text
        # As long only where each character folds to one: none folds to nothing.
        folded: Sequence[str] = text[self._read :].casefold()
        if len(folded) != len(text) - self._read:
            folded = [character.casefold() for character in text[self._read :]]
            self._ends = self._ends or list(range(self._read + 1))
        begun, state = self._read, self._state
        for position in range(begun, len(text) + 1):
            if words.lengths[state] and not self._note(state, position, last):
                return None
            at_end = position == len(text)
            if self._best is not None and (
                (last and at_end) or self._held_by(state, position) > self._best[0]
            ):
                return self._best
            if at_end:
                return None
            for character in folded[position - begun]:
                state = words.step(state, character)
            self._state, self._read = state, position + 1
            if self._ends is not None:
                self._ends.append(self._ends[-1] + len(folded[position - begun]))
        raise AssertionError("unreachable")

    def _note(self, state: int, end: int, last: bool) -> bool:
        """Remember the best of the words that end here; whether it is known if any does."""
        text = self._text
        if self._edge_is_open(end):
            if end == len(text):
                if not last:
                    return False
            elif joins(text[end]):
                return True
        for length in self._words.lengths[state]:
            start = self._start(length, end)
            if start is not None and self._may_begin(start):
                if self._best is None or start <= self._best[0]:
                    self._best = (start, end)
                break
        return True

    def _edge_is_open(self, end: int) -> bool:
        """Whether it depends on the character after it if a word may end here."""
        return self._words.whole and end > 0 and joins(self._text[end - 1])

    def _start(self, length: int, end: int) -> int | None:
        """Where so many folded characters up to ``end`` begin; None within a character, and before the text:
        no word begins there, or it would not have been given on."""
        if self._ends is None:
            return end - length if end >= length else None
        folded = self._ends[end] - length
        start = bisect_left(self._ends, folded)
        return start if self._ends[start] == folded else None

    def _may_begin(self, start: int) -> bool:
        before = self._text[start - 1] if start else self._before
        return not (self._words.whole and before and joins(before) and joins(self._text[start]))

    def _held_by(self, state: int, end: int) -> int:
        """From where on what is read may be the beginning of a word; ``end`` if nothing is."""
        words = self._words
        while state:
            if words.steps[state]:
                start = self._start(words.depth[state], end)
                if start is not None and self._may_begin(start):
                    return start
            state = words.shorter[state]
        return end

    def _held_from(self) -> int:
        """The same where all is read, and the words whose edge is not known yet."""
        start = self._held_by(self._state, self._read)
        if self._best is not None:
            start = min(start, self._best[0])
        if self._read and self._edge_is_open(self._read):
            for length in self._words.lengths[self._state]:
                of_word = self._start(length, self._read)
                if of_word is not None and self._may_begin(of_word):
                    return min(start, of_word)
        return start
