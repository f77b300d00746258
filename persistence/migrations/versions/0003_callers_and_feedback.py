"""Whose a row is; sessions; feedback.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("message", sa.Column("user_id", sa.Uuid))
    op.create_index(
        "message_user", "message", ["user_id", "id"], postgresql_where=sa.text("user_id IS NOT NULL")
    )
    # A view keeps the columns that it was made with.
    op.execute("DROP VIEW message_full")
    op.execute(
        "CREATE VIEW message_full AS"
        " SELECT message.*, query, response, messages, details"
        " FROM message LEFT JOIN message_content USING (id)"
    )
    op.create_table(
        "session",
        sa.Column("token_hash", sa.LargeBinary, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("user.id", ondelete="CASCADE"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("session_user", "session", ["user_id"])
    op.create_index("session_expire", "session", ["expire_time"])
    op.create_table(
        "feedback",
        sa.Column("message_id", sa.Uuid, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Uuid),
        sa.Column("score", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("correction", sa.Text),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        postgresql_partition_by="RANGE (message_id)",
    )


def downgrade() -> None:
    raise NotImplementedError("Restore a backup: what 0003 keeps has no place in 0002.")
