"""The body of OpenAI's completions.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and vLLM's server 0.32 for the
fields that it adds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from adapters.field_origin import openai, vllm
from adapters.openai.body import Body
from adapters.openai.sampling import MOST_LOGPROBS, TokenId
from engine.base import AsAsked

MOST_PROMPTS = 1024


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
    best_of: int | None = openai("Only the same as n: all choices are told. Default: n.", ge=1)
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
    def as_asked(self) -> AsAsked:
        """What is asked beside the prompt and sampling, for an engine that is spoken to in text."""
        return replace(super().as_asked, add_special_tokens=self.add_special_tokens is not False)

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context; 16 where the field is left out,
        as OpenAI's specification has it. The engine makes one for a text that is only scored."""
        if self.only_prompt:
            return 1
        if "max_tokens" not in self.model_fields_set:
            return 16
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None
