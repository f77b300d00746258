"""Rows as they are made, and as they were stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from sqlalchemy import select

from persistence.database import Database
from persistence.message_row import MessageRow
from persistence.tables import message, message_content
from tests.strategies import json_values, texts

int32 = st.integers(0, 2**31 - 1)
floats = st.none() | st.floats(0, 1e9)


def new_row(query: str = "question", **fields: Any) -> MessageRow:
    """A row that was begun."""
    return MessageRow(
        endpoint="/v1/chat/completions",
        model="m",
        request_id="r",
        query=query,
        chat_type="llm_chat",
        **fields,
    )


def closed(row: MessageRow, response: str = "answer") -> MessageRow:
    """``row`` with its end written into it."""
    row.status, row.finish_reason, row.response = "completed", "stop", response
    row.prompt_tokens, row.completion_tokens = len(row.query), len(response)
    return row


rows = st.builds(
    new_row,
    query=texts,
    response=texts,
    conversation_id=st.none() | texts,
    meta_data=st.dictionaries(texts, json_values, max_size=4),
    messages=st.none() | st.lists(st.dictionaries(texts, json_values, max_size=2), max_size=2),
    details=st.dictionaries(texts, json_values, max_size=2),
    status=st.sampled_from(["completed", "cancelled", "error", "shutdown"]),
    finish_reason=st.sampled_from([None, "stop", "length", "cancelled"]),
    prompt_tokens=int32,
    completion_tokens=int32,
    cached_tokens=int32,
    queue_ms=floats,
    ttft_ms=floats,
    duration_ms=floats,
    error=st.none() | texts,
)


async def stored(database: Database, ids: Iterable[UUID] | None = None) -> dict[UUID, dict[str, Any]]:
    """The rows in the database with their text, all of them or those of ``ids``."""
    text = [column for column in message_content.c if column.name != "id"]
    query = select(message, *text).outerjoin(message_content, message.c.id == message_content.c.id)
    if ids is not None:
        query = query.where(message.c.id.in_(list(ids)))
    async with database.engine.connect() as connection:
        found = [dict(row) for row in (await connection.execute(query)).mappings()]
    for row in found:
        del row["gateway_id"]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


def expected(row: MessageRow) -> dict[str, Any]:
    """``row`` as it is to be found in the database."""
    return asdict(row) | {"feedback_score": -1, "feedback_reason": ""}
