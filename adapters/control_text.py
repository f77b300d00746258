"""Control tokens' texts, kept out of a tokenizer's sight.

A placeholder stands for what was taken out until the text is whole and its ids are made.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer as Backend


class ControlTexts:
    """What ``backend`` reads as control tokens, and ``others``: texts that mean something where text is
    put together."""

    def __init__(self, backend: Backend, others: tuple[str, ...] = ()) -> None:
        self.backend = backend
        self.plain = without_added_tokens(backend)
        control = {token.content for token in backend.get_added_tokens_decoder().values()} | set(others)
        texts = sorted((text for text in control if text.strip()), key=len, reverse=True)
        # Without any, nothing is ever found.
        self.pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        # A few tokenizers look for some control tokens only after normalizing a text (as to lower case).
        self._normalizer = backend.normalizer if reads_normalized(backend) else None

    def normalized(self, text: str) -> str:
        """``text``, or where something hides in it what the tokenizer makes of it."""
        if self._normalizer is None:
            return text
        normalized: str = self._normalizer.normalize_str(text)
        # What is the same to the model is kept as it was written.
        return normalized if self.pattern.search(normalized) else text


class TakenOut:
    """What was taken out of one prompt's strings.

    A placeholder is letters and digits alone, so that it outlives whatever quotes or escapes a string,
    and has a random part, so that nobody can write one.
    """

    def __init__(self, control: ControlTexts) -> None:
        self._control = control
        self._texts: list[str] = []
        self._name = f"q{secrets.token_hex(8)}q"

    def out_of(self, value: Any) -> Any:
        """A JSON value with placeholders in all of its strings, keys included."""
        match value:
            case str():
                return self._control.pattern.sub(self._take, self._control.normalized(value))
            case Mapping():
                return {self.out_of(key): self.out_of(one) for key, one in value.items()}
            case list() | tuple():
                return [self.out_of(one) for one in value]
        return value

    def ids(self, text: str) -> list[int]:
        """The ids of a text made of such strings."""
        if not self._texts:
            return self._control.backend.encode(text, add_special_tokens=False).ids
        return [token for ids in self._pieces(text) for token in ids]

    def put_back(self, text: str) -> str:
        """``text`` as it would be had nothing been taken out."""
        return "".join(
            self._texts[int(piece)] if index % 2 else piece for index, piece in enumerate(self._split(text))
        )

    def _take(self, match: re.Match[str]) -> str:
        self._texts.append(match[0])
        return f"{self._name}{len(self._texts) - 1}q"

    def _split(self, text: str) -> list[str]:
        return re.split(f"{self._name}([0-9]+)q", text)

    def _pieces(self, text: str) -> Iterator[list[int]]:
        for index, piece in enumerate(self._split(text)):
            if index % 2:
                yield self._control.plain.encode(self._texts[int(piece)], add_special_tokens=False).ids
            elif piece:
                yield self._control.backend.encode(piece, add_special_tokens=False).ids


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
