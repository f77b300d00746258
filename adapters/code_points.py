"""The chat format of the simulated engine: one token per Unicode code point, and no control tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from adapters.chat_format import Conversation, Prompt, refuse_tools
from adapters.text_reader import TextReader
from engine.base import StructuredOutput


class CodePointFormat:
    """All message texts, one after the other."""

    def render(self, conversation: Conversation) -> Prompt:
        refuse_tools(conversation)
        text = "".join(message.content for message in conversation.messages)
        return self.encode(text, conversation.stop, conversation.structured)

    def encode(
        self, text: str, stop: tuple[str, ...] = (), structured: StructuredOutput | None = None
    ) -> Prompt:
        return Prompt(self.plain_ids(text), new_reader, stop=stop, structured=structured)

    def plain_ids(self, text: str) -> Sequence[int]:
        return [ord(character) for character in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.token_strings(token_ids))

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        return [bytes_of(token_id).decode() for token_id in token_ids]


def bytes_of(token_id: int) -> bytes:
    """A code point in UTF-8; nothing for what is none."""
    return chr(token_id).encode(errors="ignore") if token_id <= sys.maxunicode else b""


READER = TextReader(bytes_of)


def new_reader() -> TextReader:
    """It remembers nothing, so one is enough."""
    return READER
