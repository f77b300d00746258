"""The chat format of the simulated engine: one token per Unicode code point, and no control tokens."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.chat_format import Prompt
from engine.base import ChatMessage


class CodePointFormat:
    """All message texts, one after the other."""

    def render(self, messages: Sequence[ChatMessage]) -> Prompt:
        return Prompt([ord(character) for message in messages for character in message.content])

    def encode(self, text: str) -> Prompt:
        return Prompt([ord(character) for character in text])
