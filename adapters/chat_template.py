"""The chat format of a model whose tokenizer brings its own chat template.

A template gives text, and a tokenizer reads control tokens out of text wherever they stand. So that
nothing a user writes becomes one, every control token's text inside a message is taken out before the
template runs, and its plain ids are put back into the result. A conversation without such text, which
is nearly every one, is encoded as a whole and gives the ids that the model was trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence, Set
from typing import cast

from tokenizers import Tokenizer as Backend

from adapters.chat_format import PLAIN_TEXT, Conversation, Prompt, TextRules, UnrenderablePrompt, refuse_tools
from adapters.text_reader import TextReader
from adapters.token_bytes import token_bytes
from engine.base import Tokenizer

# Roles that templates of other vendors do not know, as the ones they do.
ROLES = {"developer": "system", "function": "tool"}

# Stands for the n-th control text while a template runs: private-use code points around a number.
_PLACEHOLDER = "\uf8f0{}\uf8f1"
_PLACEHOLDERS = re.compile("\uf8f0([0-9]+)\uf8f1")


class ChatTemplateFormat:
    """Renders with ``tokenizer``'s own template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._backend = cast("Backend", tokenizer.backend_tokenizer)
        self._plain = without_added_tokens(self._backend)
        control = [text for text in tokenizer.get_added_vocab() if text.strip()]
        # A few tokenizers look for some control tokens only after normalizing a text (as to lower case).
        self._normalizer = self._backend.normalizer if reads_normalized(self._backend) else None
        alternatives = "|".join(re.escape(text) for text in sorted(control, key=len, reverse=True))
        # A placeholder that a user wrote is taken out like a control token.
        self._control = re.compile(f"{alternatives}|\uf8f0|\uf8f1" if control else "\uf8f0|\uf8f1")
        self._token_bytes = token_bytes(self._backend)
        self._reader = TextReader(self._token_bytes)

    def render(self, conversation: Conversation) -> Prompt:
        """Raises UnrenderablePrompt when the model has no template, or its template refuses."""
        if not self._tokenizer.chat_template:
            raise UnrenderablePrompt("This model has no chat template; use /v1/completions.")
        refuse_tools(conversation)
        return self._prompt(self._chat_ids(conversation), conversation)

    @property
    def template_variables(self) -> Set[str]:
        """None yet."""
        return frozenset()

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        """A text comes after the tokenizer's own beginning of sequence, if it has one."""
        ids = self._plain.encode(prompt, add_special_tokens=True).ids if isinstance(prompt, str) else prompt
        if not ids:
            raise UnrenderablePrompt("The prompt must not be empty for this model.")
        return self._prompt(ids, rules)

    def plain_ids(self, text: str) -> Sequence[int]:
        """The ids of ``text`` alone."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def token_bytes(self, token_id: int) -> bytes:
        """The text of one token, as bytes; nothing for a control token."""
        return self._token_bytes(token_id)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return self._backend.decode(token_ids, skip_special_tokens=False)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each id as the vocabulary writes it; nothing for ids that it does not have."""
        return [self._backend.id_to_token(token_id) or "" for token_id in token_ids]

    def _prompt(self, ids: Sequence[int], rules: TextRules) -> Prompt:
        return Prompt(
            ids,
            self._new_reader,
            stop=rules.stop,
            structured=rules.structured,
            skip_special_tokens=rules.skip_special_tokens,
        )

    def _new_reader(self) -> TextReader:
        # It remembers nothing, so one is enough.
        return self._reader

    def _chat_ids(self, conversation: Conversation) -> Sequence[int]:
        taken: list[str] = []

        def take(match: re.Match[str]) -> str:
            taken.append(match[0])
            return _PLACEHOLDER.format(len(taken) - 1)

        messages = [
            {
                "role": ROLES.get(message.role, message.role),
                "content": self._control.sub(take, self._normalized(message.content)),
            }
            for message in conversation.messages
        ]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            # Templates refuse with jinja2's own exceptions.
            raise UnrenderablePrompt(f"The model's chat template refuses these messages: {error}") from error
        if not taken:
            return self._backend.encode(text, add_special_tokens=False).ids
        return [token for ids in self._pieces(text, taken) for token in ids]

    def _normalized(self, text: str) -> str:
        if self._normalizer is None:
            return text
        normalized: str = self._normalizer.normalize_str(text)
        # What is the same to the model is kept as it was written where nothing hides in it.
        return normalized if self._control.search(normalized) else text

    def _pieces(self, text: str, taken: list[str]) -> Iterator[list[int]]:
        """The ids of the template's text, and of what was taken out of it, in their order."""
        for index, piece in enumerate(_PLACEHOLDERS.split(text)):
            if index % 2:
                yield self._plain.encode(taken[int(piece)], add_special_tokens=False).ids
            elif piece:
                yield self._backend.encode(piece, add_special_tokens=False).ids


def without_added_tokens(backend: Backend) -> Backend:
    """A copy that reads no control token out of a text, special or not; runs of spaces are none."""
    description = json.loads(backend.to_str())
    description["added_tokens"] = [
        token for token in description["added_tokens"] if not token["content"].strip()
    ]
    return Backend.from_str(json.dumps(description))


def reads_normalized(backend: Backend) -> bool:
    """Whether some added token is looked for in the normalized text."""
    return backend.normalizer is not None and any(
        token.normalized for token in backend.get_added_tokens_decoder().values()
    )
