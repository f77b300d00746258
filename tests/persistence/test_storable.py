from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from persistence.content_policy import ContentPolicy
from persistence.message_row import COLUMNS, MessageRow, encoded
from persistence.storable import INT32, REPLACED, storable, storable_text
from tests.persistence.rows import new_row, rows
from tests.persistence.wild import wild_rows, wild_texts

FULL = ContentPolicy()


def stored(row: MessageRow) -> dict[str, Any]:
    """The values of the row's record, those of JSON read."""
    values = dict(zip(COLUMNS, encoded(row, 1, FULL).values, strict=True))
    return {
        name: json.loads(value) if COLUMNS[name] == "jsonb" and value is not None else value
        for name, value in values.items()
    }


@given(rows)
def test_what_can_be_stored_stays_as_it_is(row: MessageRow) -> None:
    kept = storable(row)
    assert {name: getattr(kept, name) for name in COLUMNS if name != "gateway_id"} == {
        name: getattr(row, name) for name in COLUMNS if name != "gateway_id"
    }
    assert REPLACED not in stored(row)["meta_data"]


@given(wild_texts)
@example("\ud83d\ude00")
@example("a\udc00\ud800")
def test_a_text_is_valid_and_only_what_is_invalid_is_replaced(text: str) -> None:
    kept = storable_text(text)
    kept.encode()
    # A pair of surrogates is one code point; anything else stays where it is.
    pairs = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert len(kept) == len(pairs)
    for one, other in zip(kept, pairs, strict=True):
        assert one == ("\ufffd" if "\ud800" <= other <= "\udfff" else other)


@pytest.mark.parametrize(
    ("fields", "columns", "kept"),
    [
        ({"response": "a\ud800b"}, ["response"], {"response": "a\ufffdb"}),
        ({"query": "\udfff"}, ["query"], {"query": "\ufffd"}),
        ({"prompt_tokens": 2**31}, ["prompt_tokens"], {"prompt_tokens": INT32}),
        ({"cached_tokens": -(2**40)}, ["cached_tokens"], {"cached_tokens": -INT32}),
        ({"details": {"a": float("nan")}}, ["details"], {"details": {"a": None}}),
        ({"details": {"a": [float("-inf"), 1.5]}}, ["details"], {"details": {"a": [None, 1.5]}}),
        ({"details": {"a": 10**5000}}, ["details"], {"details": {"a": None}}),
        ({"details": {"a": b"bytes"}}, ["details"], {"details": {"a": None}}),
        ({"messages": [{"\ud800": "\ud800"}]}, ["messages"], {"messages": [{"\ufffd": "\ufffd"}]}),
        ({"error": "\ud800", "query": "\ud800"}, ["query", "error"], {"error": "\ufffd"}),
    ],
)
def test_what_is_replaced_is_marked(fields: dict[str, Any], columns: list[str], kept: dict[str, Any]) -> None:
    found = stored(new_row(meta_data={"stream": True}, **({"query": "q"} | fields)))
    assert found["meta_data"] == {"stream": True, REPLACED: columns}
    assert {name: found[name] for name in kept} == kept


def test_in_meta_data_too() -> None:
    found = stored(new_row(meta_data={"stream": True, "sampling": {"temperature": float("nan")}}))
    assert found["meta_data"] == {
        "stream": True,
        "sampling": {"temperature": None},
        REPLACED: ["meta_data"],
    }


@pytest.mark.parametrize("depth", [100, 250, 900, 100_000])
def test_json_of_any_depth_loses_no_row(depth: int) -> None:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    row = new_row(details={"deep": deep, "flat": "\0"}, response="kept")
    values = dict(zip(COLUMNS, encoded(row, 1, FULL).values, strict=True))
    assert values["response"] == "kept"
    assert (REPLACED in values["meta_data"]) == (depth > 250)


def test_ids_of_tokens_as_keys_stay() -> None:
    """Beside a NUL, and beside what has to be replaced."""
    for other in ("\0", "\ud800"):
        found = stored(new_row(meta_data={"logit_bias": {17: 1.0}, "stop": other}))
        assert found["meta_data"]["logit_bias"] == {"17": 1.0}


@given(wild_rows, st.sampled_from(["full", "last", "none"]), st.integers(1, 20) | st.just(1000))
def test_encoding_leaves_the_row_as_it_is(row: MessageRow, store: Any, most: int) -> None:
    before = copy.deepcopy(row)
    encoded(row, 1, ContentPolicy(store, most))
    # By their text: NaN is not itself.
    assert repr(row) == repr(before)
