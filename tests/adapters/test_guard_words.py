"""Words are found wherever the text is cut, and no more of it is held back than could become one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.guard_words import Segment, WordFinder, Words, joins

# Two of them fold to more than one character, one to another letter's.
LETTERS = "abß sSA中İ_"

words = st.lists(st.text(LETTERS, min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=5)


def found(sought: Words, pieces: Sequence[str]) -> list[Segment]:
    """What is found in pieces that come one after the other, texts that follow each other joined."""
    finder = WordFinder(sought)
    given_on = [segment for piece in pieces for segment in finder.more(piece)]
    return joined([*given_on, *finder.more("", last=True)])


def joined(segments: Sequence[Segment]) -> list[Segment]:
    whole: list[Segment] = []
    for text, is_word in segments:
        if whole and not is_word and not whole[-1][1]:
            whole[-1] = (whole[-1][0] + text, False)
        else:
            whole.append((text, is_word))
    return whole


def is_edge(text: str, at: int) -> bool:
    return at in (0, len(text)) or not (joins(text[at - 1]) and joins(text[at]))


def one_by_one(sought: Sequence[str], whole: bool, text: str) -> list[Segment]:
    """The same without an automaton."""
    folded = {word.casefold() for word in sought}
    segments: list[Segment] = []
    at = begun = 0
    while at < len(text):
        ends = [
            end
            for end in range(at + 1, len(text) + 1)
            if text[at:end].casefold() in folded and (not whole or (is_edge(text, at) and is_edge(text, end)))
        ]
        if not ends:
            at += 1
            continue
        segments += [(text[begun:at], False)] * (at > begun) + [(text[at : max(ends)], True)]
        at = begun = max(ends)
    return segments + [(text[begun:], False)] * (begun < len(text))


def cut(text: str, places: Sequence[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(words, st.booleans(), st.text(LETTERS, max_size=25), st.lists(st.integers(0, 100), max_size=8))
def test_the_same_words_are_found_however_the_text_comes(
    sought: list[str], whole: bool, text: str, places: list[int]
) -> None:
    automaton = Words(sought, whole=whole)
    assert found(automaton, cut(text, places)) == one_by_one(sought, whole, text)
    assert found(automaton, list(text)) == one_by_one(sought, whole, text)


@given(words, st.booleans(), st.text(LETTERS, max_size=15))
def test_what_is_held_back_may_become_a_word(sought: list[str], whole: bool, text: str) -> None:
    finder = WordFinder(Words(sought, whole=whole))
    given_on = "".join(segment for piece in text for segment, _ in finder.more(piece))
    assert text.startswith(given_on)
    start = len(given_on)
    if start == len(text):
        return
    folded = text[start:].casefold()
    # From its first character on it begins a word, or is one whose edge or longer form is still open.
    assert any(word.casefold().startswith(folded) or folded.startswith(word.casefold()) for word in sought), (
        folded
    )
    # Something could follow that makes a match of it that the text alone does not tell yet.
    endings = ["", " ", "b", *(word.casefold()[len(folded) :] for word in sought)]
    begins = [
        one_by_one(sought, whole, text + ending + after) for ending in endings for after in ("", " ", "b")
    ]
    assert any(start in starts_of_words(segments) for segments in begins)


def starts_of_words(segments: Sequence[Segment]) -> set[int]:
    starts, at = set(), 0
    for text, is_word in segments:
        if is_word:
            starts.add(at)
        at += len(text)
    return starts


@given(st.text(), st.lists(st.integers(0, 100), max_size=5))
def test_a_text_without_words_is_unchanged(text: str, places: list[int]) -> None:
    segments = found(Words(["\U0010ffff\U0010fffe"], whole=True), cut(text, places))
    assert segments == ([(text, False)] if text else [])


@pytest.mark.parametrize(
    ("word", "text", "is_found"),
    [
        ("foo", "a FOO.", True),
        ("foo", "food", False),
        ("foo", "_foo", False),
        ("项目", "我的项目是", True),
        ("项目", "my项目x", True),
        ("straße", "STRASSE", True),
        ("ss", "ß", True),
        ("s", "ß", False),
        ("c++", "c++11", True),
        ("c++", "xc++", False),
        ("cafe", "cafe\u0301", False),
        ("project x", "Project X!", True),
    ],
)
def test_a_word_has_edges_but_in_scripts_without_blanks(word: str, text: str, is_found: bool) -> None:
    for pieces in ([text], list(text)):
        assert any(is_word for _, is_word in found(Words([word], whole=True), pieces)) is is_found


def test_part_of_a_word_is_found_where_that_is_asked_for() -> None:
    assert found(Words(["foo"], whole=False), list("seafood")) == [
        ("sea", False),
        ("foo", True),
        ("d", False),
    ]
