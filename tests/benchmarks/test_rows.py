"""The pure parts of the benchmark of rows: where they are, and where its tables go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import write_between_markers
from benchmarks.row_filling import FEW_ROWS, SPAN_DAYS, plan
from persistence.partitions import CONTENT, MESSAGE

moments = st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@given(st.integers(3 * FEW_ROWS, 10**7), moments)
def test_the_rows_are_all_there_and_no_more_than_a_day_in_a_slice(rows: int, now: datetime) -> None:
    layout = plan(rows, now)
    assert layout.rows == rows
    assert layout.slices[-1].stop == now
    for slice_ in layout.slices:
        assert slice_.rows >= 0
        assert slice_.stop <= CONTENT.after(CONTENT.start(slice_.start))
    for one, next_ in pairwise(layout.slices):
        assert one.first + one.rows == next_.first
        assert one.stop <= next_.start


@given(st.integers(3 * FEW_ROWS, 10**7), moments)
def test_a_day_and_a_month_before_all_others_have_the_same_few_rows_in_every_database(
    rows: int, now: datetime
) -> None:
    layout = plan(rows, now)
    of_day = [slice_ for slice_ in layout.slices if CONTENT.start(slice_.start) == layout.few_day]
    of_month = [slice_ for slice_ in layout.slices if MESSAGE.start(slice_.start) == layout.few_month]
    assert [slice_.rows for slice_ in of_day] == [slice_.rows for slice_ in of_month] == [FEW_ROWS]
    assert MESSAGE.after(layout.few_month) <= now - timedelta(days=SPAN_DAYS)


def test_tables_go_between_the_markers_of_their_name_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    text = "a\n<!-- {0} benchmark: begin -->\nold\n<!-- {0} benchmark: end -->\nb\n"
    document.write_text(text.format("one") + text.format("two"))
    write_between_markers(document, "two", "new")
    assert document.read_text() == text.format("one") + text.format("two").replace("old", "new")
    with pytest.raises(ValueError, match="three"):
        write_between_markers(document, "three", "new")
