"""The tables, as the program sees them; ``migrations/`` makes them."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Float, Index, Integer, MetaData, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from persistence.exact_text import ExactText

metadata = MetaData()

message = Table(
    "message",
    metadata,
    # UUIDv7: ordered by time.
    Column("id", Uuid, primary_key=True),
    Column("conversation_id", ExactText),
    Column("chat_type", Text, nullable=False),
    Column("query", ExactText, nullable=False),
    Column("response", ExactText, nullable=False, server_default=""),
    Column("meta_data", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # -1: none given yet.
    Column("feedback_score", Integer, nullable=False, server_default="-1"),
    Column("feedback_reason", ExactText, nullable=False, server_default=""),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    # running, completed, cancelled, timeout, error or shutdown.
    Column("status", Text, nullable=False),
    # stop, length or tool_calls, or the status where it is not completed.
    Column("finish_reason", Text),
    Column("prompt_tokens", Integer, nullable=False, server_default="0"),
    Column("completion_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("ttft_ms", Float),
    Column("duration_ms", Float),
    Column("error", ExactText),
    Column("request_id", ExactText, nullable=False),
    Index(
        "message_conversation",
        "conversation_id",
        "id",
        postgresql_where=text("conversation_id IS NOT NULL"),
    ),
)
"""One row for each request that reached the engine."""
