"""Sums of usage by hour, GPU time and cost."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_HOUR = {
    "sqlite": "CAST(created_at_s AS INTEGER) / 3600 * 3600",
    "postgresql": "CAST(floor(created_at_s / 3600) AS BIGINT) * 3600",
}


def upgrade() -> None:
    with op.batch_alter_table("usage", schema=None) as batch_op:
        batch_op.add_column(sa.Column("gpu_ms", sa.Float(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("cost_micros", sa.BigInteger(), nullable=True))
    op.create_table(
        "usage_hours",
        sa.Column("hour_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("key_id", sa.String(length=12), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("gpu_us", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=True),
        sa.Column("ttfts", sa.BigInteger(), nullable=False),
        sa.Column("ttft_us", sa.BigInteger(), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour_s", "tenant", "key_id", "model", "status"),
    )
    op.create_index("ix_usage_hours_tenant_hour_s", "usage_hours", ["tenant", "hour_s"], unique=False)
    op.execute("UPDATE usage SET prompt_tokens = 0 WHERE attempts = 0")  # as they are written now
    hour = _HOUR[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO usage_hours ("  # noqa: S608 (nothing in it is anybody's input)
        "hour_s, tenant, key_id, model, status, requests, prompt_tokens, cached_tokens, output_tokens, gpu_us, ttfts,"
        " ttft_us, latency_us"
        f") SELECT {hour}, tenant, key_id, model, status, count(*), sum(prompt_tokens),"
        " sum(coalesce(cached_tokens, 0)),"
        " sum(output_tokens), 0, count(ttft_ms), sum(CAST(round(coalesce(ttft_ms, 0) * 1000) AS BIGINT)),"
        " sum(CAST(round(latency_ms * 1000) AS BIGINT))"
        " FROM usage GROUP BY 1, 2, 3, 4, 5"
    )
