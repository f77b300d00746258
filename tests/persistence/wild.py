"""Rows and records with all that could be in them, storable or not."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from persistence.message_row import COLUMNS, Record
from tests.persistence.rows import new_row
from tests.strategies import texts

wild_texts = (
    texts | st.text(st.characters()) | st.text(st.characters(categories=["Cs"]) | st.sampled_from("a\0中"))
)
"""Also with lone surrogates, and pairs of them."""

wild_counts = st.integers() | st.integers(-(2**33), 2**33)
wild_floats = st.floats() | st.none()

wild_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | wild_texts | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(wild_texts | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)

calls = st.lists(st.fixed_dictionaries({"name": wild_texts, "arguments": wild_texts}), min_size=1, max_size=3)
details = st.fixed_dictionaries(
    {},
    optional={
        "tools": wild_json,
        "tool_choice": wild_json,
        "history": wild_json,
        "prompt_token_ids": st.lists(st.integers()),
        "tool_calls": calls,
        "choices": st.lists(
            st.fixed_dictionaries({"response": wild_texts}, optional={"tool_calls": calls}),
            min_size=2,
            max_size=3,
        ),
    },
)

wild_rows = st.builds(
    new_row,
    query=wild_texts,
    response=wild_texts,
    conversation_id=st.none() | wild_texts.map(lambda text: text[:255]),
    meta_data=st.dictionaries(wild_texts, wild_json, max_size=4),
    messages=st.none() | st.lists(st.dictionaries(wild_texts, wild_json, max_size=2), max_size=2),
    details=details,
    status=st.sampled_from(["running", "completed", "cancelled", "error", "shutdown"]),
    finish_reason=st.sampled_from([None, "stop", "length", "cancelled"]),
    prompt_tokens=wild_counts,
    completion_tokens=wild_counts,
    cached_tokens=wild_counts,
    queue_ms=wild_floats,
    ttft_ms=wild_floats,
    duration_ms=wild_floats,
    error=st.none() | wild_texts,
)
"""Rows as no request makes them."""

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": wild_texts,
    "int4": wild_counts,
    "float8": wild_floats,
    "jsonb": wild_texts,
}
_NULL = ("conversation_id", "finish_reason", "error", "messages")


@st.composite
def wild_records(draw: st.DrawFn) -> Record:
    """Records whose values have the right types, and nothing else that is right."""
    values: dict[str, Any] = {
        name: draw((st.none() if name in _NULL else st.nothing()) | _VALUES[type_])
        for name, type_ in COLUMNS.items()
        if type_ in _VALUES
    }
    if draw(st.booleans()):
        values |= dict.fromkeys(("query", "response", "messages", "details"))
    moment = draw(st.datetimes(timezones=st.just(UTC))).replace(fold=0)
    # A user who is not there can have no conversation.
    values |= {"id": uuid7(), "create_time": moment, "user_id": None}
    return Record(tuple(values[name] for name in COLUMNS), 0)
