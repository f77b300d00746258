from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.chatglm3.content import PLACEHOLDER, YEAR, ContentText

parts = st.sampled_from(["a", "b", "ab", "[", "[[", "训练", PLACEHOLDER, PLACEHOLDER[:5], "]]", "\n", "停"])
contents = st.lists(parts, max_size=12).map("".join)
stops = st.lists(
    st.sampled_from(["a", "ab", "ba", "aab", "\n", "停", "2023", "[[", "]"]), max_size=4, unique=True
)


def expected(text: str, stop: list[str], *, replace: bool) -> str:
    """By trying every beginning, the shortest first."""
    if replace:
        text = text.replace(PLACEHOLDER, YEAR)
    for end in range(len(text) + 1):
        for one in stop:
            if text[:end].endswith(one):
                return text[: end - len(one)]
    return text


@given(contents, stops, st.booleans(), st.data())
@settings(max_examples=300)
def test_cut_anywhere_it_is_cleaned_and_ends_before_the_first_stop_string(
    text: str, stop: list[str], replace: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    content = ContentText(stop, replace=replace)
    told = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if not content.stopped:
            told.append(content.more(text[start:end]))
    told.append(content.end())
    assert "".join(told) == expected(text, stop, replace=replace)


def test_only_what_may_still_become_something_else_waits() -> None:
    content = ContentText(["END"], replace=True)
    assert content.more("abc") == "abc"
    assert content.more("d E") == "d "
    assert content.more("N") == ""
    assert content.more("x") == "ENx"
    assert content.more("[[训练") == ""
    assert content.more("时间]]。") == "2023年。"
    assert content.more("the END of") == "the "
    assert content.stopped
