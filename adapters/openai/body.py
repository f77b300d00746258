"""What the bodies of OpenAI's chat completions and completions share.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and vLLM's server 0.32 for the
fields that it adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from adapters.chatchat.parameters import ChatchatFields
from adapters.field_origin import openai, vllm
from adapters.openai.answers import Wanted
from adapters.openai.refused import REFUSED, Refusal
from adapters.openai.sampling import SamplingFields
from engine.base import AsAsked

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

# Who asked, what for, and after what, as the client says it.
LABEL_FIELDS = {"user", "safety_identifier", "session_id", "metadata", "prompt_name"}

Label = Annotated[str, StringConstraints(max_length=512)]

# As it may stand in a header.
SESSION_ID = r"[!-~]{1,256}"


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

    model: str | None = openai("The served model. Default: the one that is served.")
    stream: bool | None = openai("Answer as server-sent events. Default: false.")
    stream_options: StreamOptions | None = openai("Only with stream=true.")
    user: Label | None = openai("Your name for the end user, for the row; at most 512 characters.")
    session_id: Annotated[str, StringConstraints(pattern=rf"^{SESSION_ID}$")] | None = vllm(
        "Your name for what related requests belong to, for routers and the row, before the header "
        "x-session-id; at most 256 characters of ASCII without blanks."
    )
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

    @property
    def as_asked(self) -> AsAsked:
        """What is asked beside messages and sampling, for an engine that is spoken to in text."""
        return AsAsked(
            max_tokens=self.token_limit,
            stop=self.stop_strings,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logit_bias=self.logit_bias or {},
            structured=self.structured,
            skip_special_tokens=self.skip_special_tokens is not False,
            repetition=self.repetition_detection.stop if self.repetition_detection else None,
            token_ids=bool(self.return_token_ids),
        )

    def sampling_fields(self) -> dict[str, Any]:
        """What the client asked for, for the row."""
        return self.model_dump(include=SAMPLING_FIELDS, exclude_none=True, by_alias=True)

    def label_fields(self) -> dict[str, Any]:
        """Who asked, and what for, for the row."""
        return self.model_dump(include=LABEL_FIELDS, exclude_none=True)

    def history_fields(self) -> dict[str, Any]:
        """After what, as the client sent it, for the row."""
        return self.model_dump(include={"history"}, exclude_none=True)

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
