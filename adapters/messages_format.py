"""The chat format of an engine that is handed messages: nothing becomes ids here."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NoReturn

from adapters.chat_format import PLAIN_TEXT, Conversation, Prompt, TextRules, UnrenderablePrompt
from adapters.told_reader import ToldReader


class _Every(frozenset[str]):
    """Which names mean something is the server's own matter."""

    def __contains__(self, name: Any) -> bool:
        return True


class MessagesFormat:
    """No prompt has ids: messages, tools and constraints are told to the engine as they were asked."""

    template_variables: Set[str] = _Every()

    def render(self, conversation: Conversation) -> Prompt:
        return self._prompt(conversation)

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        """Raises UnrenderablePrompt for ids."""
        if not isinstance(prompt, str):
            no_ids()
        return self._prompt(rules)

    def plain_ids(self, text: str) -> Sequence[int]:
        """Raises UnrenderablePrompt."""
        no_ids()

    def token_bytes(self, token_id: int) -> bytes:
        """Nothing: no token is told by its id."""
        return b""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Raises UnrenderablePrompt."""
        no_ids()

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Raises UnrenderablePrompt."""
        no_ids()

    def _prompt(self, rules: TextRules) -> Prompt:
        return Prompt((), ToldReader, stop=rules.stop, structured=rules.structured)


def no_ids() -> NoReturn:
    """Raises UnrenderablePrompt."""
    raise UnrenderablePrompt(
        "Another server answers here, which is handed text: its model's token ids are not known.", "prompt"
    )
