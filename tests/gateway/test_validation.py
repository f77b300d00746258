from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.validation import explained
from tests.strategies import json_values


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Function(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: Function


def _form(value: object) -> str:
    return "named-tool" if isinstance(value, dict) and "function" in value else "bare-tool"


class Request(Strict):
    """Whatever kinds of fields a body can have."""

    prompt: str | list[str] | list[int] | list[list[int]] = ""
    stop: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(max_length=4)] | None = None
    tool_choice: Literal["none", "auto"] | NamedTool | None = None
    logit_bias: dict[Annotated[int, Field(ge=0, le=9)], Annotated[float, Field(ge=-100, le=100)]] | None = (
        None
    )
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, gt=0)
    bias: dict[str, Annotated[int, Field(lt=2**63)]] = Field(default_factory=dict, max_length=3)
    tool: (
        Annotated[
            Annotated[NamedTool, Tag("named-tool")] | Annotated[Function, Tag("bare-tool")],
            Discriminator(_form),
        ]
        | None
    ) = None
    even: int = 0

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

    @model_validator(mode="after")
    def _not_both(self) -> Request:
        if self.top_k and self.even:
            raise ValueError("top_k and even exclude each other")
        return self


def told(body: object) -> tuple[str, str | None, str | None]:
    """Message, field and code for ``body``."""
    with pytest.raises(ValidationError) as invalid:
        Request.model_validate_json(json.dumps(body))
    return explained(invalid.value.errors(), Request)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"stop": 5}, "stop", "must be a valid string, or a valid array"),
        ({"stop": ""}, "stop", "must have at least 1 character"),
        ({"stop": ["a", 5]}, "stop.1", "must be a valid string"),
        ({"stop": list("abcde")}, "stop", "must have at most 4 items, not 5"),
        ({"prompt": {}}, "prompt", "must be a valid string, or a valid array"),
        ({"prompt": [{}]}, "prompt.0", "must be a valid string, or a valid integer, or a valid array"),
        ({"prompt": ["a", 5]}, "prompt.1", "must be a valid string"),
        ({"prompt": [5, 6, "a"]}, "prompt.2", "must be a valid integer"),
        ({"prompt": [5, 1.5]}, "prompt.1", "must be a valid integer"),
        ({"prompt": [[1], ["a"]]}, "prompt.1.0", "must be a valid integer"),
        ({"tool_choice": 7}, "tool_choice", "must be 'none' or 'auto', or an object"),
        ({"tool_choice": "x"}, "tool_choice", "must be 'none' or 'auto', or an object"),
        (
            {"tool_choice": {"type": "tool", "function": {"name": "f"}}},
            "tool_choice.type",
            "must be 'function'",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": 5}}},
            "tool_choice.function.name",
            "must be a valid string",
        ),
        ({"logit_bias": {"x": 1}}, "logit_bias", 'the key "x" must be a valid integer'),
        ({"logit_bias": {"-1": 1}}, "logit_bias", 'the key "-1" must be greater than or equal to 0'),
        ({"logit_bias": {"10": 1}}, "logit_bias", 'the key "10" must be less than or equal to 9'),
        (
            {"logit_bias": {"5": 101}},
            "logit_bias.5",
            "must be greater than or equal to -100 and less than or equal to 100",
        ),
        ({"logit_bias": []}, "logit_bias", "must be an object"),
        ({"bias": {"a b": "c"}}, "bias", "must be a valid integer"),
        ({"bias": dict.fromkeys("abcd", 1)}, "bias", "must have at most 3 items"),
        ({"bias": {"a": 2**63}}, "bias.a", "must be less than 9223372036854775808"),
        (
            {"temperature": 3},
            "temperature",
            "must be greater than or equal to 0 and less than or equal to 2",
        ),
        ({"temperature": "hot"}, "temperature", "must be a valid number"),
        ({"top_k": 0}, "top_k", "must be greater than 0"),
        ({"tool": {"name": 5}}, "tool.name", "must be a valid string"),
        ({"even": 3}, "even", "must be even"),
    ],
)
def test_the_field_is_named_and_what_it_has_to_be(body: dict[str, Any], param: str, words: str) -> None:
    assert told(body) == (f"Invalid value for '{param}': {words}.", param, "invalid_value")


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        (5, "The body must be a JSON object.", None, None),
        (
            {"tool_choice": {"type": "function"}},
            "Missing required parameter: 'tool_choice.function'.",
            "tool_choice.function",
            "missing_required_parameter",
        ),
        ({"tool": {}}, "Missing required parameter: 'tool.name'.", "tool.name", "missing_required_parameter"),
        ({"made_up": 1}, "Unknown parameter: 'made_up'.", "made_up", "unknown_parameter"),
        (
            {"tool": {"name": "f", "Made up": 1}},
            "Unknown parameter in 'tool'.",
            "tool",
            "unknown_parameter",
        ),
        ({"top_k": 1, "even": 2}, "Invalid body: top_k and even exclude each other.", None, "invalid_value"),
        ({"Made up": 1}, "Unknown parameter in the body.", None, "unknown_parameter"),
    ],
)
def test_what_is_missing_and_what_is_too_much(
    body: object, message: str, param: str | None, code: str | None
) -> None:
    assert told(body) == (message, param, code)


def test_without_the_model_the_bound_that_was_hit_is_told() -> None:
    with pytest.raises(ValidationError) as invalid:
        Request.model_validate({"temperature": 3.0})
    message, _, _ = explained(invalid.value.errors())
    assert message == "Invalid value for 'temperature': must be less than or equal to 2."


@given(
    json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(Request.model_fields, json_values)),
    st.booleans(),
)
def test_no_name_of_a_type_or_class_of_ours_is_told(body: object, from_python: bool) -> None:
    try:
        if from_python:
            Request.model_validate(body)
        else:
            Request.model_validate_json(json.dumps(body))
    except ValidationError as invalid:
        message, param, _ = explained(invalid.errors(), Request)
    else:
        return
    assert message.isprintable()
    assert len(message) < 300
    for inner in ("NamedTool", "Function", "list[", "dict[", "constrained", "-tool", "lambda", "instance of"):
        assert inner not in message
        assert inner not in (param or "")
