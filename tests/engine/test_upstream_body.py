from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from engine.base import (
    AsAsked,
    ChatMessage,
    GenerationRequest,
    RequestRefused,
    Sampling,
    StructuredOutput,
    Tool,
    ToolCall,
)
from engine.upstream_body import Dialect, path_and_body
from tests.strategies import echo_request

F, G = Tool("f", {"name": "f", "parameters": {"type": "object"}}), Tool("g", {"name": "g"})
PLAIN = GenerationRequest("r", (), (ChatMessage("user", "q"),), Sampling(100), True, asked=AsAsked())


def body(request: GenerationRequest, dialect: Dialect = "vllm", **defaults: float) -> dict[str, Any]:
    return path_and_body(request, "m", dialect, defaults)[1]


def with_asked(**fields: Any) -> GenerationRequest:
    return replace(PLAIN, asked=AsAsked(**fields))


def with_sampling(**fields: Any) -> GenerationRequest:
    return replace(PLAIN, sampling=Sampling(100, **fields))


# A value that says something, for each field that has anything to say; and where it has to be told.
SAMPLING: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "seed": 0,
    "presence_penalty": 0.0,
    "frequency_penalty": 1.0,
    "repetition_penalty": 1.1,
    "min_tokens": 2,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "spaces_between_special_tokens": False,
    "bad_words": ("a",),
    "logprobs": 0,
    "allowed_token_ids": (1,),
    "prompt_logprobs": 0,
}
ASKED: dict[str, Any] = {
    "completion": "once",
    "is_ids": True,
    "max_tokens": 5,
    "stop": ("a",),
    "stop_token_ids": (1,),
    "logit_bias": {1: 1.0},
    "structured": StructuredOutput("regex", "a+"),
    "skip_special_tokens": False,
    "tools": (F,),
    "token_ids": True,
    "add_special_tokens": False,
    "add_generation_prompt": False,
    "continue_final_message": True,
    "template_kwargs": {"a": 1},
}
# Told by others: the client's own, before a chat format changed it; or together with tools.
ELSEWHERE = {"max_tokens", "stop", "stop_token_ids", "structured", "logit_bias", "skip_special_tokens"}
WITH_TOOLS = {"may_call", "must_call", "parallel_tool_calls"}


def test_every_field_is_thought_of() -> None:
    assert {field.name for field in dataclasses.fields(Sampling)} == set(SAMPLING) | ELSEWHERE
    assert {field.name for field in dataclasses.fields(AsAsked)} == set(ASKED) | WITH_TOOLS


TELLING = {
    **{name: with_sampling(**{name: value}) for name, value in SAMPLING.items()},
    **{name: with_asked(**{name: value}) for name, value in ASKED.items()},
    "priority": replace(PLAIN, priority=1),
    "cache_salt": replace(PLAIN, cache_salt="s"),
}


def told_or_refused(request: GenerationRequest, dialect: Dialect) -> dict[str, Any] | str | None:
    try:
        return body(request, dialect)
    except RequestRefused as refused:
        return refused.param


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
@pytest.mark.parametrize("name", TELLING)
def test_nothing_that_was_asked_is_left_out(name: str, dialect: Dialect) -> None:
    """It is told, or refused by name."""
    assert told_or_refused(TELLING[name], dialect) not in (body(PLAIN, dialect), None, "")


def test_what_only_vllm_takes_is_refused_elsewhere_by_name() -> None:
    for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "bad_words"):
        request = with_sampling(**{name: SAMPLING[name]})
        value = SAMPLING[name]
        assert body(request)[name] == (list(value) if isinstance(value, tuple) else value)
        with pytest.raises(RequestRefused) as refused:
            body(request, "openai")
        assert refused.value.param == name


def test_defaults_are_told_where_the_client_says_nothing() -> None:
    assert body(PLAIN, temperature=0.7)["temperature"] == 0.7
    assert body(with_sampling(temperature=0.0), temperature=0.7)["temperature"] == 0.0


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({"may_call": ()}, "none"),
        ({"may_call": (F, G)}, "auto"),
        ({"may_call": (F, G), "must_call": True}, "required"),
        ({"may_call": (G,), "must_call": True}, {"type": "function", "function": {"name": "g"}}),
    ],
)
def test_which_tool_may_be_called(fields: Any, choice: Any) -> None:
    told = body(with_asked(tools=(F, G), **fields))
    assert told["tool_choice"] == choice
    assert told["tools"][0] == {"type": "function", "function": F.definition}
    assert "parallel_tool_calls" not in told
    assert body(with_asked(tools=(F,), parallel_tool_calls=False))["parallel_tool_calls"] is False


def test_a_schema_is_told_as_the_client_gave_it() -> None:
    schema = StructuredOutput("json", {"type": "object"}, "point", strict=False)
    told = body(with_asked(structured=schema), "openai")["response_format"]
    assert told == {
        "type": "json_schema",
        "json_schema": {"name": "point", "schema": {"type": "object"}, "strict": False},
    }
    any_object = with_asked(structured=StructuredOutput("json_object"))
    assert body(any_object, "openai")["response_format"] == {"type": "json_object"}
    choice = with_asked(structured=StructuredOutput("choice", ["a", "b"]))
    assert body(choice)["structured_outputs"] == {"choice": ["a", "b"]}


def test_calls_and_their_results_are_told_with_ids() -> None:
    messages = (
        ChatMessage("assistant", "", (ToolCall("f", "{}", "id-1"), ToolCall("g", "{}", "id-2"))),
        ChatMessage("tool", "1", tool_call_id="id-1"),
        ChatMessage("assistant", "so", (ToolCall("f", "[]"),)),
        ChatMessage("function", "2", name="f"),
    )
    told = body(replace(PLAIN, messages=messages))["messages"]
    assert [one["role"] for one in told] == ["assistant", "tool", "assistant", "tool"]
    assert [call["id"] for call in told[0]["tool_calls"]] == ["id-1", "id-2"]
    assert (told[0]["content"], told[2]["content"]) == (None, "so")
    assert told[3]["tool_call_id"] == told[2]["tool_calls"][0]["id"]
    assert told[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": "[]"}


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(RequestRefused) as refused:
        body(replace(PLAIN, messages=(ChatMessage("function", "2", name="f"),)))
    assert refused.value.param == "messages.0"


def test_half_a_code_point_is_refused() -> None:
    with pytest.raises(RequestRefused):
        body(replace(PLAIN, messages=(ChatMessage("user", "\ud800"),)))


def test_without_what_was_asked_the_sampling_says_it() -> None:
    told = body(echo_request("q", max_tokens=3, stop=("x",)))
    assert (told["max_tokens"], told["stop"]) == (3, ["x"])


def test_a_prompt_without_ids_has_at_most_as_many_tokens_as_bytes() -> None:
    assert with_asked(tools=(F,)).most_prompt_tokens > len("q") + len(str(F.definition))
    assert echo_request("abc").most_prompt_tokens == 3
