"""The tables, as the program sees them; ``migrations/`` makes them, ``partitions`` their partitions.

A request is two rows with one id: ``message``, which counts, and ``message_content``, which has the text.
They are written by one statement, so there is no foreign key between them; sums never read text, and text
can go before its counts do. The view ``message_full`` shows both.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import BIGINT, JSONB

from persistence.exact_text import ExactText

metadata = MetaData()

user = Table(
    "user",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    # Sees and does all.
    Column("is_admin", Boolean, nullable=False, server_default=text("false")),
    # The fields of caller_limits.Limits that are not None; of all that the user does.
    Column("limits", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("user.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    # The key's beginning: tells which one it is, and not what it is.
    Column("prefix", Text, nullable=False),
    # SHA-256 of the key, which is random: it can be neither read here nor guessed.
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    # inference, feedback, read, admin.
    Column("scopes", ARRAY(Text), nullable=False),
    # The fields of caller_limits.Limits that are not None; of what comes with this key.
    Column("limits", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # A key with twice the weight is served twice as much where there is not enough for all.
    Column("weight", Float, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("revoke_time", DateTime(timezone=True)),
    Index("api_key_user", "user_id"),
)

conversation = Table(
    "conversation",
    metadata,
    # As the client names it; a name that is not known yet makes a row.
    Column("id", ExactText, primary_key=True),
    Column("user_id", Uuid, ForeignKey("user.id", ondelete="CASCADE")),
    Column("name", ExactText, nullable=False, server_default=""),
    Column("chat_type", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Index("conversation_user", "user_id", "create_time", postgresql_where=text("user_id IS NOT NULL")),
)

message = Table(
    "message",
    metadata,
    # UUIDv7: ordered by time.
    Column("id", Uuid, primary_key=True),
    Column("conversation_id", ExactText, ForeignKey("conversation.id", ondelete="SET NULL")),
    Column("chat_type", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("request_id", ExactText, nullable=False),
    # The life of a gateway that writes the row, see liveness.
    Column("gateway_id", Integer, nullable=False),
    # running, completed, cancelled, timeout, error, shutdown or lost.
    Column("status", Text, nullable=False),
    # stop, length, tool_calls or content_filter where completed, else the status.
    Column("finish_reason", Text),
    Column("prompt_tokens", Integer, nullable=False, server_default="0"),
    Column("completion_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("queue_ms", Float),
    Column("ttft_ms", Float),
    Column("duration_ms", Float),
    Column("error", ExactText),
    Column("meta_data", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # -1: none given yet.
    Column("feedback_score", Integer, nullable=False, server_default="-1"),
    Column("feedback_reason", ExactText, nullable=False, server_default=""),
    # Whose it is, where that is known. No foreign key: a row is still there when its user has gone.
    Column("user_id", Uuid),
    # The last turns of a conversation.
    Index(
        "message_conversation",
        "conversation_id",
        "id",
        postgresql_where=text("conversation_id IS NOT NULL"),
    ),
    # A caller's latest messages.
    Index("message_user", "user_id", "id", postgresql_where=text("user_id IS NOT NULL")),
    # What a dead gateway left.
    Index("message_running", "gateway_id", postgresql_where=text("status = 'running'")),
    postgresql_partition_by="RANGE (id)",
)
"""One row for each request that reached the engine; a partition for each month of UTC."""

message_content = Table(
    "message_content",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("query", ExactText, nullable=False),
    Column("response", ExactText, nullable=False),
    # All messages of the request, where they are more than the query.
    Column("messages", JSONB),
    # Further text: tools, history, the answer's tool_calls, the choices of n.
    Column("details", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    postgresql_partition_by="RANGE (id)",
)
"""The text of a message; a partition for each day of UTC. None where the content policy keeps no text."""

feedback = Table(
    "feedback",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    # The client's own, or made here: the same one twice is the same feedback.
    Column("id", ExactText, primary_key=True),
    Column("user_id", Uuid),
    # 0 to 100, higher is better.
    Column("score", Integer, nullable=False),
    Column("reason", ExactText, nullable=False, server_default=""),
    # The answer as it should have been.
    Column("correction", ExactText),
    Column("create_time", DateTime(timezone=True), nullable=False),
    postgresql_partition_by="RANGE (message_id)",
)
"""All that was said of a message; the latest stands in the message's own row, too. Partitions as those of
message_content, made when they are needed: it is text, and goes when that goes."""

session = Table(
    "session",
    metadata,
    # SHA-256 of the cookie's value, which is random: it can be neither read here nor guessed.
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Uuid, ForeignKey("user.id", ondelete="CASCADE"), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Index("session_user", "user_id"),
    Index("session_expire", "expire_time"),
)

usage_by_day = Table(
    "usage_by_day",
    metadata,
    Column("day", Date, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("status", Text, primary_key=True),
    Column("requests", BIGINT, nullable=False),
    Column("prompt_tokens", BIGINT, nullable=False),
    Column("completion_tokens", BIGINT, nullable=False),
    Column("cached_tokens", BIGINT, nullable=False),
)
"""The sums of months whose rows were dropped."""

limit_use = Table(
    "limit_use",
    metadata,
    # As a Caller's name: key:…, user:… or address:….
    Column("account", Text, primary_key=True),
    # The last day of UTC on which it was used, and the tokens of that day.
    Column("day", Date, nullable=False),
    Column("day_tokens", BIGINT, nullable=False, server_default="0"),
    # Where several gateways share limits, see limit_windows: the seconds of the last minute, as they are
    # counted from 1970, with what was taken in each.
    Column("seconds", ARRAY(BIGINT), nullable=False, server_default="{}"),
    Column("requests", ARRAY(BIGINT), nullable=False, server_default="{}"),
    Column("tokens", ARRAY(BIGINT), nullable=False, server_default="{}"),
    # Which gateways run how many of its requests, and until when that holds.
    Column("holders", ARRAY(BIGINT), nullable=False, server_default="{}"),
    Column("held", ARRAY(BIGINT), nullable=False, server_default="{}"),
    Column("held_until", ARRAY(Float), nullable=False, server_default="{}"),
)
"""How much of its limits an account has used."""

gateway_id = Sequence("gateway_id_seq", data_type=Integer, metadata=metadata, cycle=True)
"""One number for each life of a gateway."""
