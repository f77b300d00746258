"""How much of their limits callers have used.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    numbers = sa.ARRAY(sa.BigInteger)
    op.create_table(
        "limit_use",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("day_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("seconds", numbers, nullable=False, server_default="{}"),
        sa.Column("requests", numbers, nullable=False, server_default="{}"),
        sa.Column("tokens", numbers, nullable=False, server_default="{}"),
        sa.Column("holders", numbers, nullable=False, server_default="{}"),
        sa.Column("held", numbers, nullable=False, server_default="{}"),
        sa.Column("held_until", sa.ARRAY(sa.Float), nullable=False, server_default="{}"),
    )


def downgrade() -> None:
    op.drop_table("limit_use")
