"""The body of OpenAI's chat completions.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and vLLM's server 0.32 for the
fields that it adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from adapters.chat_format import Conversation
from adapters.field_origin import chatchat, openai, vllm
from adapters.openai.answers import Wanted
from adapters.openai.body import Body, Label
from adapters.openai.messages import Message
from adapters.openai.sampling import MOST_LOGPROBS
from adapters.openai.tools import (
    MOST_TOOLS,
    FlatTool,
    FunctionDefinition,
    FunctionReference,
    JsonObject,
    NamedTool,
    OfferedTool,
    OnlyFalse,
    ResponseFormat,
    WrappedTool,
    duplicate,
)
from engine.base import AsAsked, StructuredOutput, Tool

TOOL_FIELDS = {"tool_choice", "parallel_tool_calls", "function_call"}

# In place of messages.
QUESTIONS = ("prompt", "query")


class _OrNull:
    """A field whose validator puts something in null's place."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.nullable_schema(handler(source))


class ChatCompletionRequest(Body):
    """POST /v1/chat/completions."""

    prompt: str | None = chatchat(
        "In place of messages: the question, a text; what was said before is the history."
    )
    query: str | None = chatchat("The same as prompt.")
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True), _OrNull()] = openai(
        "The conversation so far; required where neither prompt nor query is given. "
        "Default: the question as a user's message.",
        validate_default=True,
    )
    max_completion_tokens: int | None = openai(
        "As max_tokens, which it replaces; it wins where both are given. Default: max_tokens."
    )
    tools: Annotated[list[OfferedTool], Field(max_length=MOST_TOOLS)] | None = openai(
        "Functions that the model may call, at most 128: OpenAI's wrapped form, or the function alone."
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = openai(
        "none, auto, required, or the tool to call. Default: auto where there are tools."
    )
    parallel_tool_calls: bool | None = openai("false: at most one call. Default: true.")
    functions: Annotated[list[FunctionDefinition], Field(max_length=MOST_TOOLS)] | None = openai(
        "The older form of tools; calls are answered as function_call."
    )
    function_call: Literal["none", "auto"] | FunctionReference | None = openai(
        "The older form of tool_choice. Default: auto where there are functions."
    )
    response_format: ResponseFormat | None = openai(
        "text, json_object, or json_schema with a schema that the answer fits. Default: text."
    )
    logprobs: bool | None = openai("Tell the log-probability of each token of the content. Default: false.")
    top_logprobs: int | None = openai(
        "With logprobs: also of so many of the likeliest tokens, 0 to 20. Default: 0.", ge=0, le=MOST_LOGPROBS
    )
    metadata: (
        Annotated[
            dict[Annotated[str, StringConstraints(max_length=64)], Label],
            Field(max_length=16),
        ]
        | None
    ) = openai("Up to 16 pairs for the row: keys of up to 64, values of up to 512 characters.")
    store: bool | None = openai("Every answer is stored, whatever is said here.")
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = openai(
        "There is one tier: the answer says 'default'."
    )
    safety_identifier: Label | None = openai("Your name for the end user, for the row.")
    add_generation_prompt: bool | None = vllm(
        "End the prompt with what begins an assistant's turn. Default: true, false with "
        "continue_final_message."
    )
    continue_final_message: bool | None = vllm(
        "Leave the last message, an assistant's, open: the answer continues it. Default: false."
    )
    chat_template_kwargs: JsonObject | None = vllm("Values for variables of the model's chat template.")
    add_special_tokens: OnlyFalse | None = vllm(
        "Only false: the model's chat format has placed them already."
    )

    @field_validator("query")
    @classmethod
    def _one_question(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("prompt") is not None:
            raise ValueError("'query' and 'prompt' can't be given together")
        return value

    @field_validator("messages")
    @classmethod
    def _messages_or_question(cls, value: list[Message] | None, info: ValidationInfo) -> list[Message]:
        given = next(((name, info.data[name]) for name in QUESTIONS if info.data.get(name) is not None), None)
        if value is None and given is None:
            raise PydanticKnownError("missing")
        if value is not None and given is not None:
            raise ValueError(f"'messages' and '{given[0]}' can't be given together")
        return value or [Message.model_validate({"role": "user", "content": given and given[1]})]

    @field_validator("functions")
    @classmethod
    def _one_form(
        cls, value: list[FunctionDefinition] | None, info: ValidationInfo
    ) -> list[FunctionDefinition] | None:
        if value and info.data.get("tools"):
            raise ValueError("'functions' and 'tools' can't be given together")
        return value

    @field_validator("tools", "functions")
    @classmethod
    def _distinct(cls, value: Sequence[WrappedTool | FlatTool | FunctionDefinition] | None) -> object:
        if (name := duplicate([one.tool for one in value or ()])) is not None:
            raise ValueError(f"there are two functions with the name '{name}'")
        return value

    @field_validator("tool_choice", "function_call")
    @classmethod
    def _offered(cls, value: str | NamedTool | FunctionReference | None, info: ValidationInfo) -> object:
        offered = (info.data.get("tools") or []) + (info.data.get("functions") or [])
        name = value.function.name if isinstance(value, NamedTool) else getattr(value, "name", None)
        if value == "required" and not offered:
            raise ValueError("'required' needs tools to choose from")
        if name is not None and name not in [one.tool.name for one in offered]:
            raise ValueError(f"there is no function '{name}' among those that were given")
        return value

    @field_validator("response_format")
    @classmethod
    def _one_constraint(cls, value: ResponseFormat | None, info: ValidationInfo) -> ResponseFormat | None:
        if value is not None and value.structured is not None and info.data.get("structured_outputs"):
            raise ValueError("can't be combined with 'structured_outputs'")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("only allowed when logprobs is true")
        return value

    @field_validator("continue_final_message")
    @classmethod
    def _open_or_begun(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("add_generation_prompt"):
            raise ValueError("can't be combined with 'add_generation_prompt'")
        return value

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return limit if limit is not None and limit > 0 else None

    @property
    def top_logprob_count(self) -> int | None:
        """How many likely tokens are told beside each token, None where logprobs are not asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def messages_field(self) -> str:
        """The field that ``messages`` come from."""
        return next((name for name in QUESTIONS if getattr(self, name) is not None), "messages")

    @property
    def structured(self) -> StructuredOutput | None:
        """What the answer's text has to be."""
        of_format = self.response_format.structured if self.response_format is not None else None
        return of_format or super().structured

    @property
    def wanted(self) -> Wanted:
        """What the answer's form depends on."""
        return replace(super().wanted, legacy=bool(self.functions))

    @property
    def field_names(self) -> dict[str, str]:
        """What this body calls fields that an engine knows by another name."""
        if self.structured is None:
            constraint = "tools"
        else:
            constraint = "structured_outputs" if self.structured_outputs else "response_format"
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        logprobs = "logprobs" if self.top_logprobs is None else "top_logprobs"
        return {
            "prompt": self.messages_field,
            "structured": constraint,
            "max_tokens": limit,
            "logprobs": logprobs,
        }

    @property
    def names_tier(self) -> bool:
        """Whether the answer has to say in which service tier it was made."""
        return self.service_tier is not None

    def unknown_variables(self, known: Set[str]) -> Iterator[str]:
        """Values for a chat template that has no such variable."""
        for name in self.chat_template_kwargs or {}:
            if name not in known:
                yield f"chat_template_kwargs.{name}"

    @property
    def echoed(self) -> str:
        """What ``echo`` repeats: the last message, where it is an assistant's."""
        last = self.messages[-1]
        return last.text if self.echo and last.role == "assistant" else ""

    @property
    def as_asked(self) -> AsAsked:
        """What is asked beside messages and sampling, for an engine that is spoken to in text."""
        tools = self._tools
        may_call, must_call = self._callable(tools)
        goes_on = bool(self.continue_final_message)
        return replace(
            super().as_asked,
            tools=tools,
            may_call=may_call,
            must_call=must_call,
            parallel_tool_calls=self.parallel_tool_calls is not False and not self.functions,
            add_generation_prompt=self.add_generation_prompt is not False and not goes_on,
            continue_final_message=goes_on,
            template_kwargs=self.chat_template_kwargs or {},
        )

    @property
    def conversation(self) -> Conversation:
        """What is asked of the model."""
        tools = self._tools
        may_call, must_call = self._callable(tools)
        goes_on = bool(self.continue_final_message)
        return Conversation(
            messages=tuple(message.as_turn for message in self.messages),
            tools=tools,
            may_call=may_call,
            must_call=must_call,
            parallel_tool_calls=self.parallel_tool_calls is not False and not self.functions,
            add_generation_prompt=self.add_generation_prompt is not False and not goes_on,
            continue_final_message=goes_on,
            template_kwargs=self.chat_template_kwargs or {},
            **self.rule_fields(),
        )

    def tool_fields(self) -> dict[str, Any]:
        """What the client asked of tools, for the row."""
        tools = [dict(tool.definition) for tool in self._tools]
        if not tools:
            return {}
        return {"tools": tools} | self.model_dump(include=TOOL_FIELDS, exclude_none=True)

    def ignored_fields(self) -> Iterator[str]:
        """Fields that were sent and change nothing here."""
        yield from super().ignored_fields()
        if self.store is False:
            yield "store"
        for message in self.messages:
            yield from (f"messages.{name}" for name in message.ignored_fields())
        if any(tool.strict for tool in self._functions) and not self._callable(self._tools)[1]:
            yield "tools.strict"

    @property
    def _tools(self) -> tuple[Tool, ...]:
        return tuple(one.tool for one in self.tools or self.functions or ())

    @property
    def _functions(self) -> list[FunctionDefinition]:
        wrapped = [one.function if isinstance(one, WrappedTool) else one for one in self.tools or ()]
        return wrapped or list(self.functions or ())

    def _callable(self, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], bool]:
        """The tools that may be called, and whether one of them has to be."""
        match self.tool_choice if self.tools else self.function_call:
            case "none":
                return (), False
            case NamedTool(function=FunctionReference(name=name)) | FunctionReference(name=name):
                return tuple(tool for tool in tools if tool.name == name), True
            case choice:
                return tools, choice == "required"
