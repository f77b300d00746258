from __future__ import annotations

import json
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.chatchat.chat_request import ChatRequest, FufanChatRequest, Question, TextRequest
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from gateway.validation import explained
from tests.strategies import json_values, texts

CHATS = (ChatRequest, FufanChatRequest)
MODELS = (*CHATS, TextRequest)
HISTORY = [
    {"role": "human", "content": "a {b} {{ c }}", "more": 1},
    {"role": "ai", "content": "ok"},
    {"role": "system", "content": "sys"},
]

Parsed = TypeVar("Parsed", bound=Question)


def parsed(model: type[Parsed], **fields: Any) -> Parsed:
    return model.model_validate_json(json.dumps({"query": "hi"} | fields))


def refused_field(model: type[Question], **fields: Any) -> str | None:
    """The field that a refusal names."""
    with pytest.raises(ValidationError) as refused:
        parsed(model, **fields)
    message, param, _ = explained(refused.value.errors(), model)
    assert f"'{param}'" in message
    return param


def chat(**fields: Any) -> ChatCompletionRequest:
    return parsed(ChatRequest, **fields).as_openai


def fufan(**fields: Any) -> ChatCompletionRequest:
    return parsed(FufanChatRequest, **fields).as_openai


def completion(**fields: Any) -> CompletionRequest:
    return parsed(TextRequest, **fields).as_openai


@pytest.mark.parametrize("model", MODELS)
def test_null_is_as_good_as_absent(model: type[ChatRequest]) -> None:
    nulls = dict.fromkeys(set(model.model_fields) - {"query"})
    assert parsed(model, **nulls).as_openai == parsed(model).as_openai
    assert refused_field(model, query=None) == "query"
    assert parsed(model, query="", unknown={"x": 1}).query == ""


def test_the_defaults_are_chatchats() -> None:
    body = chat()
    assert [message.stored_fields() for message in body.messages] == [{"role": "user", "content": "hi"}]
    assert (body.temperature, body.token_limit, body.stream, body.model) == (0.7, None, False, None)
    assert (body.template_name, body.stored_turns, body.past) == ("default", 0, ())
    text = completion()
    assert (text.temperature, text.token_limit, text.stream) == (0.7, 1024, False)
    assert (text.prompts, text.echo, text.template_name) == (["hi"], None, "default")
    assert (fufan().stream, fufan().template_name) == (True, "general_chat")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("field", "sent", "meant"),
    [
        ("query", 123, "123"),
        ("query", 1.5, "1.5"),
        ("stream", "yes", True),
        ("stream", 0, False),
        ("temperature", "0.5", 0.5),
        ("temperature", 1, 1.0),
        ("max_tokens", "12", 12),
        ("max_tokens", 12.0, 12),
        ("conversation_id", 12, "12"),
        ("history_len", "3", 3),
        ("stream_style", "cumulative", "cumulative"),
    ],
)
def test_a_value_may_be_written_as_another_type(
    model: type[Question], field: str, sent: object, meant: object
) -> None:
    if field in model.model_fields:
        found = getattr(parsed(model, **{field: sent}), field)
        assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", True),
        ("query", ["x"]),
        ("stream", "maybe"),
        ("temperature", -0.1),
        ("temperature", "nan"),
        ("temperature", float("inf")),
        ("max_tokens", 12.9),
        ("max_tokens", "12.9"),
        ("model_name", {}),
        ("stream_style", "both"),
        ("conversation_id", "x" * 256),
        ("conversation_name", []),
        ("history", "3"),
        ("history", True),
        ("history", {}),
    ],
)
def test_what_means_nothing_is_refused_by_its_name(model: type[Question], field: str, value: object) -> None:
    if field in model.model_fields:
        assert refused_field(model, **{field: value}) == field


@pytest.mark.parametrize(("model", "most"), [(ChatRequest, 2.0), (FufanChatRequest, 2.0), (TextRequest, 1.0)])
def test_the_hottest_is_the_routes_own(model: type[ChatRequest], most: float) -> None:
    for temperature in (0, most):
        assert parsed(model, temperature=temperature).as_openai.temperature == temperature
    assert refused_field(model, temperature=most + 0.1) == "temperature"


@pytest.mark.parametrize(("sent", "meant"), [(0, None), (-5, None), (50, 50)])
def test_no_tokens_are_the_models_default(sent: int, meant: int | None) -> None:
    for body in (chat(max_tokens=sent), fufan(max_tokens=sent), completion(max_tokens=sent)):
        assert body.token_limit == meant
    # In OpenAI's completion this would be the prompt alone.
    assert not completion(echo=True, max_tokens=0).only_prompt


def test_a_history_has_roles_and_its_order() -> None:
    body = chat(query="q {{ 1+1 }} {x}", history=HISTORY, history_len=5, conversation_id="c1")
    assert [(one.role, one.content) for one in body.past] == [
        ("user", "a {b} {{ c }}"),
        ("assistant", "ok"),
        ("system", "sys"),
    ]
    assert body.messages[0].text == "q {{ 1+1 }} {x}"
    assert (body.stored_turns, body.conversation_id) == (0, "c1")
    pairs = chat(history=[["user", "x"], ["assistant", "y"]])
    assert [(one.role, one.content) for one in pairs.past] == [("user", "x"), ("assistant", "y")]


@pytest.mark.parametrize(
    "item", [{"role": "wizard", "content": "x"}, {"role": "user"}, {"content": "x"}, "user", ["user"]]
)
def test_an_item_that_is_no_message_is_refused(item: object) -> None:
    for model in CHATS:
        assert (refused_field(model, history=[item]) or "").startswith("history.0")


@pytest.mark.parametrize(
    ("fields", "turns", "of_fufan"),
    [
        ({}, 0, 10),
        ({"history": [], "history_len": None}, 0, 10),
        ({"history_len": 3}, 3, 3),
        ({"history_len": 0}, 0, 0),
        ({"history_len": -1}, 0, 0),
        ({"history": 2}, 2, 2),
        ({"history": 0}, 0, 0),
        ({"history": -1, "history_len": 4}, 4, 4),
        ({"history": HISTORY}, 0, 0),
    ],
)
def test_how_many_stored_turns_come_before(fields: dict[str, Any], turns: int, of_fufan: int) -> None:
    assert chat(conversation_id="c", **fields).stored_turns == turns
    assert fufan(conversation_id="c", **fields).stored_turns == of_fufan
    assert chat(**fields).stored_turns == fufan(conversation_id="", **fields).stored_turns == 0


@given(
    st.sampled_from(MODELS),
    st.dictionaries(
        st.sampled_from([*FufanChatRequest.model_fields, "echo"]),
        json_values
        | st.sampled_from([0, 1, -1, 0.7, 2.0, "1", "on", 12.0, [], HISTORY, 3, "delta", float("nan")]),
    ),
    texts,
)
def test_what_is_taken_would_be_taken_as_openais_and_all_else_names_its_field(
    model: type[ChatRequest], fields: dict[str, Any], query: str
) -> None:
    try:
        body = parsed(model, **{"query": query} | fields)
    except ValidationError as refused:
        message, param, _ = explained(refused.errors(), model)
        assert param is not None
        assert param.split(".")[0] in model.model_fields
        assert len(message.splitlines()) == 1
    else:
        made = body.as_openai
        again = type(made).model_validate(made.model_dump(exclude_none=True))
        assert again.model_dump(exclude_none=True) == made.model_dump(exclude_none=True)
        assert again.conversation_id == made.conversation_id


def test_every_field_says_whose_it_is_and_its_default() -> None:
    for model in MODELS:
        for name, field in model.model_fields.items():
            assert isinstance(field.json_schema_extra, dict)
            origin = field.json_schema_extra["x-origin"]
            assert (field.description or "").endswith(f"({origin})"), name
            assert name == "query" or "Default: " in (field.description or ""), name
