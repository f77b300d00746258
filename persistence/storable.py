"""What PostgreSQL can't store, replaced: no row is lost for a value in it.

::

    a lone surrogate                         U+FFFD
    NaN, infinity, no value of JSON, and
    numbers of thousands of digits           null
    a count beyond int4                      the nearest that fits

U+0000 needs no replacement, see ``exact_text``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persistence.message_row import MessageRow

INT32 = 2**31 - 1

# meta_data's list of the columns in which something was replaced.
REPLACED = "replaced"

_TEXTS = ("conversation_id", "model", "request_id", "query", "response", "error")
_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")
_JSON = ("meta_data", "messages", "details")
REPLACEABLE = (*_TEXTS, *_COUNTS, *_JSON)

# Of JSON; below it, null.
_MOST_DEPTH = 200
# Python writes no longer integers.
_MOST_BITS = 13_000


def storable(row: MessageRow) -> MessageRow:
    """A copy of ``row`` that can be stored; its meta_data says what was ``replaced`` in it."""
    texts = {name: getattr(row, name) for name in _TEXTS}
    found: dict[str, Any] = {name: storable_text(text) for name, text in texts.items() if text is not None}
    found |= {name: storable_count(getattr(row, name)) for name in _COUNTS}
    found |= {name: _json(getattr(row, name), 0) for name in _JSON}
    changed = [name for name, value in found.items() if value != getattr(row, name)]
    if changed:
        found["meta_data"] = {**found["meta_data"], REPLACED: changed}
    return replace(row, **found)


def storable_text(text: str) -> str:
    """``text`` as UTF-8 can have it."""
    # What is a pair of surrogates in UTF-16 is one code point.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def storable_count(count: int) -> int:
    """``count`` as int4 can have it."""
    return max(min(count, INT32), -INT32)


def _json(value: Any, depth: int) -> Any:
    match value:
        case None | bool():
            return value
        case str():
            return storable_text(value)
        case int():
            return value if value.bit_length() <= _MOST_BITS else None
        case float():
            return value if math.isfinite(value) else None
        case dict() if depth < _MOST_DEPTH:
            return {_key(key, depth): _json(item, depth + 1) for key, item in value.items()}
        case list() | tuple() if depth < _MOST_DEPTH:
            items = [_json(item, depth + 1) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        case _:
            return None


def _key(key: Any, depth: int) -> str | int:
    """A name as JSON has it; a number is a token's id."""
    match key:
        case str():
            return storable_text(key)
        case int() if key.bit_length() <= _MOST_BITS:
            return key
        case _:
            return str(_json(key, depth))
