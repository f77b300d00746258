from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.chatchat.parameters import (
    ChatchatFields,
    completion_prompt,
    history_template,
    transcript,
    with_history,
    with_template,
)
from adapters.prompt_templates import (
    COMPLETION,
    LLM_CHAT,
    PromptTemplates,
    TemplateRefused,
    UnfitTemplate,
    UnknownTemplate,
)
from engine.base import ChatMessage, ToolCall
from gateway.errors import GatewayError, from_validation
from gateway.prompt_templates import read_templates
from tests.strategies import json_values, texts

SHIPPED = read_templates(None)
OWN = PromptTemplates(
    {
        LLM_CHAT: {"default": "Kindly: {input}", "told": "{history}|{input}"},
        COMPLETION: {"default": "{input}!", "with_history": "<{history}>{input}", "plain": "# {input}"},
    }
)

ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
messages = st.lists(st.builds(ChatMessage, ROLES, texts), max_size=8)
history_items = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "human", "ai"]), texts), max_size=8
)

SYSTEM, DEVELOPER, USER, ASSISTANT = (
    ChatMessage("system", "Be brief."),
    ChatMessage("developer", "Be kind."),
    ChatMessage("user", "Where?"),
    ChatMessage("assistant", "Here."),
)
QUESTION = ChatMessage("user", "Why?")


def parsed(**fields: Any) -> ChatchatFields:
    return ChatchatFields.model_validate_json(json.dumps(fields))


def refusal(**fields: Any) -> GatewayError:
    """What a client is told."""
    with pytest.raises(ValidationError) as refused:
        parsed(**fields)
    return from_validation(refused.value.errors())


def test_nothing_is_asked_for_where_nothing_is_sent() -> None:
    nothing = parsed()
    assert (nothing.past, nothing.stored_turns) == ((), 0)
    assert nothing.template_name == "default"
    assert parsed(history=None, history_len=None, conversation_id=None, prompt_name=None) == nothing


@given(history_items)
def test_a_list_is_taken_as_it_is_with_the_roles_of_openai(items: list[tuple[str, str]]) -> None:
    objects = [{"role": role, "content": content, "more": 1} for role, content in items]
    as_objects, as_pairs = parsed(history=objects), parsed(history=items)
    assert as_objects.past == as_pairs.past
    assert [message.content for message in as_objects.past] == [content for _, content in items]
    roles = {"human": "user", "ai": "assistant"}
    assert [message.role for message in as_objects.past] == [roles.get(role, role) for role, _ in items]


def test_a_history_may_have_1000_messages_and_no_more() -> None:
    assert len(parsed(history=[["user", "x"]] * 1000).past) == 1000
    assert refusal(history=[["user", "x"]] * 1001).param == "history"


@pytest.mark.parametrize("value", [True, False, "", "3", 1.0, 0.5, {}, {"role": "user", "content": "x"}])
def test_a_history_that_is_neither_a_list_nor_an_integer_is_refused(value: object) -> None:
    error = refusal(history=value)
    assert error.param == "history"
    assert "must be an integer or a list of {role, content}" in error.message


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "tool", "content": "x"}, "history.1.role"),
        ({"role": "User", "content": "x"}, "history.1.role"),
        ({"role": 1, "content": "x"}, "history.1.role"),
        ({"content": "x"}, "history.1.role"),
        ({"role": "user"}, "history.1.content"),
        ({"role": "user", "content": None}, "history.1.content"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "history.1.content"),
        (["bot", "x"], "history.1.role"),
        (["user", 1], "history.1.content"),
        (["user"], "history.1"),
        (["user", "x", "y"], "history.1"),
        ([], "history.1"),
        ("user", "history.1"),
        (None, "history.1"),
        (1, "history.1"),
    ],
)
def test_a_wrong_item_of_a_history_is_named(item: object, param: str) -> None:
    assert refusal(history=[["user", "x"], item]).param == param


def test_a_wrong_role_is_told_the_right_ones() -> None:
    assert "'system', 'user', 'assistant', 'human' or 'ai'" in refusal(history=[["bot", "x"]]).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("history", 2**63),
        ("history", -(2**63) - 1),
        ("history_len", True),
        ("history_len", "3"),
        ("history_len", 1.5),
        ("history_len", 2**63),
        ("history_len", []),
        ("conversation_id", 5),
        ("conversation_id", "x" * 256),
        ("prompt_name", 5),
        ("prompt_name", ["py"]),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(field: str, value: object) -> None:
    assert refusal(**{field: value}).param == field


@given(st.dictionaries(st.sampled_from(list(ChatchatFields.model_fields)), json_values))
def test_any_values_are_taken_or_refused_at_their_field(fields: dict[str, Any]) -> None:
    wrong: set[int | str] = set()
    try:
        parsed(**fields)
    except ValidationError as refused:
        wrong = {error["loc"][0] for error in refused.errors()}
    assert wrong <= set(fields)


def test_an_empty_conversation_is_none_and_a_long_one_is_one() -> None:
    assert parsed(conversation_id="").conversation_id is None
    assert parsed(conversation_id="x" * 255).conversation_id == "x" * 255


@pytest.mark.parametrize(
    ("fields", "stored_turns"),
    [
        ({"history_len": 3}, 3),
        ({"history_len": 0}, 0),
        ({"history_len": -1}, 0),
        ({"history_len": -7}, 0),
        ({}, 0),
        # An integer history stands for history_len where it is above 0, and for no history elsewhere.
        ({"history": 2}, 2),
        ({"history": 2, "history_len": 3}, 2),
        ({"history": 0, "history_len": 3}, 3),
        ({"history": -1, "history_len": 3}, 3),
        ({"history": -1}, 0),
        # A list that is not empty always wins.
        ({"history": [], "history_len": 3}, 3),
        ({"history": [["user", "x"]], "history_len": 3}, 0),
    ],
)
def test_what_is_asked_of_the_stored_conversation(fields: dict[str, Any], stored_turns: int) -> None:
    assert parsed(conversation_id="c", **fields).stored_turns == stored_turns
    assert parsed(conversation_id="", **fields).stored_turns == 0
    assert parsed(**fields).stored_turns == 0
    of_history = isinstance(fields.get("history"), int) and fields["history"] > 0
    assert parsed(**fields).turns_field == ("history" if of_history else "history_len")


@given(
    st.none() | st.integers(-5, 5) | history_items,
    st.none() | st.integers(-5, 5),
    st.sampled_from([None, "", "c"]),
)
def test_a_history_has_one_source_at_most(
    history: int | list[tuple[str, str]] | None, history_len: int | None, conversation_id: str | None
) -> None:
    asked = parsed(history=history, history_len=history_len, conversation_id=conversation_id)
    assert asked.stored_turns >= 0
    assert not (asked.past and asked.stored_turns)
    assert asked.stored_turns == 0 or conversation_id == "c"


def test_a_history_as_text_is_one_line_for_each_message() -> None:
    asked = parsed(history=[["system", "s"], ["human", "q {x}"], ["ai", "a\nb"], ["user", ""]])
    assert transcript(asked.past) == "System: s\nHuman: q {x}\nAI: a\nb\nHuman: "


@given(messages, messages)
def test_a_history_stands_after_the_instructions_and_before_the_rest(
    given_: list[ChatMessage], past: list[ChatMessage]
) -> None:
    told = with_history(given_, past)
    start = next(
        (n for n, message in enumerate(given_) if message.role not in ("system", "developer")), len(given_)
    )
    assert told == (*given_[:start], *past, *given_[start:])


def test_a_history_between_instructions_and_question() -> None:
    told = with_history([SYSTEM, DEVELOPER, QUESTION], [USER, ASSISTANT])
    assert told == (SYSTEM, DEVELOPER, USER, ASSISTANT, QUESTION)
    assert with_history([QUESTION, SYSTEM], [USER]) == (USER, QUESTION, SYSTEM)


@given(messages)
def test_the_default_template_changes_nothing(given_: list[ChatMessage]) -> None:
    assert with_template(given_, SHIPPED, "default") == tuple(given_)


@given(messages, messages, texts)
def test_a_template_is_for_the_last_user_message_alone(
    before: list[ChatMessage], after: list[ChatMessage], query: str
) -> None:
    after = [message for message in after if message.role != "user"]
    asked = [*before, ChatMessage("user", query), *after]
    given_ = with_template(asked, SHIPPED, "py")
    content = SHIPPED.render(LLM_CHAT, "py", {"input": query, "history": ""})
    assert given_ == (*before, ChatMessage("user", content), *after)


def test_a_message_keeps_all_but_its_content() -> None:
    named = ChatMessage("user", "Why?", name="ann")
    assert with_template([named], OWN, "default") == (ChatMessage("user", "Kindly: Why?", name="ann"),)


@given(messages, texts)
def test_a_template_with_a_place_for_the_history_takes_it_as_text(
    before: list[ChatMessage], query: str
) -> None:
    given_ = with_template([SYSTEM, USER, *before, ChatMessage("user", query), ASSISTANT], OWN, "told")
    text = f"{transcript([USER, *before])}|{query}"
    assert given_ == (SYSTEM, ChatMessage("user", text), ASSISTANT)


def test_a_history_with_tool_calls_does_not_become_text() -> None:
    calling = ChatMessage("assistant", "", (ToolCall("clock", "{}"),))
    asked = [USER, calling, ChatMessage("tool", "noon"), QUESTION]
    with pytest.raises(UnfitTemplate, match="'told' has the history as text, without tool calls"):
        with_template(asked, OWN, "told")
    # After the question they stay what they are.
    assert with_template([QUESTION, calling], OWN, "told")[1] == calling


@pytest.mark.parametrize("asked", [[], [SYSTEM], [SYSTEM, ASSISTANT]])
def test_without_a_user_message_only_the_default_is_taken(asked: list[ChatMessage]) -> None:
    assert with_template(asked, OWN, "default") == tuple(asked)
    with pytest.raises(UnfitTemplate, match="'told' is for a user message"):
        with_template(asked, OWN, "told")
    with pytest.raises(UnknownTemplate, match="'default', 'told'"):
        with_template(asked, OWN, "absent")


@given(texts)
def test_a_completion_by_default_is_the_prompt_itself(text: str) -> None:
    assert completion_prompt(text, SHIPPED, "default", "") == text


@given(texts, history_items.filter(bool))
def test_a_completion_with_a_history_has_it_before_the_prompt(
    text: str, items: list[tuple[str, str]]
) -> None:
    history_text = transcript(parsed(history=items).past)
    prompt = completion_prompt(text, SHIPPED, "default", history_text)
    assert prompt == f"{history_text}\nHuman: {text}\nAI:"


def test_an_operators_templates_of_completions() -> None:
    assert completion_prompt("Q", OWN, "default", "") == "Q!"
    assert completion_prompt("Q", OWN, "default", "H") == "<H>Q"
    assert completion_prompt("Q", OWN, "with_history", "") == "<>Q"
    assert completion_prompt("Q", OWN, "plain", "") == "# Q"
    with pytest.raises(UnfitTemplate, match="'plain' has no place for the history"):
        completion_prompt("Q", OWN, "plain", "H")
    own_default = PromptTemplates({COMPLETION: {"default": "{history}~{input}"}})
    assert completion_prompt("Q", own_default, "default", "H") == "H~Q"


def test_the_template_of_a_history_is_the_same_for_any_history() -> None:
    assert history_template(SHIPPED, "default") == "with_history"
    assert history_template(PromptTemplates({COMPLETION: {"own": "{history}{input}"}}), "own") == "own"
    with pytest.raises(UnfitTemplate, match="'plain' has no place for the history"):
        history_template(OWN, "plain")


@pytest.mark.parametrize("history_text", ["", "Human: x"])
def test_an_unknown_template_is_refused_with_the_names(history_text: str) -> None:
    with pytest.raises(UnknownTemplate, match="there are: 'default', 'with_history'"):
        completion_prompt("Q", SHIPPED, "py", history_text)
    with pytest.raises(UnknownTemplate, match="there are: 'default', 'general_chat', 'py', 'with_history'"):
        with_template([QUESTION], SHIPPED, "absent")
    assert issubclass(UnknownTemplate, TemplateRefused)


def test_every_field_says_whose_it_is_and_its_default() -> None:
    for field in ChatchatFields.model_fields.values():
        assert (field.description or "").endswith("(Chatchat)")
        assert "Default: " in (field.description or "")


def test_the_schema_tells_both_forms_of_an_item() -> None:
    schema = ChatchatFields.model_json_schema()["properties"]["history"]
    integer, items = schema["anyOf"][0]["oneOf"]
    assert integer["type"] == "integer"
    as_object, as_pair = items["items"]["anyOf"]
    assert as_object == {"$ref": "#/$defs/HistoryItem"}
    assert (as_pair["type"], as_pair["minItems"], as_pair["maxItems"]) == ("array", 2, 2)
