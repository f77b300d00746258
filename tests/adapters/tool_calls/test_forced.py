"""Answers that are forced to be calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.chat_format import Prompt
from engine.base import StructuredOutput, Tool
from tests.adapters.template_models import QWEN, SEARCH, WEATHER
from tests.adapters.tool_calls.reading import Told, asking, deltas_of, read, read_all_ways
from tests.strategies import json_values, texts

jsonschema = pytest.importorskip("jsonschema")

TREE = Tool(
    "grow",
    {
        "name": "grow",
        "parameters": {
            "$defs": {"Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
            "properties": {"tree": {"$ref": "#/$defs/Tree"}, "$ref": {"type": "string"}},
            "required": ["tree"],
        },
    },
)
LEAF = Tool(
    "fall",
    {
        "name": "fall",
        "parameters": {
            "type": "object",
            "definitions": {"Tree": {"enum": ["oak", "elm"]}},
            "properties": {"tree": {"$ref": "#/definitions/Tree"}, "next": {"$ref": "#"}},
        },
    },
)


def forced(*tools: Tool, parallel: bool = True) -> Prompt:
    return QWEN.format.render(asking(tools, parallel=parallel, must_call=True))


def schema_of(prompt: Prompt) -> Any:
    assert prompt.structured is not None
    assert prompt.structured.kind == "json"
    json.dumps(prompt.structured.value)
    return prompt.structured.value


def fits(schema: Any, value: object) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def call(name: str, **parameters: object) -> dict[str, object]:
    return {"name": name, "parameters": parameters}


def test_the_arguments_of_a_named_tool_fit_its_schema() -> None:
    schema = schema_of(forced(WEATHER))
    assert fits(schema, {"city": "Paris", "days": 1})
    assert not fits(schema, {"days": 1})
    assert not fits(schema_of(forced(TREE)), [])


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    schema = schema_of(forced(SEARCH))
    assert fits(schema, {})
    assert not fits(schema, {"q": 1})
    assert not fits(schema, "x")


def test_a_list_of_calls_fits_the_schemas_of_their_tools() -> None:
    schema = schema_of(forced(WEATHER, SEARCH, TREE, LEAF))
    assert fits(schema, [call("get_weather", city="Paris")])
    assert fits(schema, [call("search"), call("search")])
    assert fits(schema, [call("grow", tree=[[], [[]]])])
    assert fits(schema, [call("fall", tree="oak", next={"tree": "elm"})])
    refused: list[object] = [
        [],
        {},
        [call("dig")],
        [call("get_weather")],
        [call("search", city="Paris")],
        [call("grow", tree="oak")],
        [call("fall", tree=[])],
        [call("fall", next={"tree": "fir"})],
        [{"name": "search"}],
        [call("search") | {"more": 1}],
    ]
    for wrong in refused:
        assert not fits(schema, wrong), wrong


def test_without_parallel_calls_there_is_one() -> None:
    schema = schema_of(forced(WEATHER, SEARCH, parallel=False))
    assert fits(schema, [call("search")])
    assert not fits(schema, [call("search"), call("search")])
    assert not forced(WEATHER, SEARCH, parallel=False).ends_early


def test_the_grammar_backend_takes_the_schemas() -> None:
    xgrammar = pytest.importorskip("xgrammar")
    text = str(xgrammar.Grammar.from_json_schema(json.dumps(schema_of(forced(TREE, LEAF, SEARCH)))))
    assert "oak" in text
    xgrammar.Grammar.from_json_schema(json.dumps(schema_of(forced(SEARCH))))


def test_arguments_of_a_named_tool_are_told_as_they_come() -> None:
    new_reader = forced(WEATHER).new_reader
    reader = new_reader()
    first, second, last = (reader.read(delta) for delta in deltas_of(['{"city"', ': "Paris"}', ""]))
    assert [(one.name, one.arguments) for one in first.tool_calls] == [
        ("get_weather", ""),
        (None, '{"city"'),
    ]
    assert [(one.name, one.arguments) for one in second.tool_calls] == [(None, ': "Paris"}')]
    assert not last.tool_calls
    arguments = '{"city": "Paris"}'
    assert read_all_ways(new_reader, arguments) == ("", [("get_weather", arguments)], "tool_calls")
    cut = ("", [("get_weather", '{"ci')], "length")
    assert read_all_ways(new_reader, '{"ci', "length") == cut
    assert read_all_ways(new_reader, "", "length") == ("", [], "length")


TWO = '[{"name": "search", "parameters": {"q":  [1, "]"]}}, {"name": "get_weather", "parameters": {}}]'
SEARCHED = ("search", '{"q":  [1, "]"]}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TWO, ("", [SEARCHED, ("get_weather", "{}")], "tool_calls")),
        (f"\n{TWO}\n ", ("", [SEARCHED, ("get_weather", "{}")], "tool_calls")),
        (TWO.replace(" ", "").replace('{"q":[', '{"q":  [').replace(',"]"', ', "]"'), (
            "", [SEARCHED, ("get_weather", "{}")], "tool_calls")),
        (TWO[: TWO.index(", {")], ("", [SEARCHED], "tool_calls")),
    ],
    ids=["two", "blanks around", "no blanks", "one"],
)  # fmt: skip
def test_calls_of_a_list_are_told_when_they_are_whole(text: str, expected: Told) -> None:
    assert read_all_ways(forced(WEATHER, SEARCH).new_reader, text) == expected


def test_a_call_of_a_list_is_told_before_the_next_one_comes() -> None:
    reader = forced(WEATHER, SEARCH).new_reader()
    first, _ = (reader.read(delta) for delta in deltas_of([TWO[: TWO.index(", {")], ""]))
    assert [one.name for one in first.tool_calls] == ["search", None]


@pytest.mark.parametrize("end", range(len(TWO)))
def test_what_came_of_a_list_that_was_cut_is_told(end: int) -> None:
    text = TWO[:end]
    content, calls, end_reason = read_all_ways(forced(WEATHER, SEARCH).new_reader, text, "length")
    assert end_reason == "length"
    names = [name for name, _ in calls]
    assert names == ["search", "get_weather"][: len(names)]
    if calls:
        assert SEARCHED[1].startswith(calls[0][1].rstrip("}")) or calls[0][1] == SEARCHED[1]
    # What is no call yet is text.
    assert text.endswith(content)
    if not calls:
        assert content == text


@given(st.lists(st.tuples(texts, st.dictionaries(texts, json_values, max_size=2)), min_size=1, max_size=3))
def test_any_list_of_calls_comes_back(items: list[tuple[str, dict[str, object]]]) -> None:
    text = json.dumps([{"name": name, "parameters": parameters} for name, parameters in items])
    reader = forced(WEATHER, SEARCH).new_reader()
    content, calls, _ = read(reader, deltas_of([*text, ""]))
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in calls] == items


def test_a_forced_answer_is_constrained_in_the_place_of_structured_output() -> None:
    assert isinstance(forced(WEATHER).structured, StructuredOutput)
    assert QWEN.format.render(asking()).structured is None
