"""Content apart from counts, both in partitions; users, conversations, sums that stay.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TEXTS = ("tools", "tool_choice", "parallel_tool_calls", "function_call", "tool_calls", "choices", "history",
          "prompt_token_ids")  # fmt: skip
# A UUIDv7 begins with 48 bits of milliseconds (RFC 9562, 5.7).
_MADE = "to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"
_START = f"date_trunc('{{step}}', {_MADE} AT TIME ZONE 'UTC')"
# The partitions that the rows of 0001 need: the first moment of each, and of the next.
_PERIODS = f"SELECT DISTINCT {_START} AS start, {_START} + interval '1 {{step}}' AS stop FROM message_0001"
_BOUND = (
    "rpad(lpad(to_hex((extract(epoch FROM {moment} AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0'), 32, '0')"
)
_STORAGE = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,"
    " autovacuum_vacuum_insert_scale_factor = 0.05"
)


def upgrade() -> None:
    op.execute("ALTER TABLE message RENAME TO message_0001")
    op.execute("ALTER INDEX message_pkey RENAME TO message_0001_pkey")
    op.execute("DROP INDEX message_conversation")
    op.execute("CREATE SEQUENCE gateway_id_seq AS integer CYCLE")
    _create_tables()
    op.execute(
        "CREATE VIEW message_full AS"
        " SELECT message.*, query, response, messages, details"
        " FROM message LEFT JOIN message_content USING (id)"
    )
    _make_partitions("message", "month", "YYYY_MM")
    _make_partitions("message_content", "day", "YYYY_MM_DD")
    _move_rows()
    op.drop_table("message_0001")


def downgrade() -> None:
    raise NotImplementedError("Restore a backup: what 0002 keeps has no place in 0001.")


def _create_tables() -> None:
    op.create_table(
        "user",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("username", sa.Text, nullable=False, unique=True),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "conversation",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("user.id", ondelete="CASCADE")),
        sa.Column("name", sa.Text, nullable=False, server_default=""),
        sa.Column("chat_type", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index(
        "conversation_user",
        "conversation",
        ["user_id", "create_time"],
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_table(
        "message",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("conversation_id", sa.Text, sa.ForeignKey("conversation.id", ondelete="SET NULL")),
        sa.Column("chat_type", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("gateway_id", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("prompt_tokens", sa.Integer, nullable=False, server_default="0"),
        sa.Column("completion_tokens", sa.Integer, nullable=False, server_default="0"),
        sa.Column("cached_tokens", sa.Integer, nullable=False, server_default="0"),
        sa.Column("queue_ms", sa.Float),
        sa.Column("ttft_ms", sa.Float),
        sa.Column("duration_ms", sa.Float),
        sa.Column("error", sa.Text),
        sa.Column("meta_data", JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("feedback_score", sa.Integer, nullable=False, server_default="-1"),
        sa.Column("feedback_reason", sa.Text, nullable=False, server_default=""),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index(
        "message_conversation",
        "message",
        ["conversation_id", "id"],
        postgresql_where=sa.text("conversation_id IS NOT NULL"),
    )
    op.create_index(
        "message_running", "message", ["gateway_id"], postgresql_where=sa.text("status = 'running'")
    )
    op.create_table(
        "message_content",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("messages", JSONB),
        sa.Column("details", JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_table(
        "usage_by_day",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    )


def _make_partitions(table: str, step: str, name_format: str) -> None:
    """For the rows that are there; the gateway makes those of the time to come."""
    bounds = ", ".join(
        f"{_BOUND.format(moment=moment)} AS {name}" for moment, name in (("start", "first"), ("stop", "next"))
    )
    periods = _PERIODS.format(step=step)
    op.execute(f"""
        DO $$ DECLARE period record; BEGIN
            FOR period IN SELECT to_char(start, '{name_format}') AS name, {bounds} FROM ({periods}) LOOP
                EXECUTE format('CREATE TABLE %I PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)'
                               ' WITH ({_STORAGE})',
                               '{table}_' || period.name, period.first, period.next);
            END LOOP;
        END $$
    """)


def _move_rows() -> None:
    op.execute("""
        INSERT INTO conversation (id, chat_type, create_time)
        SELECT DISTINCT ON (conversation_id) conversation_id, chat_type, create_time FROM message_0001
        WHERE conversation_id IS NOT NULL ORDER BY conversation_id, id
    """)
    texts = "ARRAY[" + ", ".join(f"'{name}'" for name in _TEXTS) + "]"
    # Gateway 0 has never lived: what is running there is lost.
    op.execute(f"""
        INSERT INTO message (id, conversation_id, chat_type, create_time, endpoint, model, request_id,
            gateway_id, status, finish_reason, prompt_tokens, completion_tokens, cached_tokens, queue_ms,
            ttft_ms, duration_ms, error, meta_data, feedback_score, feedback_reason)
        SELECT id, conversation_id, chat_type, create_time, endpoint, model, request_id, 0, status,
            finish_reason, prompt_tokens, completion_tokens, cached_tokens, (meta_data->>'queue_ms')::float8,
            ttft_ms, duration_ms, error, meta_data - {texts} - ARRAY['messages', 'queue_ms'],
            feedback_score, feedback_reason
        FROM message_0001
    """)
    op.execute(f"""
        INSERT INTO message_content (id, query, response, messages, details)
        SELECT id, query, response, meta_data->'messages',
            coalesce((SELECT jsonb_object_agg(key, value) FROM jsonb_each(meta_data)
                      WHERE key = ANY({texts})), '{{}}'::jsonb)
        FROM message_0001
    """)
