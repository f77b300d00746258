from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from persistence.backlog import Backlog
from persistence.database import Database
from persistence.exact_text import ESCAPE, from_column, json_from_column, json_to_column, to_column
from persistence.recorder import Recorder
from tests.persistence.rows import expected, new_row, rows, stored
from tests.strategies import json_values, texts

# Little else than what the escape is made of.
escapes = st.text(alphabet=f"\0{ESCAPE}01\\u")


@given(texts | escapes)
@example("\0")
@example(ESCAPE + "0")
def test_every_text_comes_back_as_it_was(text: str) -> None:
    kept = to_column(text)
    assert "\0" not in kept
    assert from_column(kept) == text


@given(texts | escapes, texts | escapes)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (to_column(one) == to_column(other)) == (one == other)


@given(st.text(st.characters(exclude_characters=f"\0{ESCAPE}", exclude_categories=["Cs"])))
def test_a_text_that_postgresql_can_hold_is_stored_as_it_is(text: str) -> None:
    assert to_column(text) == text


@given(json_values | st.dictionaries(escapes, escapes))
@example({"\0": "\0", f"{ESCAPE}0": [f"{ESCAPE}1", "\\u0000"]})
def test_every_json_value_comes_back_as_it_was(value: object) -> None:
    kept = json_to_column(value)
    assert "\0" not in kept
    # Nothing that jsonb would refuse: no escape that means U+0000.
    assert "\\u0000" not in kept.replace("\\\\", "")
    assert json_from_column(kept) == value


def test_a_tuple_is_kept_as_a_list() -> None:
    assert json_from_column(json_to_column({"a": ("\0", "b")})) == {"a": ["\0", "b"]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(rows, min_size=1, max_size=5))
async def test_postgresql_gives_every_row_back_as_it_was(
    database: Database, tmp_path: Path, written: list[Any]
) -> None:
    recorder = Recorder(database, Backlog(tmp_path, 2**30))
    await recorder.start()
    for row in written:
        assert await recorder.close(row, 30)
    await recorder.stop(30)
    assert await stored(database, [row.id for row in written]) == {row.id: expected(row) for row in written}


@pytest.mark.parametrize(
    "value", [0.1, 1e-7, 2.0, 0.30000000000000004, 10**40, {"max_tokens": 10**300}, {"": None}]
)
async def test_postgresql_gives_numbers_back_as_they_were(
    database: Database, recorder: Recorder, value: Any
) -> None:
    row = new_row(meta_data={"value": value})
    assert await recorder.close(row, 30)
    assert (await stored(database))[row.id]["meta_data"] == {"value": value}
