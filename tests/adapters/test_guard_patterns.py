"""Matches are found wherever the text is cut, and no more of it is held back than they could need."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.guard_patterns import InvalidPattern, Pattern, PatternFinder
from adapters.guard_words import Segment
from tests.adapters.test_guard_words import cut, joined

PATTERNS = [
    r"\b\d{3,5}\b",
    r"\d+",
    r"\d{2}-\d{2}|\d+",
    r"a|a.*b",
    r"(?<![a-z0-9])sk-[a-z0-9]{3,}(?![a-z0-9])",
    r"a(?!bb)",
    r"(?<=-)b",
    r"(['\"])[a-z]*\1",
    r"(?:ab)+c?",
    r"1\Z",
    r"(?m)^1|1$",
    r"[$]|\$1",
    r"^s",
    r"[ab]{2,}?-",
    r"\w+@\w+\.\w+",
    r"(?>a+)b",
]
LETTERS = "ab1-sk'@.$ \n"


def pattern(text: str, *, ignore_case: bool = False, longest: int = 256) -> Pattern:
    return Pattern(text, ignore_case=ignore_case, longest=longest, seconds=5.0)


def found(sought: Pattern, pieces: list[str]) -> list[Segment]:
    finder = PatternFinder(sought)
    given_on = [segment for piece in pieces for segment in finder.more(piece)]
    return joined([*given_on, *finder.more("", last=True)])


def at_once(text: str, expression: str) -> list[Segment]:
    """As Python's own module finds it in the whole text."""
    segments, at = [], 0
    for match in re.finditer(expression, text):
        segments += [(text[at : match.start()], False)] * (match.start() > at) + [(match[0], True)]
        at = match.end()
    return segments + [(text[at:], False)] * (at < len(text))


@given(st.sampled_from(PATTERNS), st.text(LETTERS, max_size=40), st.lists(st.integers(0, 100), max_size=8))
def test_the_same_is_found_however_the_text_comes(expression: str, text: str, places: list[int]) -> None:
    sought = pattern(expression)
    expected = at_once(text, expression)
    assert found(sought, [text]) == expected
    assert found(sought, cut(text, places)) == expected
    assert found(sought, list(text)) == expected


@given(st.text(LETTERS, max_size=30), st.text(LETTERS, max_size=10))
def test_what_is_held_back_may_become_a_match(text: str, more: str) -> None:
    """Of an address: what may belong to one that begins there."""
    finder = PatternFinder(pattern(r"\w+@\w+\.\w+"))
    given_on = "".join(segment for piece in text for segment, _ in finder.more(piece))
    held = text[len(given_on) :]
    assert re.fullmatch(r"(\w+(@(\w+(\.\w*)?)?)?)?", held)
    assert given_on + held == text


@pytest.mark.parametrize("longest", [4, 8])
def test_no_more_than_the_longest_match_is_held_back(longest: int) -> None:
    finder = PatternFinder(pattern(r"<.*>|\d+", longest=longest))
    held = 0
    for count, piece in enumerate("<" + "<" * 50, start=1):
        held += 1 - sum(len(text) for text, _ in finder.more(piece))
        assert held == min(count, longest - 1)


def test_a_match_that_goes_on_and_on_is_cut_into_several() -> None:
    for pieces in (["1" * 10], ["1"] * 10):
        assert found(pattern(r"\d+", longest=4), pieces) == [("1111", True), ("1111", True), ("11", True)]


def test_case_is_ignored_where_that_is_asked_for() -> None:
    assert found(pattern("éa", ignore_case=True), list("x ÉA")) == [("x ", False), ("ÉA", True)]
    assert found(pattern("éa"), list("x ÉA")) == [("x ÉA", False)]


def test_what_takes_too_long_is_given_up() -> None:
    catastrophic = Pattern(r"(?:a|aa)+\Z", ignore_case=False, longest=256, seconds=0.02)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        PatternFinder(catastrophic).more("a" * 60 + "!", last=True)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("(", "not a regular expression: missing )"),
        ("a*", "fits a text of no characters"),
        ("(?r)ab", "the flags b, e, p and r can't be used"),
        ("a$", "$ is also before"),
        (r"a\Kb", r"\K, \G"),
        ("(?R)", r"\K, \G"),
    ],
)
def test_what_can_not_be_looked_for_is_refused(expression: str, named: str) -> None:
    with pytest.raises(InvalidPattern, match=re.escape(named)):
        pattern(expression)
