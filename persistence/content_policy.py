"""How much of a request's text its row keeps.

::

    store_content   message_content                           meta_data
    full            query, response, messages, details        all
    last            query, response; of details the answer    all
    none            no row                                    numbers, words of our own, the client's labels

``most_characters`` bounds each text. Of the query, the response, each choice's response, each call's
arguments and the error the beginning is kept; of anything else that is made of text nothing, where its
JSON text is longer. meta_data's ``cut`` says what was cut, and how many characters it had: ``{"response":
1234567, "choices.1.response": 2000000, "messages": 3000000, "sampling.stop": 1500000}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from persistence.exact_text import json_to_column, to_column
from persistence.storable import storable_text
from persistence.without_text import TEXTLESS, without_text

if TYPE_CHECKING:
    from persistence.message_row import MessageRow

StoreContent = Literal["full", "last", "none"]

CUT = "cut"

# Of details, what the model wrote.
_ANSWER = ("tool_calls", "choices")


class Texts(NamedTuple):
    """The columns that a policy decides on, as the driver takes them; ``query`` is None where none of the
    text is kept."""

    error: str | None
    meta_data: str
    query: str | None = None
    response: str | None = None
    messages: str | None = None
    details: str | None = None


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """What rows keep, and the most characters of one text."""

    store_content: StoreContent = "full"
    most_characters: int = 1024**2

    def texts_of(self, row: MessageRow) -> Texts:
        """Leaves ``row`` as it is. Raises ValueError, TypeError or RecursionError for what is not
        ``storable``."""
        if self.store_content == "none":
            return Texts(None, json_to_column(without_text(row.meta_data)))
        details, messages = row.details, row.messages
        if self.store_content == "last":
            details, messages = {name: details[name] for name in _ANSWER if name in details}, None
        texts = Texts(
            None if row.error is None else to_column(row.error),
            json_to_column(row.meta_data),
            to_column(row.query),
            to_column(row.response),
            None if messages is None else json_to_column(messages),
            json_to_column(details),
        )
        # No text is longer than what it is a part of.
        if max(len(text) for text in texts if text is not None) <= self.most_characters:
            return texts
        return self._cut(row, messages, details)

    def remark(self, text: str) -> str | None:
        """What is kept of ``text`` that somebody says of a message: None where no text is; of one that is too
        long the beginning, and how many characters it had."""
        if self.store_content == "none":
            return None
        if len(text) > self.most_characters:
            text = f"{text[: self.most_characters]} […cut, {len(text)} characters]"
        return storable_text(text)

    def _cut(self, row: MessageRow, messages: list[dict[str, Any]] | None, details: dict[str, Any]) -> Texts:
        cuts = Cuts(self.most_characters)
        error = cuts.beginning(row.error, "error")
        query, response = cuts.beginning(row.query, "query"), cuts.beginning(row.response, "response")
        meta_data = cuts.meta_data(row.meta_data)
        messages = None if cuts.too_long(messages, "messages") else messages
        details = cuts.details(details)
        if cuts.lengths:
            meta_data[CUT] = cuts.lengths
        return Texts(
            None if error is None else to_column(error),
            json_to_column(meta_data),
            to_column(query),
            to_column(response),
            None if messages is None else json_to_column(messages),
            json_to_column(details),
        )


FULL = ContentPolicy()


class Cuts:
    """Cuts texts to ``most`` characters; ``lengths`` has what it cut, by its place, and its characters."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.lengths: dict[str, int] = {}

    def beginning(self, value: Any, place: str) -> Any:
        """``value`` with the beginnings of the strings in it."""
        match value:
            case str() if len(value) > self._most:
                self.lengths[place] = len(value)
                return value[: self._most]
            case list():
                return [self.beginning(item, f"{place}.{index}") for index, item in enumerate(value)]
            case dict():
                return {key: self.beginning(item, f"{place}.{key}") for key, item in value.items()}
            case _:
                return value

    def too_long(self, value: object, place: str) -> bool:
        """Whether ``value``, where it may have text in it, is to be left out."""
        if not isinstance(value, str | list | tuple | dict):
            return False
        length = len(value) if isinstance(value, str) else len(json_to_column(value))
        if length > self._most:
            self.lengths[place] = length
        return length > self._most

    def details(self, details: dict[str, Any]) -> dict[str, Any]:
        """The answer's part cut, of the rest only what is short enough."""
        return {
            name: self.beginning(value, name) if name in _ANSWER else value
            for name, value in details.items()
            if name in _ANSWER or not self.too_long(value, name)
        }

    def meta_data(self, meta_data: dict[str, Any]) -> dict[str, Any]:
        """Without the values that are too long; what has no text, and the labels, which are short, stay."""
        kept: dict[str, Any] = {}
        for name, value in meta_data.items():
            if name == "sampling" and isinstance(value, dict):
                kept[name] = self._short(value, f"{name}.")
            elif name in TEXTLESS or not self.too_long(value, name):
                kept[name] = value
        return kept

    def _short(self, values: dict[str, Any], place: str) -> dict[str, Any]:
        return {name: value for name, value in values.items() if not self.too_long(value, place + name)}
