"""The rules of a guard list, together, on texts and on answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.chat_format import Piece, ToolCallDelta
from adapters.guard import Findings, Guard, OutputGuard, Stages, passed, passed_json
from adapters.guard_rules import InvalidGuard
from tests.adapters.test_guard_words import cut
from tests.strategies import texts

MASKS = """
rules:
  - {name: project, words: [Apollo, 阿波罗], action: mask, replacement: "[project]"}
  - {name: digits, pattern: '\\d{4,}', action: mask}
  - {name: tone, words: [damn], action: flag}
  - {name: secret, words: [hunter2], match: substring, action: block, where: output}
"""


def guard_of(text: str = MASKS) -> Guard:
    return Guard.from_yaml(text)


def output_of(guard: Guard) -> OutputGuard:
    output = guard.output()
    assert output is not None
    return output


def streamed(guard: Guard, pieces: Sequence[str]) -> tuple[str, dict[str, object], str | None]:
    findings = Findings()
    stages = Stages(guard.output_rules, findings)
    text = "".join(stages.more(piece) for piece in pieces) + stages.more("", last=True)
    return text, findings.fields(), findings.blocked_by


def test_each_rule_does_what_it_says_and_tells_how_often() -> None:
    text = "APOLLO and 阿波罗, damn! 123 12345. It is xhunter2x, no more."
    found = streamed(guard_of(), list(text))
    masked = "[project] and [project], damn! 123 ***. It is x"
    assert found == (masked, {"project": 2, "digits": 1, "tone": 1, "secret": 1}, "secret")


MANY = (
    MASKS
    + """
  - {name: late, pattern: 'x.{3}', action: block}
  - {name: any, words: [x], match: substring, action: flag}
"""
)


@given(
    st.lists(st.sampled_from(["apollo", "Apo", "llo", "12", "3456", "damn", "hunter2", "hun", " ", "x"])).map(
        "".join
    ),
    st.lists(st.integers(0, 1000), max_size=12),
)
def test_an_answer_is_the_same_however_it_comes(text: str, places: list[int]) -> None:
    assert streamed(guard_of(MANY), cut(text, places)) == streamed(guard_of(MANY), [text])


@given(texts, st.lists(st.integers(0, 1000), max_size=5))
def test_what_no_rule_finds_is_unchanged(text: str, places: list[int]) -> None:
    words, pattern = "words: ['\U0010fffe'], action: block", "pattern: '\U0010fffe+', action: mask"
    rules = f"rules: [{{name: a, {words}}}, {{name: b, {pattern}}}]"
    assert streamed(guard_of(rules), cut(text, places)) == (text, {}, None)


@given(st.integers(0, 5000))
def test_a_long_text_is_looked_at_in_parts_and_masked_all_the_same(blanks: int) -> None:
    text = " " * (4096 - 7 + blanks % 20) + "Apollo" + " " * blanks
    assert passed(guard_of().output_rules, text, Findings()) == text.replace("Apollo", "[project]")


def test_rules_that_only_note_hold_nothing_back() -> None:
    guard = guard_of("rules: [{name: a, words: [abc], action: flag}]")
    output = output_of(guard)
    assert [output.read(Piece(piece), last=False).text for piece in ("a", "b", "c", " ")] == list("abc ")
    assert output.findings.fields() == {"a": 1}
    assert not guard.hides_output
    assert guard_of().hides_output


def test_an_answer_ends_before_what_is_blocked() -> None:
    output = output_of(guard_of())
    first = output.read(Piece("so hunter"), last=False)
    assert (first.text, first.ended) == ("so ", False)
    second = output.read(Piece("2 and more", tool_calls=[ToolCallDelta(0, "f", "{}")]), last=False)
    assert (second.text, second.ended, list(second.tool_calls)) == ("", True, [])
    assert output.blocked
    assert output.read(Piece("more"), last=True).text == ""


def test_the_arguments_of_calls_are_looked_at_as_they_read() -> None:
    output = output_of(guard_of())
    deltas = [
        ToolCallDelta(0, "f", ""),
        ToolCallDelta(0, None, '{"q": "\\u0041poll'),
        ToolCallDelta(0, None, 'o 1", "card": 12345, "n": 1.50}'),
        ToolCallDelta(1, "g", '{"a":1}'),
    ]
    pieces = [output.read(Piece(tool_calls=[delta]), last=False) for delta in deltas]
    pieces.append(output.read(Piece(), last=True))
    told = [call for piece in pieces for call in piece.tool_calls]
    masked = '{"q": "[project] 1", "card": "***", "n": 1.50}'
    assert told == [ToolCallDelta(0, "f", masked), ToolCallDelta(1, "g", '{"a":1}')]


def test_a_call_with_what_is_blocked_is_not_told() -> None:
    output = output_of(guard_of())
    piece = output.read(Piece("ok", tool_calls=[ToolCallDelta(0, "f", '"hunter2"')]), last=True)
    assert (piece.text, list(piece.tool_calls), piece.ended) == ("ok", [], True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.booleans())
def test_json_stays_json_and_is_unchanged_where_nothing_is_found(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    rules = guard_of("rules: [{name: a, words: ['\U0010fffe'], action: mask}]").output_rules
    assert passed_json(rules, text, Findings()) == text
    digits = guard_of("rules: [{name: a, pattern: '[0-9a-f]+', action: mask}]").output_rules
    json.loads(passed_json(digits, text, Findings()))


@pytest.mark.parametrize(
    ("action", "left", "blocked_by"), [("block", "", "slow"), ("mask", "", "slow"), ("flag", None, None)]
)
def test_text_that_a_pattern_takes_too_long_for_is_not_told(
    action: str, left: str | None, blocked_by: str | None
) -> None:
    guard = guard_of(rf"rules: [{{name: slow, pattern: '(?:a|aa)+\Z', action: {action}}}]")
    text = "a" * 60 + "!"
    told, fields, blocked = streamed(guard, [text])
    assert (told, blocked) == (text if left is None else left, blocked_by)
    assert fields["too_slow"] == ["slow"]


def test_rules_are_for_what_is_asked_for_what_is_answered_or_for_both() -> None:
    guard = guard_of("rules: [{name: a, words: [x], action: flag, where: input}]")
    assert len(guard.input_rules) == 1
    assert guard.output() is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "must be an object with the key 'rules'"),
        ("rules: []", "rules: List should have at least 1 item"),
        ("rules: [", "not valid YAML: line 1"),
        ("rules: [{name: a, action: mask}]", "rule 'a': has to have either words or a pattern"),
        ("rules: [{name: a, words: [x]}]", "rule 'a': action: Field required"),
        ("rules: [{words: [x], action: mask}]", "rule 1: name: Field required"),
        (
            "rules: [{name: a, words: [no], action: mask}]",
            "rule 'a': words: 0: Input should be a valid string",
        ),
        ("rules: [{name: a, words: [' '], action: mask}]", "rule 'a': words: 0: String should match"),
        ("rules: [{name: a, words: [x], action: drop}]", "rule 'a': action: Input should be 'block'"),
        ("rules: [{name: a, pattern: '(', action: mask}]", "rule 'a': pattern: not a regular expression"),
        (
            "rules: [{name: a, words: [x], longest: 3, action: mask}]",
            "rule 'a': longest belongs to a pattern",
        ),
        ("rules: [{name: a, words: [x], replacement: y, action: flag}]", "rule 'a': replacement belongs to"),
        ("rules: [{name: a, words: [x], action: mask, act: x}]", "rule 'a': act: Extra inputs"),
        (
            "rules: [{name: a, words: [x], action: mask}, {name: a, words: [x], action: mask}]",
            "there are two rules 'a'",
        ),
    ],
)
def test_rules_that_can_not_be_used_are_named(text: str, named: str) -> None:
    with pytest.raises(InvalidGuard) as raised:
        guard_of(text)
    assert str(raised.value).startswith(named)
    assert "\n" not in str(raised.value)
