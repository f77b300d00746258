from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.chat_format import Prompt
from adapters.code_points import new_reader
from adapters.openai.body import Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.refused import REFUSED
from engine.base import Sampling
from gateway.errors import from_validation
from tests.strategies import json_values, texts

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"prompt": "hi"}
PROMPT = Prompt([], new_reader, stop_token_ids=(2,))
ROLES = ["system", "developer", "user", "assistant", "tool", "function"]

Parsed = TypeVar("Parsed", bound=Body)


def parsed(model: type[Parsed], body: Mapping[str, Any]) -> Parsed:
    return model.model_validate_json(json.dumps(body))


def chat(**fields: Any) -> ChatCompletionRequest:
    return parsed(ChatCompletionRequest, CHAT | fields)


def completion(**fields: Any) -> CompletionRequest:
    return parsed(CompletionRequest, COMPLETION | fields)


def message_text(content: object, role: str = "user") -> str:
    return chat(messages=[{"role": role, "content": content}]).messages[0].text


def locations(model: type[Body], body: str | bytes | Mapping[str, Any]) -> list[tuple[int | str, ...]]:
    """Where the errors are that refuse ``body``."""
    raw = json.dumps(body) if isinstance(body, Mapping) else body
    with pytest.raises(ValidationError) as refused:
        model.model_validate_json(raw)
    return [error["loc"] for error in refused.value.errors()]


WRONG: dict[str, list[object]] = {
    "model": [1, True, [], {}],
    "temperature": [-0.1, 2.1, "1", True, [], {}, float("nan"), float("inf")],
    "top_p": [0, -1, 1.1, "1", True, float("nan")],
    "max_tokens": [1.5, 1.0, "1", True, [], {}],
    "stop": [1, True, "", ["a", ""], ["a", None], ["a", 1], {}, list("abcde")],
    "seed": [1.5, "1", True, 2**63, -(2**63) - 1],
    "stream": [1, 0, "true", [], {}],
    "stream_options": [True, "x", 1, []],
    "user": [1, True, {}],
}
WRONG_IN_CHAT: dict[str, list[object]] = {
    "messages": [None, [], {}, "hi", 1, [1], [None], ["hi"]],
    "max_completion_tokens": [1.5, "1", True, []],
}
WRONG_IN_COMPLETION: dict[str, list[object]] = {
    "prompt": [None, 1, True, [], {}, ["a", 1], [1, "a"], [[]], [[1], "a"], [-1], [2**31], [None], [1.5]]
}


def pairs(*tables: Mapping[str, list[object]]) -> list[tuple[str, object]]:
    return [(name, value) for table in tables for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), pairs(WRONG, WRONG_IN_CHAT))
def test_a_wrong_value_in_a_chat_is_refused_at_its_field(name: str, value: object) -> None:
    found = locations(ChatCompletionRequest, CHAT | {"stream": True, name: value})
    assert {location[0] for location in found} - {"stream_options"} <= {name}
    assert found


@pytest.mark.parametrize(("name", "value"), pairs(WRONG, WRONG_IN_COMPLETION))
def test_a_wrong_value_in_a_completion_is_refused_at_its_field(name: str, value: object) -> None:
    assert locations(CompletionRequest, COMPLETION | {name: value})[0][0] == name


@pytest.mark.parametrize(
    ("model", "field"), [(ChatCompletionRequest, "messages"), (CompletionRequest, "prompt")]
)
def test_the_required_field_is_missed(model: type[Body], field: str) -> None:
    assert locations(model, {}) == [(field,)]


@pytest.mark.parametrize("field", ["prompt", "query"])
@given(text=texts)
def test_a_question_stands_in_place_of_the_messages(field: str, text: str) -> None:
    messages = chat(messages=[{"role": "user", "content": text}])
    for null in ({}, {"messages": None, "prompt": None, "query": None}):
        question = parsed(ChatCompletionRequest, null | {field: text})
        assert question.messages == messages.messages
        assert question.conversation == messages.conversation
        assert (question.messages_field, question.field_names["prompt"]) == (field, field)
    assert messages.messages_field == "messages"


@pytest.mark.parametrize(
    ("body", "field", "names"),
    [
        (CHAT | {"prompt": "hi"}, "messages", ("'messages'", "'prompt'")),
        (CHAT | {"query": ""}, "messages", ("'messages'", "'query'")),
        ({"prompt": "hi", "query": "hi"}, "query", ("'query'", "'prompt'")),
        ({"messages": None}, "messages", ("'messages'",)),
        ({"prompt": None, "query": None}, "messages", ("'messages'",)),
        ({"prompt": ["hi"]}, "prompt", ("'prompt'",)),
        ({"prompt": 5}, "prompt", ("'prompt'",)),
        ({"prompt": "hi", "messages": []}, "messages", ("'messages'",)),
    ],
)
def test_a_body_has_messages_or_one_question(
    body: dict[str, Any], field: str, names: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        parsed(ChatCompletionRequest, body)
    error = from_validation(refused.value.errors(), ChatCompletionRequest)
    assert error.param == field
    assert all(name in error.message for name in names)


@pytest.mark.parametrize("field", [*WRONG, "max_completion_tokens"])
def test_null_is_as_good_as_absent(field: str) -> None:
    with_null, without = chat(**{field: None}), chat()
    assert with_null.model_dump() == without.model_dump()
    assert with_null.token_limit is without.token_limit is None
    assert with_null.sampling(7, PROMPT) == without.sampling(7, PROMPT) == Sampling(7, stop_token_ids=(2,))
    assert with_null.refused_field() is None
    assert with_null.sampling_fields() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("seed", 2**63 - 1),
        ("seed", -(2**63)),
    ],
)
def test_the_ends_of_a_range_belong_to_it(name: str, value: float) -> None:
    asked = chat(**{name: value})
    assert getattr(asked.sampling(1, PROMPT), name) == value
    assert asked.sampling_fields() == {name: value}


@pytest.mark.parametrize("body", ["[]", '"hi"', "null", "1", "true", "", "{", b"\xff\xfe", '{"a":1}x', "NaN"])
def test_what_is_not_an_object_is_refused_as_a_whole(body: str | bytes) -> None:
    assert locations(ChatCompletionRequest, body) == [()]


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00", r"\udc00\ud800", r"a\ud83dz"])
def test_a_lone_surrogate_is_refused_wherever_it_stands(text: str) -> None:
    bodies = [
        '{"messages":[{"role":"user","content":"%s"}]}',
        '{"messages":[{"role":"user","content":[{"type":"text","text":"%s"}]}]}',
        '{"messages":[{"role":"user","content":"hi"}],"stop":"%s"}',
        '{"messages":[{"role":"user","content":"hi"}],"%s":1}',
    ]
    for body in bodies:
        assert locations(ChatCompletionRequest, body.replace("%s", text))
    assert locations(CompletionRequest, f'{{"prompt":"{text}"}}')


def test_a_surrogate_pair_is_the_character_it_means() -> None:
    assert CompletionRequest.model_validate_json(r'{"prompt":"\ud83d\ude00"}').prompts == ["😀"]


@pytest.mark.parametrize(
    "opening", ["[", '{"a":', '{"messages":[', '{"messages":[{"role":"user","content":[']
)
@pytest.mark.parametrize("depth", [150, 100_000])
def test_deep_nesting_is_refused(opening: str, depth: int) -> None:
    assert locations(ChatCompletionRequest, opening * depth)


def test_an_endless_number_is_refused_or_taken_but_never_a_crash() -> None:
    assert locations(ChatCompletionRequest, '{"messages":[],"max_tokens":%s}' % ("9" * 100_000))


@pytest.mark.parametrize("limit", [0, -1, -(10**30), None])
def test_max_tokens_null_0_and_below_mean_the_rest_of_the_context(limit: int | None) -> None:
    assert chat(max_tokens=limit).token_limit is None
    assert chat(max_completion_tokens=limit).token_limit is None
    assert completion(max_tokens=limit).token_limit is None


@given(st.integers(min_value=1, max_value=10**30))
def test_max_tokens_above_0_is_the_limit(limit: int) -> None:
    assert chat(max_tokens=limit).token_limit == limit
    assert chat(max_completion_tokens=limit).token_limit == limit
    assert completion(max_tokens=limit).token_limit == limit


@pytest.mark.parametrize(
    ("max_tokens", "max_completion_tokens", "limit"), [(5, 7, 7), (5, 0, None), (5, None, 5), (0, 7, 7)]
)
def test_max_completion_tokens_wins(
    max_tokens: int, max_completion_tokens: int | None, limit: int | None
) -> None:
    asked = chat(max_tokens=max_tokens, max_completion_tokens=max_completion_tokens)
    assert asked.token_limit == limit


def test_a_completion_without_max_tokens_has_16_tokens_and_a_chat_the_rest_of_the_context() -> None:
    assert completion().token_limit == 16
    assert chat().token_limit is None


@pytest.mark.parametrize(
    ("stop", "strings"),
    [
        (None, ()),
        ("a", ("a",)),
        ([], ()),
        (["a"], ("a",)),
        (list("abcd"), ("a", "b", "c", "d")),
        ("\0", ("\0",)),
    ],
)
def test_stop_is_a_string_or_up_to_four(stop: object, strings: tuple[str, ...]) -> None:
    assert chat(stop=stop).conversation.stop == completion(stop=stop).stop_strings == strings


@pytest.mark.parametrize("role", ROLES)
def test_every_role_of_openai_is_known(role: str) -> None:
    assert chat(messages=[{"role": role, "content": "hi"}]).messages[0].role == role


@pytest.mark.parametrize("role", ["User", "bot", "", None, 1, ["user"]])
def test_an_unknown_role_is_refused_at_its_place(role: object) -> None:
    body = {"messages": [CHAT["messages"][0], {"role": role, "content": "hi"}]}
    assert ("messages", 1, "role") in locations(ChatCompletionRequest, body)


@given(texts)
def test_a_content_is_taken_as_it_is(text: str) -> None:
    assert message_text(text) == text
    assert completion(prompt=text).prompts == completion(prompt=[text]).prompts == [text]


@given(st.lists(texts, max_size=4))
def test_text_parts_are_joined_by_a_newline(parts: list[str]) -> None:
    assert message_text([{"type": "text", "text": part} for part in parts]) == "\n".join(parts)


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal", ""])
def test_a_part_of_another_type_is_refused_by_its_name(kind: str) -> None:
    content = [{"type": "text", "text": "look"}, {"type": kind, kind: {"url": "data:"}}]
    with pytest.raises(ValidationError, match=f"type '{kind}' are not supported") as refused:
        message_text(content)
    assert refused.value.errors()[0]["loc"] == ("messages", 0, "content")


@pytest.mark.parametrize(
    "content",
    [
        1,
        True,
        {},
        [1],
        ["hi"],
        [None],
        [{}],
        [{"type": "text"}],
        [{"type": "text", "text": None}],
        [{"type": 1}],
    ],
)
@pytest.mark.parametrize("role", ROLES)
def test_a_content_that_is_no_text_is_refused_at_its_place(content: object, role: str) -> None:
    body = {"messages": [{"role": role, "content": content}]}
    assert all(
        location[:3] == ("messages", 0, "content") for location in locations(ChatCompletionRequest, body)
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("message", [{"content": None}, {}])
def test_only_an_assistant_may_say_nothing(role: str, message: dict[str, None]) -> None:
    body = {"messages": [{"role": role} | message]}
    if role == "assistant":
        assert parsed(ChatCompletionRequest, body).messages[0].text == ""
    else:
        assert locations(ChatCompletionRequest, body) == [("messages", 0, "content")]


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_usage_comes_where_it_is_asked_for(include_usage: bool | None) -> None:
    asked = chat(stream=True, stream_options={"include_usage": include_usage})
    assert asked.wanted.usage is bool(include_usage)
    assert chat(stream=True, stream_options={}).wanted.usage is False
    assert chat(stream=True).wanted.usage is False


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
def test_stream_options_are_for_streams(stream: dict[str, bool | None]) -> None:
    body = CHAT | stream | {"stream_options": {"include_usage": True}}
    assert locations(ChatCompletionRequest, body) == [("stream_options",)]
    assert chat(stream_options=None, **stream).wanted.usage is False


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_asks_for_what_is_not_there_is_refused_by_name(name: str) -> None:
    assert chat(**{name: "surely not"}).refused_field() == (name, REFUSED[name])
    assert chat(**{name: [1]}).refused_field() == (name, REFUSED[name])
    for harmless in (None, *REFUSED[name].taken):
        assert chat(**{name: harmless}).refused_field() is None
    assert list(chat(**{name: "surely not"}).ignored_fields()) == []


def test_fields_that_mean_nothing_here_are_told() -> None:
    asked = chat(
        store=False,
        reasoning_effort="low",
        made_up=1,
        service_tier=None,
        user="me",
        stream=True,
        stream_options={"include_obfuscation": True},
    )
    assert asked.refused_field() is None
    assert sorted(asked.ignored_fields()) == [
        "made_up", "reasoning_effort", "store", "stream_options.include_obfuscation",
    ]  # fmt: skip
    assert list(chat(store=True).ignored_fields()) == []


def test_what_means_nothing_inside_messages_and_tools_is_told_too() -> None:
    messages = [
        {"role": "user", "content": "hi", "name": "me"},
        {"role": "assistant", "content": "a", "refusal": None, "reasoning_content": "b"},
        {"role": "user", "content": "hi"},
    ]
    tool = {"type": "function", "function": {"name": "f", "strict": True}}
    asked = chat(messages=messages, tools=[tool])
    assert set(asked.ignored_fields()) == {"messages.name", "messages.reasoning_content", "tools.strict"}
    assert asked.conversation.tools[0].definition == {"name": "f"}
    # Where a call has to be made its arguments always fit.
    assert "tools.strict" not in chat(tools=[tool], tool_choice="required").ignored_fields()


@given(st.dictionaries(texts | st.sampled_from(dir(ChatCompletionRequest)), json_values, max_size=4))
def test_no_name_of_a_field_changes_how_a_request_is_read(extra: dict[str, Any]) -> None:
    known = ChatCompletionRequest.model_fields.keys()
    extra = {name: value for name, value in extra.items() if name not in known}
    asked = chat(**extra)
    sent = {name for name, value in extra.items() if value is not None}
    assert set(asked.ignored_fields()) == sent - REFUSED.keys()
    assert asked.refused_field() is None or sent & REFUSED.keys()
    assert (asked.token_limit, asked.stop_strings, asked.wanted.usage) == (None, (), False)
    assert asked.sampling_fields() == {}
    assert asked.messages[0].text == "hi"


@given(json_values | st.dictionaries(st.sampled_from(list(ChatCompletionRequest.model_fields)), json_values))
def test_any_json_is_taken_or_refused_but_never_a_crash(value: object) -> None:
    for model in (ChatCompletionRequest, CompletionRequest):
        with contextlib.suppress(ValidationError):
            model.model_validate_json(json.dumps(value))


def test_the_row_keeps_what_was_asked_for_and_nothing_else() -> None:
    asked = chat(
        temperature=0.5,
        top_k=0,
        stop=["a"],
        logit_bias={"7": -1},
        max_completion_tokens=3,
        user="me",
        metadata={"a": "b"},
        store=True,
    )
    assert asked.sampling_fields() == {
        "temperature": 0.5, "top_k": 0, "stop": ["a"], "logit_bias": {7: -1}, "max_completion_tokens": 3,
    }  # fmt: skip
    assert asked.label_fields() == {"user": "me", "metadata": {"a": "b"}}
