"""Which template a request named, and sums of what templates saved."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("usage", schema=None) as batch_op:
        batch_op.add_column(sa.Column("template_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("template", sa.String(length=63), nullable=True))
        batch_op.add_column(sa.Column("template_version", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("template_tokens", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("saved_ms", sa.Float(), nullable=True))
    op.create_table(
        "template_hours",
        sa.Column("hour_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("template_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prefix_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("saved_us", sa.BigInteger(), nullable=False),
        sa.Column("hit_ttfts", sa.BigInteger(), nullable=False),
        sa.Column("hit_ttft_us", sa.BigInteger(), nullable=False),
        sa.Column("miss_ttfts", sa.BigInteger(), nullable=False),
        sa.Column("miss_ttft_us", sa.BigInteger(), nullable=False),
        sa.Column("last_used_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hour_s", "template_id", "number", "tenant"),
    )
