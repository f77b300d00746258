from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.chat_format import TextRules
from adapters.chatglm3.content import PLACEHOLDER, YEAR, ContentText

parts = st.sampled_from(
    ["a", "b", "ab", "[", "[[", "训练", PLACEHOLDER, PLACEHOLDER[:5], PLACEHOLDER[5:], "]]", "\n", "停"]
)
stops = st.lists(
    st.sampled_from(["a", "ab", "ba", "aab", "\n", "停", "2023", "[[", "]"]), max_size=4, unique=True
)


def stopped(text: str, early: int, stop: Sequence[str], *, include: bool) -> tuple[str, bool]:
    """The text up to the first stop string that ends beyond its first ``early`` characters, and whether there
    is one; by trying every end."""
    for end in range(early + 1, len(text) + 1):
        for one in stop:
            if text[:end].endswith(one):
                return text[: end if include else end - len(one)], True
    return text, False


def as_vllm(tokens: Sequence[str], rules: TextRules) -> tuple[str, bool]:
    """BaseIncrementalDetokenizer.update of vLLM, called with the tokens of one step, one after the other."""
    text = ""
    for number, token in enumerate(tokens, start=1):
        before, text = len(text), text + token
        if number > rules.min_tokens:
            ended, found = stopped(text, before, rules.stop, include=rules.include_stop_str_in_output)
            if found:
                return ended, True
    return text, False


def told(tokens: Sequence[str], rules: TextRules, *, replace: bool, at_once: int) -> tuple[str, bool]:
    """What ContentText gives when ``at_once`` tokens come at a time."""
    content = ContentText(rules, replace=replace)
    given_text = ""
    for start in range(0, len(tokens), at_once):
        some = tokens[start : start + at_once]
        early = "".join(some[: max(0, rules.min_tokens - start)])
        if not content.stopped:
            given_text += content.more("".join(some), len(early))
    return given_text + content.end(), content.stopped


all_rules = st.builds(
    TextRules,
    stop=stops.map(tuple),
    include_stop_str_in_output=st.booleans(),
    min_tokens=st.integers(0, 8),
)


@given(st.lists(parts, max_size=12), all_rules, st.integers(1, 13))
@settings(max_examples=500)
def test_cut_anywhere_it_ends_where_vllm_ends_it(tokens: list[str], rules: TextRules, at_once: int) -> None:
    assert told(tokens, rules, replace=False, at_once=at_once) == as_vllm(tokens, rules)


@given(st.lists(parts, max_size=12), all_rules, st.integers(1, 13))
@example([PLACEHOLDER[:5], PLACEHOLDER[5:]], TextRules(stop=("2023",), min_tokens=1), 1)
@settings(max_examples=500)
def test_cut_anywhere_the_placeholder_is_replaced_before_stop_strings_are_sought(
    tokens: list[str], rules: TextRules, at_once: int
) -> None:
    """The year comes with the token that completes the placeholder."""
    before, *rest = "".join(tokens).split(PLACEHOLDER)
    # The visible text, character by character, each with the end in the unreplaced text at which it comes.
    owned = [(character, at + 1) for at, character in enumerate(before)]
    end = len(before)
    for text in rest:
        end += len(PLACEHOLDER)
        owned += [(character, end) for character in YEAR]
        owned += [(character, end + at + 1) for at, character in enumerate(text)]
        end += len(text)
    first = len("".join(tokens[: rules.min_tokens]))
    visible = "".join(character for character, _ in owned)
    early = sum(end <= first for _, end in owned)
    expected = stopped(visible, early, rules.stop, include=rules.include_stop_str_in_output)
    assert told(tokens, rules, replace=True, at_once=at_once) == expected


def test_only_what_may_still_become_something_else_waits() -> None:
    content = ContentText(TextRules(stop=("END",)), replace=True)
    assert content.more("abc") == "abc"
    assert content.more("d E") == "d "
    assert content.more("N") == ""
    assert content.more("x") == "ENx"
    assert content.more("[[训练") == ""
    assert content.more("时间]]。") == "2023年。"
    assert content.more("the END of") == "the "
    assert content.stopped
