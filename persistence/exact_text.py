"""Text columns that lose nothing.

PostgreSQL's ``text`` and ``jsonb`` can't hold U+0000. It is kept as two characters, and what would be
mistaken for them is kept as two as well, so that every string of Unicode scalar values comes back as
it was. The escape is U+FDD0, a code point that Unicode sets aside for a program's own use and that no
text has a reason to contain::

    U+0000 <-> U+FDD0 "0"        U+FDD0 <-> U+FDD0 "1"
"""

from __future__ import annotations

import json
import re
from typing import Any

from sqlalchemy import Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

ESCAPE = "\ufdd0"
_SPECIAL = re.compile("[\0\ufdd0]")
_ESCAPED = re.compile("\ufdd0([01])")
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_column(text: str) -> str:
    """``text`` as PostgreSQL can hold it. Raises ValueError for a lone surrogate."""
    if not text.isascii():
        text.encode()
    if "\0" not in text and ESCAPE not in text:
        return text
    return _SPECIAL.sub(lambda match: ESCAPE + ("0" if match[0] == "\0" else "1"), text)


def from_column(stored: str) -> str:
    """The text that ``to_column`` was given."""
    if ESCAPE not in stored:
        return stored
    return _ESCAPED.sub(lambda match: "\0" if match[1] == "0" else ESCAPE, stored)


def json_to_column(value: object) -> str:
    """``value`` as JSON text that ``jsonb`` can hold. Raises ValueError, TypeError or RecursionError for what
    has no such text, as NaN and a lone surrogate."""
    text = _encode_json(value)
    if not text.isascii():
        text.encode()
    # U+0000 is always written as an escape.
    if "\\u0000" not in text and ESCAPE not in text:
        return text
    return _encode_json(_escape(value))


def json_from_column(stored: str) -> Any:
    """The value that ``json_to_column`` was given."""
    value = json.loads(stored)
    return _unescape(value) if ESCAPE in stored else value


def _escape(value: object) -> object:
    match value:
        case str():
            return to_column(value)
        case dict():
            return {_escape(key): _escape(item) for key, item in value.items()}
        case list() | tuple():
            return [_escape(item) for item in value]
        case _:
            return value


def _unescape(value: object) -> object:
    match value:
        case str():
            return from_column(value)
        case dict():
            return {from_column(key): _unescape(item) for key, item in value.items()}
        case list():
            return [_unescape(item) for item in value]
        case _:
            return value


class ExactText(TypeDecorator[str]):
    """TEXT that takes and gives every string."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else to_column(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else from_column(value)
