"""Time models, by model and device."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "time_models",
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("device", sa.String(length=200), nullable=False),
        sa.Column("prefill_base_ms", sa.Float(), nullable=False),
        sa.Column("prefill_ms_per_token", sa.Float(), nullable=False),
        sa.Column("prefill_ms_per_token2", sa.Float(), nullable=False),
        sa.Column("decode_base_ms", sa.Float(), nullable=False),
        sa.Column("decode_ms_per_sequence", sa.Float(), nullable=False),
        sa.Column("observations", sa.Integer(), nullable=False),
        sa.Column("updated_at_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model", "device"),
    )
