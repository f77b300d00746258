"""The comparison with what was killed: it sees each thing that may not be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.accounts import Row
from tests.faults.killed import Kill, check_kills
from tests.faults.load import Answer

KILLED, LIVES = 7, 8
KILLS = [Kill(10.0, 10.1, KILLED)]


def broken(**changes: Any) -> Answer:
    """A stream that broke off when a gateway was killed."""
    answer = Answer("one", "What is this?", 13, stream=True, leaves_after=None, began=9.5)
    answer.status, answer.received, answer.ended = 200, "Wha", 10.2
    answer.failure = "the stream broke off without a word"
    return replace(answer, **changes)


def ended(**changes: Any) -> Answer:
    return broken(saw_the_end=True, failure=None, received="What is this?", **changes)


def row(status: str = "lost", gateway_id: int = KILLED) -> Row:
    return {"request_id": "one", "status": status, "gateway_id": gateway_id}


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        (broken(), [row()]),
        (broken(), [row("running")]),
        # It was at its end.
        (broken(), [row("completed")]),
        # It had only begun.
        (broken(), []),
        (broken(status=None, received="", failure="ReadError: "), []),
        (broken(status=500, received="", failure="Internal Server Error"), []),
        # A router asked another one.
        (ended(), [row(), row("completed", LIVES)]),
        (ended(ended=9.9), [row("completed")]),
        # Its client had left before it was noticed.
        (broken(left=True, failure=None, ended=9.9), [row()]),
        (broken(left=True, failure=None, ended=9.9), [row("cancelled", LIVES)]),
    ],
)
def test_what_may_be(answer: Answer, rows: list[Row]) -> None:
    check_kills([answer], rows, KILLS, in_a_row_after=3)


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        (broken(), [row(gateway_id=LIVES)]),
        (broken(), [row("completed", LIVES)]),
        (broken(ended=9.9), [row()]),
        (broken(began=10.2), [row()]),
        (broken(began=10.2, left=True, failure=None), [row()]),
        (broken(began=10.2, left=True, failure=None), []),
        (ended(), [row("completed"), row("lost", LIVES)]),
        (ended(began=10.2), [row("running"), row("completed", LIVES)]),
        (broken(received="What"), []),
        (broken(code="engine_unavailable"), []),
        (broken(status=503, received="", failure="no replica"), []),
        (broken(status=None, received="", failure="ReadTimeout: "), []),
        (broken(stream=False, received="", failure="not JSON"), []),
    ],
)
def test_what_may_not_be(answer: Answer, rows: list[Row]) -> None:
    with pytest.raises(AssertionError):
        check_kills([answer], rows, KILLS, in_a_row_after=3)
