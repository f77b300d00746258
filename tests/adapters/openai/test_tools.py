"""What a client may ask of tools and of structured output."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from engine.base import ChatMessage, StructuredOutput, Tool, ToolCall
from tests.adapters.openai.test_requests import CHAT, COMPLETION, chat, completion, locations

F = {"name": "f", "description": "d", "parameters": {"type": "object"}}
G = {"name": "g"}
WRAPPED = [{"type": "function", "function": {**F, "strict": True}}, {"type": "function", "function": G}]
TOOL_F, TOOL_G = Tool("f", F), Tool("g", G)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "asked",
    [{"tools": WRAPPED}, {"tools": [F, G]}, {"functions": [F, G]}],
    ids=["wrapped", "flat", "functions"],
)
def test_tools_in_every_form(asked: dict[str, Any]) -> None:
    conversation = chat(**asked).conversation
    assert conversation.tools == conversation.may_call == (TOOL_F, TOOL_G)
    assert not conversation.must_call


def test_a_wrapped_tool_has_the_order_of_the_training_and_a_flat_one_the_clients() -> None:
    mixed = {"parameters": {}, "extra": [1.0], "name": "f", "type": "function"}
    wrapped, flat = chat(
        tools=[{"type": "function", "function": mixed}, mixed | {"name": "h"}]
    ).conversation.tools
    assert list(wrapped.definition) == ["name", "parameters"]
    assert list(flat.definition) == ["parameters", "extra", "name"]


@pytest.mark.parametrize(
    ("asked", "may_call", "must_call"),
    [
        ({"tool_choice": "none"}, (), False),
        ({"tool_choice": "auto"}, (TOOL_F, TOOL_G), False),
        ({"tool_choice": None}, (TOOL_F, TOOL_G), False),
        ({"tool_choice": "required"}, (TOOL_F, TOOL_G), True),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, (TOOL_G,), True),
    ],
)
def test_tool_choice(asked: dict[str, Any], may_call: tuple[Tool, ...], must_call: bool) -> None:
    conversation = chat(tools=WRAPPED, **asked).conversation
    assert (conversation.may_call, conversation.must_call) == (may_call, must_call)
    assert conversation.tools == (TOOL_F, TOOL_G)


@pytest.mark.parametrize(
    ("choice", "may_call", "must_call"),
    [("none", (), False), ("auto", (TOOL_F, TOOL_G), False), ({"name": "f"}, (TOOL_F,), True)],
)
def test_function_call(choice: Any, may_call: tuple[Tool, ...], must_call: bool) -> None:
    asked = chat(functions=[F, G], function_call=choice)
    assert (asked.conversation.may_call, asked.conversation.must_call) == (may_call, must_call)
    assert asked.wanted.legacy
    assert not asked.conversation.parallel_tool_calls


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"name": "two words"}]}, "tools"),
        ({"tools": [{"name": "a\nb"}]}, "tools"),
        ({"tools": [{"name": ""}]}, "tools"),
        ({"tools": [F, F]}, "tools"),
        ({"tools": [{"name": f"f{number}"} for number in range(129)]}, "tools"),
        ({"functions": [F, F]}, "functions"),
        ({"tools": [F], "functions": [F]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [F], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"functions": [F], "function_call": {"name": "g"}}, "function_call"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "response_format",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"unknown": 1}}, "structured_outputs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        (
            {
                "messages": [
                    {"role": "user", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
                ]
            },
            "messages",
        ),
    ],
)
def test_what_can_not_be_honoured_is_refused_at_its_field(asked: dict[str, Any], field: str) -> None:
    assert locations(ChatCompletionRequest, CHAT | asked)[0][0] == field


@pytest.mark.parametrize(
    ("asked", "structured"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, StructuredOutput("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            StructuredOutput("json", SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, StructuredOutput("json", SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, StructuredOutput("json_object")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutput("choice", ["a", "b"])),
        ({"structured_outputs": {"grammar": "root ::= 'a'"}}, StructuredOutput("grammar", "root ::= 'a'")),
    ],
)
def test_structured_output(asked: dict[str, Any], structured: StructuredOutput | None) -> None:
    assert chat(**asked).conversation.structured == structured
    if "response_format" not in asked:
        assert completion(**asked).structured == structured


def test_logprobs() -> None:
    assert chat().top_logprob_count is None
    assert chat(logprobs=True).top_logprob_count == 0
    assert chat(logprobs=True, top_logprobs=3).top_logprob_count == 3
    assert completion(logprobs=2).top_logprob_count == 2
    assert locations(CompletionRequest, COMPLETION | {"logprobs": 21})[0] == ("logprobs",)


def test_calls_and_results_in_the_history() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    conversation = chat(
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
            {"role": "assistant", "function_call": {"name": "g", "arguments": ""}},
            {"role": "function", "name": "g", "content": "s"},
        ]
    ).conversation
    assert conversation.messages == (
        ChatMessage("user", "x"),
        ChatMessage("assistant", "", (ToolCall("f", "{}", "c"),)),
        ChatMessage("tool", "r", (), "c"),
        ChatMessage("assistant", "", (ToolCall("g", ""),)),
        ChatMessage("function", "s", (), None, "g"),
    )


def test_what_was_asked_of_tools_stands_in_the_row() -> None:
    assert chat().tool_fields() == {}
    fields = chat(tools=[F], tool_choice="required", parallel_tool_calls=False).tool_fields()
    assert fields == {"tools": [F], "tool_choice": "required", "parallel_tool_calls": False}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "asked",
    [
        '"tools": [{"name": "f", "parameters": {"a": %s}}]',
        '"tools": [{"name": "f", "params": [%s]}]',
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [%s]}}}]',
        '"structured_outputs": {"json": {"minimum": %s}}',
        '"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": %s}}}',
    ],
)
def test_a_number_that_no_row_can_hold_is_refused(asked: str, number: str) -> None:
    body = '{"messages": [{"role": "user", "content": "x"}], %s}' % (asked % number)
    assert locations(ChatCompletionRequest, body)


def test_what_a_message_has_beyond_its_known_fields_is_not_stored() -> None:
    body = '{"messages": [{"role": "user", "content": "x", "foo": NaN}]}'
    (message,) = ChatCompletionRequest.model_validate_json(body).messages
    assert message.stored_fields() == {"role": "user", "content": "x"}
