"""Tools, tool choice and structured output, as OpenAI's chat completions ask for them.

Source: OpenAI's published specification (ChatCompletionTool, ChatCompletionToolChoiceOption,
ResponseFormat*); ``functions`` and ``function_call`` are its older form. vLLM's server takes the
constraints that OpenAI has no name for as ``structured_outputs``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from engine.base import StructuredOutput, Tool

# As OpenAI's, and whatever else is one word: a name stands on a line of its own before a call.
FunctionName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\s\x00-\x1f]+$")]

MOST_TOOLS = 128

# Of a function, what the model is shown.
SHOWN_FIELDS = {"name", "description", "parameters"}


def _finite(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """JSON has no NaN and no infinity, and a row's column takes none."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("numbers must be finite") from error
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_finite)]


def _true(value: bool) -> bool:
    if not value:
        raise ValueError("must be true")
    return value


def _false(value: bool) -> bool:
    if value:
        raise ValueError("must be false")
    return value


# A Literal would take 1 and 0 as well.
OnlyTrue = Annotated[bool, AfterValidator(_true), WithJsonSchema({"type": "boolean", "const": True})]
OnlyFalse = Annotated[bool, AfterValidator(_false), WithJsonSchema({"type": "boolean", "const": False})]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class FunctionDefinition(_Strict):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = Field(
        None, description="The arguments fit the schema; so they do where a call has to be made."
    )

    @property
    def tool(self) -> Tool:
        """Name, description and parameters, in this order, as far as they are given."""
        return Tool(self.name, self.model_dump(include=SHOWN_FIELDS, exclude_none=True))


class WrappedTool(_Strict):
    """OpenAI's form."""

    type: Literal["function"]
    function: FunctionDefinition

    @property
    def tool(self) -> Tool:
        """The function."""
        return self.function.tool


class FlatTool(FunctionDefinition):
    """A function without the wrapper, as ChatGLM3's own demos take it; given on as it came."""

    _given: dict[str, JsonValue] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, handler: ModelWrapValidatorHandler[FlatTool]) -> FlatTool:
        tool = handler(value)
        tool._given = _finite({key: one for key, one in value.items() if key != "type"})
        return tool

    @property
    def tool(self) -> Tool:
        """All keys, in the client's order."""
        return Tool(self.name, self._given)


def _form(value: object) -> str:
    fields = value if isinstance(value, dict) else {}
    return "flat-tool" if "name" in fields and "function" not in fields else "wrapped-tool"


OfferedTool = Annotated[
    Annotated[WrappedTool, Tag("wrapped-tool")] | Annotated[FlatTool, Tag("flat-tool")], Discriminator(_form)
]


class FunctionReference(_Strict):
    """Names a function."""

    name: FunctionName


class NamedTool(_Strict):
    """The one tool that has to be called."""

    type: Literal["function"]
    function: FunctionReference


class JsonSchema(_Strict):
    """A schema with a name."""

    name: str
    json_schema: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """What the answer's text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.json_schema is None):
            raise ValueError("json_schema.schema is required where the type is 'json_schema'")
        return self

    @property
    def structured(self) -> StructuredOutput | None:
        """For the engine; None for plain text."""
        if self.type == "json_schema" and self.json_schema is not None:
            named = self.json_schema
            return StructuredOutput("json", named.json_schema, named.name, named.strict)
        return StructuredOutput("json_object") if self.type == "json_object" else None


class StructuredOutputs(BaseModel):
    """vLLM's constraints; exactly one of them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    json_: JsonObject | str | None = Field(None, alias="json", description="A JSON schema.")
    json_object: OnlyTrue | None = Field(None, description="Any JSON object.")
    regex: str | None = Field(None, min_length=1, description="A regular expression.")
    choice: Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="One of these texts."
    )
    grammar: str | None = Field(None, min_length=1, description="A grammar in EBNF.")

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(self._given()) != 1:
            raise ValueError("exactly one of json, json_object, regex, choice and grammar must be given")
        return self

    def _given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, by_alias=True)

    @property
    def structured(self) -> StructuredOutput:
        """For the engine."""
        ((kind, value),) = self._given().items()
        return StructuredOutput(kind, None if kind == "json_object" else value)  # type: ignore[arg-type]


def duplicate(tools: Sequence[Tool]) -> str | None:
    """A name that two tools have."""
    names = [tool.name for tool in tools]
    return next((name for name in names if names.count(name) > 1), None)
