"""The chat format of the simulated engine: one token per Unicode code point, and no control tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Set

from adapters.chat_format import PLAIN_TEXT, Conversation, Prompt, TextRules, refuse_tools
from adapters.text_reader import TextReader


class CodePointFormat:
    """All message texts, one after the other."""

    template_variables: Set[str] = frozenset()

    def render(self, conversation: Conversation) -> Prompt:
        refuse_tools(conversation)
        return self.encode("".join(message.content for message in conversation.messages), conversation)

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        ids = self.plain_ids(prompt) if isinstance(prompt, str) else prompt
        return Prompt(ids, new_reader, stop=rules.stop, structured=rules.structured)

    def plain_ids(self, text: str) -> Sequence[int]:
        return [ord(character) for character in text]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes_of(token_id)

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
