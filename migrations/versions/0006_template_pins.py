"""Templates that are kept in GPUs' caches."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "template_pins",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("template_id", sa.Integer(), nullable=False),
        sa.Column("reference", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("max_replicas", sa.Integer(), nullable=False),
        sa.Column("expires_at_s", sa.Float(), nullable=True),
        sa.Column("created_at_s", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=False),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"]),
        sa.PrimaryKeyConstraint("tenant", "template_id", "reference", "model"),
    )
