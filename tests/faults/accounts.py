"""What the clients saw, compared with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from persistence.exact_text import from_column
from tests.faults.load import Answer
from tests.faults.postgres import Postgres

ROWS = """
SELECT id, gateway_id, request_id, status, finish_reason, query, response, prompt_tokens, completion_tokens
FROM message_full WHERE starts_with(request_id, $1) ORDER BY id
"""
TEXTS = ("request_id", "query", "response")
# How an answer may be entered whose end its client has not seen.
BROKEN_OFF = ("cancelled", "error", "shutdown", "lost", "timeout", "completed")

Row = dict[str, Any]


def rows_of(server: Postgres, name: str) -> list[Row]:
    """The rows of all requests whose id begins with ``name``."""
    return [decoded(record) for record in server.fetch(ROWS, name)]


def running_rows(server: Postgres) -> int:
    """How many rows of any request still have no end."""
    (found,) = server.fetch("SELECT count(*) FROM message WHERE status = 'running'")
    return int(found["count"])


def decoded(record: asyncpg.Record) -> Row:
    return {key: from_column(value) if key in TEXTS else value for key, value in record.items()}


def compare(answers: Sequence[Answer], rows: Iterable[Row]) -> Counter[str]:
    """Asserts that the rows say what the clients saw; gives how many rows have each status.

    ``rows`` are all of these answers, read when no gateway has anything left to write.
    """
    asked = {answer.request_id: answer for answer in answers}
    found: dict[str, Row] = {}
    for row in rows:
        request_id = row["request_id"]
        assert request_id in asked, f"a row that no one asked for: {row}"
        assert request_id not in found, f"two rows of one request: {row}, {found[request_id]}"
        found[request_id] = row
    for answer in answers:
        row_or_none = found.get(answer.request_id)
        if answer.saw_the_end:
            assert row_or_none is not None, f"its end was seen, and it has no row: {answer}"
            check_ended(answer, row_or_none)
        elif answer.refused:
            assert row_or_none is None, f"refused, and yet a row: {answer}, {row_or_none}"
        elif row_or_none is not None:
            check_broken_off(answer, row_or_none)
    return Counter(row["status"] for row in found.values())


def check_ended(answer: Answer, row: Row) -> None:
    """An answer whose end was seen stands there exactly."""
    assert answer.received == answer.echo, f"not the echo: {answer}"
    assert answer.answer_id is not None
    expected = {
        "id": answer.answer_id.removeprefix("chatcmpl-"),
        "status": "completed",
        "finish_reason": "length" if len(answer.echo) < len(answer.text) else "stop",
        "query": answer.text,
        "response": answer.received,
        "completion_tokens": len(answer.received),
    }
    assert {**row, "id": row["id"].hex}.items() >= expected.items(), f"{row} is not {expected}"
    if answer.usage is not None:
        counts = {name: row[name] for name in ("prompt_tokens", "completion_tokens")}
        assert answer.usage.items() >= counts.items(), f"{row} is not {answer.usage}"


def check_broken_off(answer: Answer, row: Row) -> None:
    """Of an answer that broke off the row has no other text than was generated, and never still runs."""
    assert row["status"] in BROKEN_OFF, f"{row['status']}: {answer}, {row}"
    assert row["query"] == answer.text
    assert answer.echo.startswith(row["response"]), f"{answer}, {row}"
    if row["status"] != "lost":
        # All that was sent had been generated before.
        assert row["response"].startswith(answer.received), f"{answer}, {row}"
        assert row["completion_tokens"] == len(row["response"])
