from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.text_search import Texts

letters = st.text(alphabet="ab<")


@given(st.lists(letters.filter(bool), max_size=4), letters, letters)
def test_nothing_that_is_certain_is_part_of_what_may_still_come(
    texts: list[str], text: str, more: str
) -> None:
    search = Texts(texts)
    certain = search.certain(text)
    for one in texts:
        at = (text + more).find(one)
        while at >= 0:
            assert not at < certain < len(text) < at + len(one)
            assert at >= certain or at + len(one) <= len(text)
            at = (text + more).find(one, at + 1)


@pytest.mark.parametrize(("text", "found"), [("x<ab>", (1, 4)), ("x<a", (1, 3)), ("x<b", None), ("", None)])
def test_the_longest_of_several_is_found(text: str, found: tuple[int, int] | None) -> None:
    assert Texts(["<a", "<ab", ""]).find(text) == found


def test_nothing_is_found_of_nothing() -> None:
    assert Texts([]).find("a") is None
    assert Texts([]).certain("a") == 1
