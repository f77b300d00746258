"""How a model is spoken to: from a conversation to a prompt, and from the engine's output to an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from engine.base import ChatMessage, Delta, FinishReason, StructuredOutput, Tool, ToolCall

EndReason = Literal["stop", "length", "tool_calls"]
"""Why an answer ended by itself, as OpenAI's finish_reason has it."""


class UnrenderablePrompt(Exception):
    """The model's format has no place for what was asked; the message says why.

    ``param`` names the field of the conversation that is at fault, where it is a certain one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a client asks of a chat model.

    ``tools`` are the functions that the model is told of, ``may_call`` those of them that the answer may
    call; with ``must_call`` it has to call one of these. ``stop`` strings end the answer's text before
    them, ``structured`` says what that text has to be.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool] = ()
    may_call: Sequence[Tool] = ()
    must_call: bool = False
    parallel_tool_calls: bool = True
    stop: tuple[str, ...] = ()
    structured: StructuredOutput | None = None


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
    answer."""

    text: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[ContentLogprob] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; the arguments of ``tool_calls`` are JSON text."""

    text: str
    end_reason: EndReason
    tool_calls: Sequence[ToolCall] = ()
    logprobs: Sequence[ContentLogprob] = ()


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
    that the engine has to look for, ``structured`` is what constrains it, beside ``logit_bias``. Where
    ``reads_ids`` is set the reader needs no text from the engine; where ``ends_early`` is set it may say
    ``ended``, and so has to see the output as it comes.
    """

    token_ids: Sequence[int]
    new_reader: Callable[[], Reader]
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    structured: StructuredOutput | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    reads_ids: bool = False
    ends_early: bool = False


class ChatFormat(Protocol):
    """How one model is spoken to. Nothing in a message's text becomes a control token."""

    def render(self, conversation: Conversation) -> Prompt:
        """The prompt that asks for the next assistant turn. Raises UnrenderablePrompt."""

    def encode(
        self, text: str, stop: tuple[str, ...] = (), structured: StructuredOutput | None = None
    ) -> Prompt:
        """The prompt that asks for a continuation of ``text``. Raises UnrenderablePrompt."""

    def plain_ids(self, text: str) -> Sequence[int]:
        """The ids of ``text`` alone."""

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
