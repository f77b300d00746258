"""How tokens are chosen and when an answer ends: the fields that both of OpenAI's routes share.

Source: OpenAI's published specification (github.com/openai/openai-openapi), and vLLM's server 0.32
(vllm/entrypoints/openai/chat_completion/protocol.py) for the fields that it adds. For max_tokens the rule
of this gateway: null, 0 and below mean the model's default, which is the rest of its context.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from adapters.chat_format import Prompt, TextRules
from adapters.field_origin import openai, vllm
from adapters.openai.repetition import RepetitionDetection
from adapters.openai.tools import StructuredOutputs
from engine.base import ModelCard, RepetitionStop, Sampling, StructuredOutput

MOST_CHOICES = 128
MOST_STOP_STRINGS = 4
MOST_LOGPROBS = 20
MOST_TOKEN_ID = 2**31 - 1
MOST_BIASED_TOKENS = 1024
INT32, INT64 = 2**31, 2**63

# vLLM takes a lower temperature for 0, which is greedy.
GREEDY_BELOW = 1e-5

StopString = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0, le=MOST_TOKEN_ID)]


def _token_ids_as_keys(value: object) -> object:
    """JSON's keys are strings; these are written numbers."""
    if not isinstance(value, dict):
        return value
    for key in value:
        if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 10):
            raise ValueError("its keys must be token ids, as '1234'")
    return {int(key): bias for key, bias in value.items()}


LogitBias = Annotated[
    dict[TokenId, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MOST_BIASED_TOKENS),
    BeforeValidator(_token_ids_as_keys),
]


class SamplingFields(BaseModel):
    """What both bodies share of it."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    temperature: float | None = openai(
        "Sampling temperature, 0 to 2; 0 is greedy. Default: the model's, else 1.", ge=0, le=2
    )
    top_p: float | None = openai(
        "Nucleus sampling: the likeliest tokens that have this probability together, above 0 up to 1. "
        "Default: the model's, else 1.",
        gt=0,
        le=1,
    )
    max_tokens: int | None = openai(
        "Most tokens of the answer; 0 and below are as good as null. Default: the rest of the context; 16 in "
        "a completion that leaves it out."
    )
    n: int | None = openai(
        "Choices for each prompt, 1 to 128; with more than one the temperature must be above 0. Default: 1.",
        ge=1,
        le=MOST_CHOICES,
    )
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOP_STRINGS)] | None = openai(
        "A string, or up to 4; the answer ends before the first of them."
    )
    seed: int | None = openai(
        "Same seed and request: same answer, as far as the engine can; the k-th choice takes seed + k.",
        ge=-INT64,
        lt=INT64,
    )
    presence_penalty: float | None = openai(
        "Above 0: tokens that have come become less likely; -2 to 2. Default: the model's, else 0.",
        ge=-2,
        le=2,
    )
    frequency_penalty: float | None = openai(
        "The same for each time that a token has come; -2 to 2. Default: the model's, else 0.", ge=-2, le=2
    )
    logit_bias: LogitBias | None = openai(
        "Token ids and what is added to their logits, -100 to 100; at most 1024."
    )

    top_k: int | None = vllm(
        "Only so many of the likeliest tokens; 0 or -1: all. Default: the model's, else all.",
        ge=-1,
        lt=INT32,
    )
    min_p: float | None = vllm(
        "Only tokens that have at least this share of the likeliest one's probability, 0 to 1. "
        "Default: the model's, else 0.",
        ge=0,
        le=1,
    )
    repetition_penalty: float | None = vllm(
        "Above 1: tokens of the prompt and the answer become less likely; above 0 up to 100. "
        "Default: the model's, else 1.",
        gt=0,
        le=100,
    )
    min_tokens: int | None = vllm(
        "Least tokens of the answer: before them nothing ends it. Default: 0.", ge=0, lt=INT32
    )
    ignore_eos: bool | None = vllm(
        "Go on after the model's own end of an answer, up to max_tokens. Default: false."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] | None = vllm(
        "Tokens that end the answer, beside the model's own; at most 128."
    )
    include_stop_str_in_output: bool | None = vllm(
        "The answer ends after the stop string, not before it. Default: false."
    )
    skip_special_tokens: bool | None = vllm("Leave special tokens out of the text. Default: true.")
    spaces_between_special_tokens: bool | None = vllm(
        "With skip_special_tokens=false: blanks between them, where the tokenizer has it. Default: true."
    )
    bad_words: Annotated[list[StopString], Field(max_length=128)] | None = vllm(
        "Texts that may not come; at most 128."
    )
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1, fail_fast=True)] | None = vllm(
        "The only tokens that may come."
    )
    prompt_logprobs: int | None = vllm(
        "Tell the log-probability of each token of the prompt, and of so many of the likeliest ones, "
        "0 to 20; not with stream.",
        ge=0,
        le=MOST_LOGPROBS,
    )
    repetition_detection: RepetitionDetection | None = vllm(
        "End an answer whose last tokens are one sequence again and again, with finish_reason length: "
        "max_pattern_size (up to 64 tokens; 0: never), min_pattern_size, min_count. Default: the operator's, "
        "else never."
    )
    structured_outputs: StructuredOutputs | None = vllm(
        "The answer fits one of json, json_object, regex, choice, grammar."
    )
    priority: int | None = vllm(
        "A lower one runs earlier, where the engine schedules by priority; else only 0. Default: 0.",
        ge=-INT32,
        lt=INT32,
    )
    cache_salt: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = vllm(
        "Prompts share cached prefixes only with those of the same salt; at most 128 characters."
    )

    @property
    def choice_count(self) -> int:
        """Choices for each prompt."""
        return self.n or 1

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, None for the rest of the context."""
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None

    @property
    def top_logprob_count(self) -> int | None:
        """How many likely tokens are told beside each token, None where logprobs are not asked for."""
        return None

    @property
    def prompt_logprob_count(self) -> int | None:
        """The same for the prompt's tokens."""
        return self.prompt_logprobs

    @property
    def structured(self) -> StructuredOutput | None:
        """What the answer's text has to be."""
        return self.structured_outputs.structured if self.structured_outputs is not None else None

    @property
    def rules(self) -> TextRules:
        """What the answer's text has to be, and where it ends."""
        return TextRules(**self.rule_fields())

    def rule_fields(self) -> dict[str, Any]:
        """The fields of ``rules``."""
        return {
            "stop": self.stop_strings,
            "include_stop_str_in_output": bool(self.include_stop_str_in_output),
            "min_tokens": self.min_tokens or 0,
            "skip_special_tokens": self.skip_special_tokens is not False,
            "structured": self.structured,
        }

    def is_greedy(self, card: ModelCard) -> bool:
        """Whether the likeliest token is always taken, so that all choices would be the same."""
        temperature = self.temperature
        if temperature is None:
            temperature = card.sampling_defaults.get("temperature", 1.0)
        return temperature < GREEDY_BELOW

    def sampling(
        self,
        max_tokens: int,
        prompt: Prompt,
        choice: int = 0,
        repetition: RepetitionStop | None = None,
    ) -> Sampling:
        """For the engine; ``max_tokens`` as it fits the context. ``repetition``: the operator's."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self._seed_of(choice),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
            stop=prompt.stop,
            stop_token_ids=self._stop_token_ids(prompt),
            include_stop_str_in_output=bool(self.include_stop_str_in_output),
            skip_special_tokens=prompt.skip_special_tokens,
            spaces_between_special_tokens=self.spaces_between_special_tokens is not False,
            bad_words=tuple(self.bad_words or ()),
            allowed_token_ids=None if self.allowed_token_ids is None else tuple(self.allowed_token_ids),
            logprobs=self.top_logprob_count,
            prompt_logprobs=self.prompt_logprob_count,
            structured=prompt.structured,
            # What the format needs wins.
            logit_bias={**self.logit_bias, **prompt.logit_bias} if self.logit_bias else prompt.logit_bias,
            repetition=self.repetition_detection.stop if self.repetition_detection else repetition,
        )

    def _seed_of(self, choice: int) -> int | None:
        if self.seed is None or self.seed == -1:
            return self.seed
        return (self.seed + choice + INT64) % (2 * INT64) - INT64

    def _stop_token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """A format's own ones are an end of sequence too."""
        own = () if self.ignore_eos else prompt.stop_token_ids
        return (*own, *self.stop_token_ids) if self.stop_token_ids else own
