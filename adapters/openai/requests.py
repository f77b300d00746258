"""The bodies of OpenAI's chat completions and completions.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and vLLM's server 0.32 for the
fields that it adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)

from adapters.chat_format import Conversation
from adapters.chatchat.parameters import ChatchatFields
from adapters.field_origin import openai, vllm
from adapters.openai.answers import Wanted
from adapters.openai.messages import Message
from adapters.openai.refused import REFUSED, Refusal
from adapters.openai.sampling import MOST_LOGPROBS, SamplingFields, TokenId
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
from engine.base import StructuredOutput, Tool

MOST_PROMPTS = 1024

# Of what the client asked, what stands in the row beside the messages.
SAMPLING_FIELDS = set(SamplingFields.model_fields) | {
    "add_generation_prompt",
    "add_special_tokens",
    "best_of",
    "chat_template_kwargs",
    "continue_final_message",
    "echo",
    "logprobs",
    "max_completion_tokens",
    "response_format",
    "top_logprobs",
}
TOOL_FIELDS = {"tool_choice", "parallel_tool_calls", "function_call"}

# Who asked, what for, and after what, as the client says it.
LABEL_FIELDS = {"user", "safety_identifier", "metadata", "history", "prompt_name"}

Label = Annotated[str, StringConstraints(max_length=512)]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = openai("Send a last chunk with the usage. Default: false.")
    continuous_usage_stats: bool | None = vllm(
        "With include_usage: each chunk tells the usage so far. Default: false."
    )


class Body(SamplingFields, ChatchatFields):
    """What both bodies share."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str | None = openai("The served model; left out: the one that is served.")
    stream: bool | None = openai("Answer as server-sent events. Default: false.")
    stream_options: StreamOptions | None = openai("Only with stream=true.")
    user: Label | None = openai("Your name for the end user, for the row; at most 512 characters.")
    echo: bool | None = vllm(
        "Repeat the last message before the answer, where it is an assistant's. Default: false."
    )
    return_token_ids: bool | None = vllm("Tell the ids of the prompt and the answer. Default: false.")

    @field_validator("stream_options")
    @classmethod
    def _only_with_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("only allowed when stream is true")
        return value

    @field_validator("stream")
    @classmethod
    def _without_prompt_logprobs(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("prompt_logprobs") is not None:
            raise ValueError("can't be combined with 'prompt_logprobs'")
        return value

    @property
    def field_names(self) -> dict[str, str]:
        """What this body calls fields that an engine knows by another name."""
        return {"structured": "structured_outputs"}

    @property
    def names_tier(self) -> bool:
        """Whether the answer has to say in which service tier it was made."""
        return False

    @property
    def answer_count(self) -> int:
        """Choices of all prompts together."""
        return self.choice_count

    def unknown_variables(self, known: Set[str]) -> Iterator[str]:
        """Values for a chat template that has no such variable."""
        yield from ()

    @property
    def wanted(self) -> Wanted:
        """What the answer's form depends on."""
        options = self.stream_options
        usage = bool(options and options.include_usage)
        return Wanted(
            usage=usage,
            continuous_usage=usage and bool(options and options.continuous_usage_stats),
            logprobs=self.top_logprob_count is not None,
            prompt_logprobs=self.prompt_logprobs is not None,
            token_ids=bool(self.return_token_ids),
        )

    def sampling_fields(self) -> dict[str, Any]:
        """What the client asked for, for the row."""
        return self.model_dump(include=SAMPLING_FIELDS, exclude_none=True, by_alias=True)

    def label_fields(self) -> dict[str, Any]:
        """Who asked, what for, and after what, for the row."""
        return self.model_dump(include=LABEL_FIELDS, exclude_none=True)

    def refused_field(self) -> tuple[str, Refusal] | None:
        """A field whose value asks for what is not honoured, and why."""
        for name, value in (self.model_extra or {}).items():
            refusal = REFUSED.get(name)
            if refusal is not None and value is not None and value not in refusal.taken:
                return name, refusal
        return None

    def ignored_fields(self) -> Iterator[str]:
        """Fields that were sent and change nothing here."""
        for name, value in (self.model_extra or {}).items():
            if name not in REFUSED and value is not None:
                yield name
        for name, value in ((self.stream_options and self.stream_options.model_extra) or {}).items():
            if value:
                yield f"stream_options.{name}"


class ChatCompletionRequest(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(
        min_length=1,
        fail_fast=True,
        description="The conversation so far. (OpenAI)",
        json_schema_extra={"x-origin": "OpenAI"},
    )
    max_completion_tokens: int | None = openai(
        "As max_tokens, which it replaces; it wins where both are given."
    )
    tools: Annotated[list[OfferedTool], Field(max_length=MOST_TOOLS)] | None = openai(
        "Functions that the model may call, at most 128: OpenAI's wrapped form, or the function alone."
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = openai(
        "none, auto (default where there are tools), required, or the tool to call."
    )
    parallel_tool_calls: bool | None = openai("false: at most one call. Default: true.")
    functions: Annotated[list[FunctionDefinition], Field(max_length=MOST_TOOLS)] | None = openai(
        "The older form of tools; calls are answered as function_call."
    )
    function_call: Literal["none", "auto"] | FunctionReference | None = openai(
        "The older form of tool_choice."
    )
    response_format: ResponseFormat | None = openai(
        "text (default), json_object, or json_schema with a schema that the answer fits."
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
            "prompt": "messages",
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


def _prompt_form(value: object) -> str | None:
    if not isinstance(value, list):
        return "a-text" if isinstance(value, str) else None
    if value and isinstance(value[0], list):
        return "lists-of-ids"
    return "many-texts" if not value or isinstance(value[0], str) else "one-list-of-ids"


TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
PromptField = Annotated[
    Annotated[str, Tag("a-text")]
    | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS), Tag("many-texts")]
    | Annotated[TokenIds, Tag("one-list-of-ids")]
    | Annotated[list[TokenIds], Field(max_length=MOST_PROMPTS), Tag("lists-of-ids")],
    Discriminator(
        _prompt_form,
        custom_error_type="prompt_form",
        custom_error_message="it must be a string, a list of strings, a list of token ids, or a list of such "
        "lists",
    ),
]


class CompletionRequest(Body):
    """POST /v1/completions."""

    prompt: PromptField = Field(
        description="The text to continue: a string or token ids, or a list of up to 1024 of them, each "
        "answered by its own choices. (OpenAI)",
        json_schema_extra={"x-origin": "OpenAI"},
    )
    logprobs: int | None = openai(
        "Tell the log-probability of each token, and of so many of the likeliest ones, 0 to 20.",
        ge=0,
        le=MOST_LOGPROBS,
    )
    echo: bool | None = openai(
        "Repeat the prompt before the text; with logprobs it has them too, and with max_tokens 0 nothing "
        "comes after it. Default: false."
    )
    best_of: int | None = openai("Only the same as n: all choices are told.", ge=1)
    add_special_tokens: bool | None = vllm(
        "Begin a text with what the model's prompts begin with. Default: true."
    )

    @field_validator("best_of")
    @classmethod
    def _all(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value != (info.data.get("n") or 1):
            raise ValueError("only the same as 'n' is supported: no choice is left out")
        return value

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, texts or ids, in their order."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def answer_count(self) -> int:
        """Choices of all prompts together."""
        return len(self.prompts) * self.choice_count

    @property
    def top_logprob_count(self) -> int | None:
        """How many likely tokens are told beside each token, None where logprobs are not asked for."""
        return self.logprobs

    @property
    def prompt_logprob_count(self) -> int | None:
        """The same for the prompt's tokens, which an echo tells as well."""
        if self.echo and self.logprobs is not None:
            return max(self.logprobs, self.prompt_logprobs or 0)
        return self.prompt_logprobs

    @property
    def only_prompt(self) -> bool:
        """Whether nothing but the prompt is to be told: an echo with max_tokens 0, which scores a text."""
        return bool(self.echo) and self.max_tokens == 0

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context; 16 where the field is left out,
        as OpenAI's specification has it. The engine makes one for a text that is only scored."""
        if self.only_prompt:
            return 1
        if "max_tokens" not in self.model_fields_set:
            return 16
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None
