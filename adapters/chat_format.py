"""How a model is spoken to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.base import ChatMessage


class UnrenderablePrompt(Exception):
    """The model's format has no place for these messages; the message says why."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine is given for a conversation: ids, and the ids that end the answer beside the
    model's own end of sequence."""

    token_ids: Sequence[int]
    stop_token_ids: tuple[int, ...] = ()


class ChatFormat(Protocol):
    """How one model is spoken to. Nothing in a message's text becomes a control token."""

    def render(self, messages: Sequence[ChatMessage]) -> Prompt:
        """The prompt that asks for the next assistant turn. Raises UnrenderablePrompt."""

    def encode(self, text: str) -> Prompt:
        """The prompt that asks for a continuation of ``text``. Raises UnrenderablePrompt."""
