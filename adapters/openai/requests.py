"""The bodies of OpenAI's chat completions and completions, as far as they are honoured.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and for max_tokens the
rule of this gateway: null, 0 and below mean the model's default, which is the rest of its context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from engine.base import Sampling

ROLES_WITH_CONTENT = ("system", "developer", "user", "tool", "function")
MOST_STOP_STRINGS = 4
INT64 = 2**63

# OpenAI's fields that change the answer and are not honoured: only the values that ask for nothing
# special are taken; null always is one.
ONLY: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}

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

    def sampling(self, max_tokens: int, stop_token_ids: tuple[int, ...]) -> Sampling:
        """For the engine; ``max_tokens`` as it fits the context."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stop_strings,
            stop_token_ids=stop_token_ids,
        )

    def sampling_fields(self) -> dict[str, Any]:
        """What the client asked for, for the row."""
        fields = {"temperature", "top_p", "stop", "seed", "max_tokens", "max_completion_tokens"}
        return self.model_dump(include=fields, exclude_none=True)

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


class TextPart(BaseModel):
    """A piece of a message's text."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = Field(
        None,
        validate_default=True,
        description="Text, or a list of text parts; null only where the role is assistant.",
    )

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        for part in value if isinstance(value, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise ValueError(
                    f"content parts of type '{kind}' are not supported by this model, only 'text'"
                )
        return value

    @field_validator("content")
    @classmethod
    def _has_content(cls, value: str | list[TextPart] | None, info: ValidationInfo) -> object:
        if value is None and info.data.get("role") in ROLES_WITH_CONTENT:
            raise ValueError(f"required for the role '{info.data['role']}'")
        return value

    @property
    def text(self) -> str:
        """The content as one string; parts are joined by a newline, as vLLM's server joins them."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ChatCompletionRequest(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, description="The conversation so far.")
    max_completion_tokens: int | None = Field(
        None, description="As max_tokens, which it replaces; it wins where both are given."
    )

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return limit if limit is not None and limit > 0 else None


class CompletionRequest(Body):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = Field(
        description="The text to continue: a string, or a list of one string."
    )

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
