from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.chatglm3.calls import NotACall, json_pieces, read_call, read_code, write_call, write_code
from tests.strategies import texts

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
arguments = st.dictionaries(st.sampled_from(["a", "city", "类型", "from", "max-results", ""]) | texts, values)


@given(arguments)
@example({"ª": None})
@example({"ª": None, "a": None})
def test_what_is_written_is_read_again(given_arguments: dict[str, Any]) -> None:
    assert read_call(write_call(given_arguments)) == given_arguments


@given(arguments)
def test_the_pieces_join_to_json_of_the_same(given_arguments: dict[str, Any]) -> None:
    assert json.loads("".join(json_pieces(given_arguments))) == given_arguments


def test_a_call_is_written_as_the_model_was_trained_on() -> None:
    written = write_call({"location": "北京", "unit": "celsius", "days": 3, "hourly": False})
    assert written == "```python\ntool_call(location='北京', unit='celsius', days=3, hourly=False)\n```"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            " ```python\ntool_call(location='Beijing', unit='celsius')\n```",
            {"location": "Beijing", "unit": "celsius"},
        ),
        ("```python\ntool_call(seed=42, range=(0, 100))\n```", {"seed": 42, "range": [0, 100]}),
        ("```\ntool_call()\n```", {}),
        (" tool_call(x=1)", {"x": 1}),
        ("```python tool_call(x=1)```", {"x": 1}),
        ("```python\ntool_call(x=1)", {"x": 1}),
        ("```python\n\n  tool_call(\n    x=1,\n    y=[1, 2],\n)\n\n```\n", {"x": 1, "y": [1, 2]}),
        ("tool_call(a=true, b=false, c=null, d=None)", {"a": True, "b": False, "c": None, "d": None}),
        ("tool_call(a=-1, b=-1.5, c=0x10)", {"a": -1, "b": -1.5, "c": 16}),
        (
            "tool_call(a='x' 'y', b='''l1\nl2''', c=r'\\d', d='\\d')",
            {"a": "xy", "b": "l1\nl2", "c": "\\d", "d": "\\d"},
        ),
        ("tool_call(a={'b': {'c': [1, (2, 3)]}})", {"a": {"b": {"c": [1, [2, 3]]}}}),
        ("tool_call(**{'max-results': 1, 'from': 'x'}, y=2)", {"max-results": 1, "from": "x", "y": 2}),
    ],
)
def test_a_call_is_read(body: str, expected: dict[str, Any]) -> None:
    assert read_call(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        "",
        "```python\n```",
        "tool_call",
        "tool_call(1)",
        "tool_call(x=1",
        "tool_call(x=)",
        "tool_call(x=1, x=2)",
        "tool_call(**{'x': 1}, x=2)",
        "tool_call(**[1])",
        "other_call(x=1)",
        "obj.tool_call(x=1)",
        "tool_call(x=__import__('os').system('true'))",
        "tool_call(x=open('/etc/passwd').read())",
        "tool_call(x=1); tool_call(y=2)",
        "x = tool_call(x=1)",
        "tool_call(x=f'{1}')",
        "tool_call(x=b'1')",
        "tool_call(x={1, 2})",
        "tool_call(x=1+2)",
        "tool_call(x=1j)",
        "tool_call(x=1e999)",
        "tool_call(x=-1e999)",
        "tool_call(x={1: 2})",
        "tool_call(x={**{}})",
        "tool_call(x=...)",
        "tool_call(x=name)",
        "tool_call(x=[y for y in 'ab'])",
        "tool_call(x=lambda: 1)",
        "tool_call(x='\0')",
        "tool_call(x=-True)",
        "tool_call(x=" + "[" * 5000,
        "tool_call(x=" + "[" * 100 + "]" * 100 + ")",
        "tool_call(x=" + "9" * 10_000 + ")",
        "tool_call(x=" + "-" * 50_000 + "1)",
    ],
)
def test_what_is_no_call_with_literals_is_refused_and_nothing_is_run(body: str) -> None:
    with pytest.raises(NotACall):
        json_pieces(read_call(body))


def test_an_integer_that_json_can_not_write_is_no_call() -> None:
    with pytest.raises(NotACall):
        json_pieces(read_call("tool_call(x=0x" + "f" * 10_000 + ")"))


def test_half_a_surrogate_pair_is_carried_by_an_escape() -> None:
    text = "".join(json_pieces(read_call(r"tool_call(x='\ud800')")))
    assert text == '{"x": "\\ud800"}'
    text.encode()


@given(texts)
def test_reading_never_fails_otherwise(text: str) -> None:
    for body in (text, f"tool_call(x={text})", f"```python\ntool_call({text})\n```"):
        with contextlib.suppress(NotACall):
            read_call(body)


@pytest.mark.parametrize("code", ["print(1)", "", "\n\nx = 1\n", "if x:\n    y = '```'", "# 你好", "a\n\n"])
def test_code_is_read_as_it_was_written(code: str) -> None:
    assert read_code(" " + write_code(code)) == code


def test_code_without_a_fence_is_taken_as_it_is() -> None:
    assert read_code(" print(1)\nprint(2)") == "print(1)\nprint(2)"
