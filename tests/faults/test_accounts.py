"""The comparison itself: it sees each thing that may not be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tests.faults.accounts import Row, compare
from tests.faults.load import Answer

ID = UUID("0190a5d6-0000-7000-8000-000000000001")


def seen(**changes: Any) -> Answer:
    """An answer whose end was seen, cut by max_tokens."""
    answer = Answer("one", "What is this?", 4, stream=True, leaves_after=None)
    answer.status, answer.saw_the_end = 200, True
    answer.answer_id, answer.received = f"chatcmpl-{ID.hex}", "What"
    return replace(answer, **changes)


def row(**changes: Any) -> Row:
    """The row of it."""
    return {
        "id": ID,
        "request_id": "one",
        "status": "completed",
        "finish_reason": "length",
        "query": "What is this?",
        "response": "What",
        "prompt_tokens": 13,
        "completion_tokens": 4,
    } | changes


BROKEN_OFF = seen(saw_the_end=False, received="Wh")


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        (seen(), [row()]),
        (seen(usage={"prompt_tokens": 13, "completion_tokens": 4, "total_tokens": 17}), [row()]),
        # What broke off may be there in part, as lost, to its end, or not at all.
        (
            BROKEN_OFF,
            [row(status="cancelled", finish_reason="cancelled", response="Wha", completion_tokens=3)],
        ),
        (BROKEN_OFF, [row(status="lost", response="", completion_tokens=0)]),
        (BROKEN_OFF, [row()]),
        (BROKEN_OFF, []),
        (seen(saw_the_end=False, received="", status=503, code="database_unavailable"), []),
    ],
)
def test_what_may_be(answer: Answer, rows: list[Row]) -> None:
    assert compare([answer], rows).total() == len(rows)


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        (seen(), []),
        (seen(), [row(), row(id=UUID(int=ID.int + 1))]),
        (seen(), [row(), row(request_id="two")]),
        (seen(), [row(id=UUID(int=ID.int + 1))]),
        (seen(), [row(response="Wha")]),
        (seen(), [row(status="lost")]),
        (seen(), [row(status="running")]),
        (seen(), [row(query="What is that?")]),
        (seen(), [row(finish_reason="stop")]),
        (seen(), [row(completion_tokens=3)]),
        (seen(received="Wha"), [row(response="Wha", completion_tokens=3)]),
        (seen(usage={"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}), [row()]),
        (BROKEN_OFF, [row(status="running", response="", completion_tokens=0)]),
        (BROKEN_OFF, [row(status="cancelled", response="W", completion_tokens=1)]),
        (BROKEN_OFF, [row(status="cancelled", response="Whe", completion_tokens=3)]),
        (BROKEN_OFF, [row(status="cancelled", response="Wha", completion_tokens=4)]),
        (seen(saw_the_end=False, received="", status=503, code="database_unavailable"), [row()]),
    ],
)
def test_what_may_not_be(answer: Answer, rows: list[Row]) -> None:
    with pytest.raises(AssertionError):
        compare([answer], rows)
