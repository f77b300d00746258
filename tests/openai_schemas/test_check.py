"""The checker takes what OpenAI sends, and nothing that differs in one place."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.openai_schemas import FOLDER, NAMES, check
from tests.openai_schemas.derive import schemas

USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
}
TOKEN = {"token": "hi", "logprob": -0.5, "bytes": [104, 105]}
LOGPROBS = {"content": [TOKEN | {"top_logprobs": [TOKEN]}], "refusal": None}
HEAD = {"id": "x-1", "created": 1, "model": "m", "system_fingerprint": "f"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MODEL = {"id": "m", "object": "model", "created": 1, "owned_by": "me"}


def chat(message: dict[str, Any], finish_reason: str = "stop", logprobs: Any = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None} | message
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}
    return HEAD | {"object": "chat.completion", "choices": [choice], "usage": USAGE}


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason} | choice]
    return HEAD | {"object": "chat.completion.chunk", "choices": choices}


def completion(finish_reason: str | None, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "text": "hi", "logprobs": logprobs, "finish_reason": finish_reason}
    return HEAD | {"object": "text_completion", "choices": [choice]}


ECHOED = {
    "tokens": ["a", "b"],
    "token_logprobs": [None, -0.5],
    "top_logprobs": [None, {"b": -0.5}],
    "text_offset": [0, 1],
}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("CreateChatCompletionResponse", chat({"content": "hi"})),
    ("CreateChatCompletionResponse", chat({"content": "hi"}, "length", LOGPROBS)),
    ("CreateChatCompletionResponse", chat({"tool_calls": [CALL]}, "tool_calls")),
    ("CreateChatCompletionResponse", chat({"function_call": CALL["function"]}, "function_call")),
    ("CreateChatCompletionStreamResponse", chunk({"role": "assistant", "content": ""})),
    ("CreateChatCompletionStreamResponse", chunk({"content": "hi"}, logprobs=LOGPROBS)),
    ("CreateChatCompletionStreamResponse", chunk({"tool_calls": [CALL | {"index": 0}]})),
    ("CreateChatCompletionStreamResponse", chunk({}, "tool_calls") | {"usage": None}),
    ("CreateChatCompletionStreamResponse", chunk({}) | {"choices": [], "usage": USAGE}),
    ("CreateCompletionResponse", completion("stop") | {"usage": USAGE}),
    ("CreateCompletionResponse", completion("length", ECHOED) | {"usage": USAGE}),
    ("CreateCompletionStreamResponse", completion(None)),
    ("CreateCompletionStreamResponse", completion("stop") | {"usage": None}),
    ("ListModelsResponse", {"object": "list", "data": [MODEL]}),
    ("Model", MODEL),
    (
        "ErrorResponse",
        {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}},
    ),
]


@pytest.mark.parametrize(("name", "instance"), GOOD)
def test_what_openai_sends_fits(name: str, instance: dict[str, Any]) -> None:
    check(name, instance)


def test_every_schema_has_an_example() -> None:
    assert {name for name, _ in GOOD} == set(NAMES)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in it that have fixed keys."""
    if isinstance(value, dict):
        if not all(isinstance(one, float) for one in value.values()):
            yield value
        for one in value.values():
            yield from objects(one)
    elif isinstance(value, list):
        for one in value:
            yield from objects(one)


@pytest.mark.parametrize(("name", "instance"), GOOD)
def test_one_key_more_anywhere_does_not_fit(name: str, instance: dict[str, Any]) -> None:
    for index in range(len(list(objects(instance)))):
        broken = copy.deepcopy(instance)
        list(objects(broken))[index]["stop_reason"] = None
        with pytest.raises(AssertionError, match="stop_reason"):
            check(name, broken)


@pytest.mark.parametrize(("name", "instance"), GOOD)
def test_a_value_of_another_kind_anywhere_does_not_fit(name: str, instance: dict[str, Any]) -> None:
    for index, found in enumerate(objects(instance)):
        for key in found:
            broken = copy.deepcopy(instance)
            list(objects(broken))[index][key] = {"a": [1]}
            with pytest.raises(AssertionError, match=rf"(?m)\b{key}(\.|:)"):
                check(name, broken)


def path(instance: Any, steps: str) -> Any:
    for step in steps.split(".") if steps else ():
        instance = instance[int(step) if step.isdecimal() else step]
    return instance


@pytest.mark.parametrize(
    ("name", "instance", "at", "keys"),
    [
        (*GOOD[0], "", "id object created model choices"),
        (*GOOD[0], "choices.0", "index message logprobs finish_reason"),
        (*GOOD[0], "choices.0.message", "role content refusal"),
        (*GOOD[1], "choices.0.logprobs", "content refusal"),
        (*GOOD[1], "choices.0.logprobs.content.0", "token logprob bytes top_logprobs"),
        (*GOOD[1], "choices.0.logprobs.content.0.top_logprobs.0", "token logprob bytes"),
        (*GOOD[2], "choices.0.message.tool_calls.0", "id type function"),
        (*GOOD[2], "choices.0.message.tool_calls.0.function", "name arguments"),
        (*GOOD[0], "usage", "prompt_tokens completion_tokens total_tokens"),
        (*GOOD[4], "", "id object created model choices"),
        (*GOOD[4], "choices.0", "index delta finish_reason"),
        (*GOOD[6], "choices.0.delta.tool_calls.0", "index"),
        (*GOOD[9], "choices.0", "index text logprobs finish_reason"),
        (*GOOD[13], "", "object data"),
        (*GOOD[14], "", "id object created owned_by"),
        (*GOOD[15], "error", "message type param code"),
    ],
)
def test_what_is_required_must_be_there(name: str, instance: dict[str, Any], at: str, keys: str) -> None:
    for key in keys.split():
        broken = copy.deepcopy(instance)
        del path(broken, at)[key]
        with pytest.raises(AssertionError, match=f"'{key}' is a required property"):
            check(name, broken)


@pytest.mark.parametrize(
    ("name", "instance", "at", "keys"),
    [
        (*GOOD[0], "", "id system_fingerprint usage"),
        (*GOOD[0], "choices.0", "finish_reason"),
        (*GOOD[0], "choices.0.message", "tool_calls function_call annotations role"),
        (*GOOD[0], "usage", "completion_tokens_details prompt_tokens_details"),
        (*GOOD[4], "choices.0.delta", "role tool_calls function_call"),
        (*GOOD[6], "choices.0.delta.tool_calls.0", "id type function"),
        (*GOOD[9], "", "usage system_fingerprint"),
        (*GOOD[9], "choices.0", "finish_reason text"),
        (*GOOD[15], "error", "message type"),
    ],
)
def test_what_is_not_nullable_must_not_be_null(
    name: str, instance: dict[str, Any], at: str, keys: str
) -> None:
    for key in keys.split():
        broken = copy.deepcopy(instance)
        path(broken, at)[key] = None
        with pytest.raises(AssertionError, match=rf"\b{key}\b.*None"):
            check(name, broken)


@pytest.mark.parametrize(
    ("at", "key", "value"),
    [
        ("", "object", "chat.completion.chunk"),
        ("choices.0", "finish_reason", "eos"),
        ("choices.0", "index", "0"),
        ("choices.0.message", "role", "user"),
        ("", "created", 1.5),
        ("", "created", True),
    ],
)
def test_a_wrong_value_does_not_fit(at: str, key: str, value: Any) -> None:
    broken = chat({"content": "hi"})
    path(broken, at)[key] = value
    with pytest.raises(AssertionError, match=key):
        check("CreateChatCompletionResponse", broken)


def test_keys_beyond_the_schema_are_taken_at_their_place_alone() -> None:
    answer = chat({"content": "hi"}) | {"prompt_token_ids": [1]}
    answer["choices"][0]["token_ids"] = [2]
    also = {"prompt_token_ids", "choices.token_ids"}
    check("CreateChatCompletionResponse", answer, also)
    for fewer in (also - {"prompt_token_ids"}, {"prompt_token_ids", "token_ids"}):
        with pytest.raises(AssertionError, match="token_ids' was unexpected"):
            check("CreateChatCompletionResponse", answer, fewer)


def test_all_that_is_wrong_is_told() -> None:
    broken = chat({"content": 1})
    del broken["id"]
    with pytest.raises(AssertionError, match="'id' is a required property") as told:
        check("CreateChatCompletionResponse", broken)
    assert "choices.0.message.content: 1 is not of type 'string'" in str(told.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_closed(name: str) -> None:
    """No object in it takes keys that it does not name."""
    whole = json.loads((FOLDER / f"{name}.json").read_text())
    closed = [schema["additionalProperties"] for schema in objects(whole) if "required" in schema]
    assert closed == [False] * (1 + len(whole.get("$defs", {})))


@pytest.mark.skipif(importlib.metadata.version("openai") != "3.52.0", reason="made from another version")
def test_the_files_are_what_is_derived() -> None:
    derived = schemas()
    assert sorted(derived) == NAMES
    for name, schema in derived.items():
        assert json.loads((FOLDER / f"{name}.json").read_text()) == schema
