"""How a model is spoken to: from a conversation to a prompt, and from the engine's output to an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from engine.base import ChatMessage, Delta, FinishReason, StructuredOutput, TokenLogprob, Tool, ToolCall

EndReason = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why an answer ended, as OpenAI's finish_reason has it; ``content_filter`` where a guard ended it."""


class UnrenderablePrompt(Exception):
    """The model's format has no place for what was asked; the message says why.

    ``param`` names the field of the conversation that is at fault, where it is a certain one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """What an answer's text has to be, and where it ends.

    ``stop`` strings end it before them, or after them with ``include_stop_str_in_output``; the text of the
    first ``min_tokens`` tokens is not searched for them. ``skip_special_tokens``: control tokens are no part
    of it. ``structured`` says what it has to fit.
    """

    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    structured: StructuredOutput | None = None


PLAIN_TEXT = TextRules()


@dataclass(frozen=True, slots=True)
class Conversation(TextRules):
    """What a client asks of a chat model.

    ``tools`` are the functions that the model is told of, ``may_call`` those of them that the answer may
    call; with ``must_call`` it has to call one of these. The prompt ends with what begins an assistant's
    turn, unless ``add_generation_prompt`` is off; with ``continue_final_message`` the last message, an
    assistant's, is left open and the answer continues it. ``template_kwargs`` are values for variables of
    the model's chat template.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool] = ()
    may_call: Sequence[Tool] = ()
    must_call: bool = False
    parallel_tool_calls: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What is new of the ``index``-th tool call: its ``name`` with the first, then pieces of its arguments,
    which join to JSON text."""

    index: int
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class ContentLogprob:
    """A token of the answer's text: its bytes, its natural log-probability, and the likeliest tokens at
    its place."""

    token: bytes
    logprob: float
    top: Sequence[tuple[bytes, float]] = ()


@dataclass(slots=True)
class Piece:
    """What a Delta adds to the answer. ``ended``: nothing that the engine gives after it belongs to the
    answer. ``token_ids`` and ``prompt_logprobs`` are those of the Delta; a reader leaves them out."""

    text: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[ContentLogprob] = ()
    ended: bool = False
    token_ids: Sequence[int] = ()
    prompt_logprobs: Sequence[TokenLogprob | None] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; the arguments of ``tool_calls`` are JSON text. ``token_ids`` are all that the engine
    generated, ``prompt_logprobs`` those of the prompt where they were asked for."""

    text: str
    end_reason: EndReason
    tool_calls: Sequence[ToolCall] = ()
    logprobs: Sequence[ContentLogprob] = ()
    token_ids: Sequence[int] = ()
    prompt_logprobs: Sequence[TokenLogprob | None] = ()


class Reader(Protocol):
    """Reads one answer out of the engine's output, Delta by Delta."""

    def read(self, delta: Delta) -> Piece:
        """What ``delta`` adds; with the last one, all that was held back."""

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        """Why the answer has ended, where the engine ended it with ``stop`` or ``length``, or the reader
        has said ``ended``."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine is given, and how what it gives back is read.

    ``stop_token_ids`` end the answer beside the model's own end of sequence; ``stop`` are the strings
    that the engine has to look for, ``structured`` is what constrains it, beside ``logit_bias``;
    ``skip_special_tokens`` is how the engine has to decode for the reader. Where ``reads_ids`` is set the
    reader needs no text from the engine; where ``ends_early`` is set it may say ``ended``, and so has to
    see the output as it comes.
    """

    token_ids: Sequence[int]
    new_reader: Callable[[], Reader]
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    structured: StructuredOutput | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    skip_special_tokens: bool = True
    reads_ids: bool = False
    ends_early: bool = False


class ChatFormat(Protocol):
    """How one model is spoken to. Nothing in a message's text becomes a control token."""

    def render(self, conversation: Conversation) -> Prompt:
        """The prompt that asks for the next assistant turn. Raises UnrenderablePrompt."""

    @property
    def template_variables(self) -> Set[str]:
        """The names in ``template_kwargs`` that mean something to this format."""

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        """The prompt that asks for a continuation: of a text after what the model's prompts begin with,
        or of ids as they are. Raises UnrenderablePrompt."""

    def plain_ids(self, text: str) -> Sequence[int]:
        """The ids of ``text`` alone."""

    def token_bytes(self, token_id: int) -> bytes:
        """The text of one token, as bytes; nothing for a control token."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each id as the vocabulary writes it; nothing for ids that it does not have."""


def refuse_tools(conversation: Conversation) -> None:
    """For formats without them. Raises UnrenderablePrompt."""
    if conversation.tools:
        raise UnrenderablePrompt("Tools are not supported for this model.", "tools")
    for index, message in enumerate(conversation.messages):
        if message.tool_calls:
            raise UnrenderablePrompt(
                "Tool calls are not supported for this model.", f"messages.{index}.tool_calls"
            )
