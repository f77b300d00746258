"""The bodies of OpenAI's chat completions and completions, as far as they are honoured.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and for max_tokens the
rule of this gateway: null, 0 and below mean the model's default, which is the rest of its context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from adapters.chat_format import Conversation, Prompt, TextRules
from adapters.openai.answers import Wanted
from adapters.openai.messages import Message
from adapters.openai.tools import (
    MOST_TOOLS,
    FlatTool,
    FunctionDefinition,
    FunctionReference,
    NamedTool,
    OfferedTool,
    ResponseFormat,
    StructuredOutputs,
    WrappedTool,
    duplicate,
)
from engine.base import Sampling, StructuredOutput, Tool

MOST_STOP_STRINGS = 4
MOST_LOGPROBS = 20
INT64 = 2**63

# OpenAI's fields that change the answer and are not honoured: only the values that ask for nothing
# special are taken; null always is one.
ONLY: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "suffix": ("",),
    "web_search_options": (),
}

# Of what the client asked, what stands in the row beside the messages.
SAMPLING_FIELDS = {
    "temperature",
    "top_p",
    "stop",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "response_format",
    "structured_outputs",
}
TOOL_FIELDS = {"tool_choice", "parallel_tool_calls", "function_call"}

StopString = Annotated[str, StringConstraints(min_length=1)]


class Body(BaseModel):
    """What both bodies share."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str | None = Field(None, description="The served model; left out: the one that is served.")
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Sampling temperature, 0 to 2; 0 is greedy. Default: the model's, else 1.",
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling, above 0 up to 1. Default: the model's, else 1."
    )
    max_tokens: int | None = Field(
        None, description="Most tokens of the answer; null, 0 or below: the rest of the context."
    )
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOP_STRINGS)] | None = Field(
        None, description="Up to 4 strings; the answer ends before the first of them."
    )
    seed: int | None = Field(
        None, ge=-INT64, lt=INT64, description="Same seed and request: same answer, as far as the engine can."
    )
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream=true.")
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description="vLLM's: the answer fits one of json, json_object, regex, choice, grammar.",
    )
    user: str | None = Field(None, description="Accepted; not used.")

    @field_validator("stream_options")
    @classmethod
    def _only_with_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("only allowed when stream is true")
        return value

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context."""
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None

    @property
    def top_logprob_count(self) -> int | None:
        """How many likely tokens are told beside each token, None where logprobs are not asked for."""
        return None

    @property
    def structured(self) -> StructuredOutput | None:
        """What the answer's text has to be."""
        return self.structured_outputs.structured if self.structured_outputs is not None else None

    @property
    def rules(self) -> TextRules:
        """What the answer's text has to be."""
        return TextRules(stop=self.stop_strings, structured=self.structured)

    @property
    def wanted(self) -> Wanted:
        """What the answer's form depends on."""
        return Wanted(self.include_usage, self.top_logprob_count is not None)

    def sampling(self, max_tokens: int, prompt: Prompt) -> Sampling:
        """For the engine; ``max_tokens`` as it fits the context."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=prompt.stop,
            stop_token_ids=prompt.stop_token_ids,
            logprobs=self.top_logprob_count,
            structured=prompt.structured,
            logit_bias=prompt.logit_bias,
        )

    def sampling_fields(self) -> dict[str, Any]:
        """What the client asked for, for the row."""
        return self.model_dump(include=SAMPLING_FIELDS, exclude_none=True, by_alias=True)

    def refused_field(self) -> str | None:
        """A field whose value asks for what is not honoured."""
        for name, value in (self.model_extra or {}).items():
            if name in ONLY and value is not None and value not in ONLY[name]:
                return name
        return None

    def ignored_fields(self) -> list[str]:
        """Fields that were sent and mean nothing here."""
        return [
            name for name, value in (self.model_extra or {}).items() if name not in ONLY and value is not None
        ]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = Field(None, description="Send a last chunk with the usage.")


class ChatCompletionRequest(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, description="The conversation so far.")
    max_completion_tokens: int | None = Field(
        None, description="As max_tokens, which it replaces; it wins where both are given."
    )
    tools: Annotated[list[OfferedTool], Field(max_length=MOST_TOOLS)] | None = Field(
        None, description="Functions that the model may call: OpenAI's wrapped form, or the function alone."
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="none, auto (default where there are tools), required, or the tool to call."
    )
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call. Default: true.")
    functions: Annotated[list[FunctionDefinition], Field(max_length=MOST_TOOLS)] | None = Field(
        None, description="The older form of tools; calls are answered as function_call."
    )
    function_call: Literal["none", "auto"] | FunctionReference | None = Field(
        None, description="The older form of tool_choice."
    )
    response_format: ResponseFormat | None = Field(
        None, description="text (default), json_object, or json_schema with a schema that the answer fits."
    )
    logprobs: bool | None = Field(None, description="Tell the log-probability of each token of the content.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="With logprobs: also of so many of the likeliest tokens."
    )

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
    def structured(self) -> StructuredOutput | None:
        """What the answer's text has to be."""
        of_format = self.response_format.structured if self.response_format is not None else None
        return of_format or super().structured

    @property
    def wanted(self) -> Wanted:
        """What the answer's form depends on."""
        return replace(super().wanted, legacy=bool(self.functions))

    @property
    def conversation(self) -> Conversation:
        """What is asked of the model."""
        tools = tuple(one.tool for one in self.tools or self.functions or ())
        may_call, must_call = self._callable(tools)
        return Conversation(
            messages=tuple(message.as_turn for message in self.messages),
            tools=tools,
            may_call=may_call,
            must_call=must_call,
            parallel_tool_calls=self.parallel_tool_calls is not False and not self.functions,
            stop=self.stop_strings,
            structured=self.structured,
        )

    def tool_fields(self) -> dict[str, Any]:
        """What the client asked of tools, for the row."""
        tools = {"tools": [dict(tool.definition) for tool in self.conversation.tools]}
        choice = self.model_dump(include=TOOL_FIELDS, exclude_none=True)
        return tools | choice if tools["tools"] else {}

    def _callable(self, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], bool]:
        """The tools that may be called, and whether one of them has to be."""
        match self.tool_choice if self.tools else self.function_call:
            case "none":
                return (), False
            case NamedTool(function=FunctionReference(name=name)) | FunctionReference(name=name):
                return tuple(tool for tool in tools if tool.name == name), True
            case choice:
                return tools, choice == "required"


class CompletionRequest(Body):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = Field(
        description="The text to continue: a string, or a list of one string."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_LOGPROBS,
        description="Tell the log-probability of each token, and of so many of the likeliest ones.",
    )

    @property
    def top_logprob_count(self) -> int | None:
        """How many likely tokens are told beside each token, None where logprobs are not asked for."""
        return self.logprobs

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context; 16 where the field is left out,
        as OpenAI's specification has it."""
        if "max_tokens" not in self.model_fields_set:
            return 16
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None
