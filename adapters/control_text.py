"""Control tokens' texts, kept out of a tokenizer's sight while a prompt is put together as text.

In what a user wrote, whatever could become part of a control token's text gets stand-ins for its marks
(``<``, ``|``, ``[`` and the like), whether it is one already or would be one between a template's own
brackets. Other characters stay, so that templates which look at names and types see them. When the text
is whole, the control tokens in it are those that are not the user's; then the stand-ins are replaced by
what they stand for.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any
from unicodedata import category

from tokenizers import Tokenizer as Backend

from adapters.text_search import Texts

# In Unicode's two planes for private use, with more room behind than there are marks.
_FIRST_STAND_IN, _PLACES = 0xF0000, 0x10000

# What templates look for in roles, tools and schemas; these stay as they are, also where a control token is
# one of them in brackets.
_WORDS = {
    "user", "assistant", "system", "tool", "role", "content", "function", "name", "description", "parameters",
    "arguments", "id", "type", "properties", "required", "items", "enum", "default", "anyOf", "oneOf",
    "allOf", "string", "number", "integer", "boolean", "array", "object", "null",
}  # fmt: skip

# Escapes put something before these, which would have to come back as well.
_QUOTES = frozenset("\"'\\")


class ControlTexts:
    """What ``backend`` reads as control tokens, and ``others``: texts that mean something where text is
    put together."""

    def __init__(self, backend: Backend, others: tuple[str, ...] = ()) -> None:
        self.backend = backend
        self.plain = without_added_tokens(backend)
        added = {id_: token.content for id_, token in backend.get_added_tokens_decoder().items()}
        self.ids = frozenset(id_ for id_, text in added.items() if text.strip())
        texts = [*(text for text in added.values() if text.strip()), *others]
        self._whole = Texts(texts)
        self._reversed = Texts(text[::-1] for text in texts)
        self._longest = max(map(len, texts), default=0)
        self._all = "\0".join(texts)
        words = [text for text in texts if not marks(text, 0, len(text))]
        # Most texts have nothing of these.
        self._hint = re.compile("|".join(map(re.escape, sorted({*re.findall(r"[\W_]", self._all), *words}))))
        self._names = {re.sub(r"^\W+|\W+$", "", text) for text in texts} - _WORDS
        # A few tokenizers look for some control tokens only after normalizing a text (as to lower case).
        self._normalizer = backend.normalizer if reads_normalized(backend) else None

    def normalized(self, text: str) -> str:
        """``text``, or where something hides in it what the tokenizer makes of it."""
        if self._normalizer is None:
            return text
        normalized: str = self._normalizer.normalize_str(text)
        # What is the same to the model is kept as it was written.
        return normalized if self._whole.find(normalized) else text

    def risks(self, text: str) -> Iterator[int]:
        """Where the marks stand in ``text`` that may be part of a control token's text; the first
        character of one that has no marks, or of its name."""
        if self._normalizer is None and text not in self._names and not self._hint.search(text):
            return
        found = self._whole.find(text)
        while found is not None:
            start, end = found
            yield from marks(text, start, end) or [start]
            # Another may begin in it.
            found = self._whole.find(text, start + 1)
        if text in self._names:
            yield 0
        if self._normalizer is not None or text in self._all:
            yield from marks(text, 0, len(text))
            return
        start_reversed = text[: self._longest][::-1]
        yield from marks(text, 0, len(start_reversed) - self._reversed.certain(start_reversed))
        yield from marks(text, self._whole.certain(text), len(text))


class StandIns:
    """Those of one prompt. Nobody can know them beforehand."""

    def __init__(self, control: ControlTexts) -> None:
        self._control = control
        self._next = _FIRST_STAND_IN + secrets.randbelow(_PLACES)
        self._of: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        self._pattern = re.compile(r"(?!)")

    def put_in(self, value: Any) -> Any:
        """A JSON value with stand-ins in all of its strings, keys included."""
        match value:
            case str():
                return self._in_text(self._control.normalized(value))
            case Mapping():
                return {self.put_in(key): self.put_in(one) for key, one in value.items()}
            case list() | tuple():
                return [self.put_in(one) for one in value]
        return value

    def put_back(self, text: str) -> str:
        """``text`` with what the stand-ins stand for."""
        return self._pattern.sub(lambda match: self._originals[match[0]], text)

    def ids(self, text: str) -> list[int]:
        """The ids of a text made of such strings, without stand-ins."""
        control, backend = self._control.ids, self._control.backend
        whole: list[int] = backend.encode(self.put_back(text), add_special_tokens=False).ids
        if not self._of:
            return whole
        guarded = backend.encode(text, add_special_tokens=False)
        if [id_ for id_ in whole if id_ in control] == [id_ for id_ in guarded.ids if id_ in control]:
            return whole
        ids, at = [], 0
        for id_, (start, end) in zip(guarded.ids, guarded.offsets, strict=True):
            if id_ in control:
                ids += [*self._plain_ids(text[at:start]), id_]
                at = end
        return ids + self._plain_ids(text[at:])

    def _plain_ids(self, text: str) -> list[int]:
        ids: list[int] = self._control.plain.encode(self.put_back(text), add_special_tokens=False).ids
        return ids

    def _in_text(self, text: str) -> str:
        risks = set(self._control.risks(text))
        if not risks:
            return text
        return "".join(self._stand_in(one) if at in risks else one for at, one in enumerate(text))

    def _stand_in(self, character: str) -> str:
        if character not in self._of:
            stand_in = self._of[character] = chr(self._next)
            self._next += 1
            # Templates write JSON, with escapes or without, and Python's own form of values.
            self._originals |= {
                json.dumps(stand_in)[1:-1]: json.dumps(character)[1:-1],
                repr(stand_in)[1:-1]: repr(character)[1:-1],
                stand_in: character,
            }
            self._pattern = re.compile("|".join(map(re.escape, self._originals)))
        return self._of[character]


def marks(text: str, start: int, end: int) -> list[int]:
    """Where punctuation and symbols stand between ``start`` and ``end``."""
    return [at for at in range(start, end) if category(text[at])[0] in "PS" and text[at] not in _QUOTES]


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
