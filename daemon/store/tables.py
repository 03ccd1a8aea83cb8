"""The schema. `migrations/` builds it; a test keeps the two equal."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)

metadata = MetaData()

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("created_at_s", Float, nullable=False),
    Column("deleted_at_s", Float, nullable=True),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("salt_epoch", Integer, nullable=False, server_default="0"),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("priority", String(12), nullable=False, server_default="interactive"),
    Column("isolation", String(70), nullable=False, server_default="private"),
    Column("suspended", Boolean, nullable=False, server_default=false()),
    Column("limits", JSON, nullable=False, server_default="{}"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("tenant", String(63), ForeignKey("tenants.name"), nullable=True, index=True),
    Column("name", String(200), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("last4", String(4), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("expires_at_s", Float, nullable=True),
    Column("revoked_at_s", Float, nullable=True),
    Column("limits", JSON, nullable=False, server_default="{}"),
    Column("replaced_by", String(12), nullable=True),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("idempotency_key", String(255), nullable=True, index=True, unique=True),
    Column("idempotency_digest", LargeBinary(32), nullable=True),
)

# Without foreign keys, as the ledger: what was done stays on record.
audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at_s", Float, nullable=False),
    Column("actor", String(12), nullable=False),
    Column("action", String(40), nullable=False),
    Column("target", String(63), nullable=False),
    Column("tenant", String(63), nullable=True),
    Column("before", JSON(none_as_null=True), nullable=True),
    Column("after", JSON(none_as_null=True), nullable=True),
    Column("request_id", String(40), nullable=True),
    Index("ix_audit_tenant_number", "tenant", "number"),
)

# Without foreign keys: what was used stays on record whatever becomes of the tenant, and writing stays cheap.
usage = Table(
    "usage",
    metadata,
    Column("request_id", String(40), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("key_id", String(12), nullable=False),
    Column("model", String(200), nullable=False),
    Column("endpoint", String(40), nullable=False),
    Column("gpu", String(40), nullable=True),
    Column("mode", String(20), nullable=True),
    Column("status", String(12), nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("created_at_s", Float, nullable=False, index=True),
    Column("prompt_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=True),
    Column("predicted_cached_tokens", Integer, nullable=True),
    Column("output_tokens", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("queue_ms", Float, nullable=True),
    Column("ttft_ms", Float, nullable=True),
    Column("latency_ms", Float, nullable=False),
    Column("gpu_ms", Float, nullable=False, server_default="0"),
    Column("cost_micros", BigInteger, nullable=True),
    Column("template_id", Integer, nullable=True),
    Column("template", String(63), nullable=True),
    Column("template_version", Integer, nullable=True),
    Column("template_tokens", Integer, nullable=True),
    Column("saved_ms", Float, nullable=True),
    Index("ix_usage_tenant_created_at_s", "tenant", "created_at_s"),
)

# Sums over rows of `usage`, and of rows that are no more. Whole numbers, so that they add up exactly.
usage_hours = Table(
    "usage_hours",
    metadata,
    Column("hour_s", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", String(63), primary_key=True),
    Column("key_id", String(12), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("status", String(12), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("gpu_us", BigInteger, nullable=False),
    Column("cost_micros", BigInteger, nullable=True),
    Column("ttfts", BigInteger, nullable=False),
    Column("ttft_us", BigInteger, nullable=False),
    Column("latency_us", BigInteger, nullable=False),
    Index("ix_usage_hours_tenant_hour_s", "tenant", "hour_s"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("request_id", String(40), nullable=False, unique=True),
    Column("explanation", LargeBinary, nullable=False),
)

time_models = Table(
    "time_models",
    metadata,
    Column("model", String(200), primary_key=True),
    Column("device", String(200), primary_key=True),
    Column("prefill_base_ms", Float, nullable=False),
    Column("prefill_ms_per_token", Float, nullable=False),
    Column("prefill_ms_per_token2", Float, nullable=False),
    Column("decode_base_ms", Float, nullable=False),
    Column("decode_ms_per_sequence", Float, nullable=False),
    Column("observations", Integer, nullable=False),
    Column("updated_at_s", Float, nullable=False),
)

# Without a foreign key to tenants: whoever gets a name anew gets nothing of what an earlier owner had.
templates = Table(
    "templates",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("owner", String(63), nullable=True),
    Column("name", String(63), nullable=False),
    Column("description", String(2000), nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("created_by", String(12), nullable=False),
    Column("changes", Integer, nullable=False),
    Column("first_version", Integer, nullable=False),  # those before it went with a deletion
    Column("deleted_at_s", Float, nullable=True),
    Index("ix_templates_owner_name", "owner", "name"),
)

template_versions = Table(
    "template_versions",
    metadata,
    Column("template_id", Integer, ForeignKey("templates.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("created_by", String(12), nullable=False),
)

template_labels = Table(
    "template_labels",
    metadata,
    Column("template_id", Integer, ForeignKey("templates.id"), primary_key=True),
    Column("label", String(63), primary_key=True),
    Column("number", Integer, nullable=False),
)

# Without a foreign key to tenants, as templates.
template_pins = Table(
    "template_pins",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("template_id", Integer, ForeignKey("templates.id"), primary_key=True),
    Column("reference", String(63), primary_key=True),  # a number, a label, or nothing
    Column("model", String(200), primary_key=True),
    Column("replicas", Integer, nullable=False),
    Column("max_replicas", Integer, nullable=False),
    Column("expires_at_s", Float, nullable=True),
    Column("created_at_s", Float, nullable=False),
    Column("created_by", String(12), nullable=False),
)

# Sums over rows of `usage` with a template, and of rows that are no more.
template_hours = Table(
    "template_hours",
    metadata,
    Column("hour_s", BigInteger, primary_key=True, autoincrement=False),
    Column("template_id", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("tenant", String(63), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prefix_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("saved_us", BigInteger, nullable=False),
    Column("hit_ttfts", BigInteger, nullable=False),
    Column("hit_ttft_us", BigInteger, nullable=False),
    Column("miss_ttfts", BigInteger, nullable=False),
    Column("miss_ttft_us", BigInteger, nullable=False),
    Column("last_used_s", Float, nullable=False),
)

# Counts of what engines reported, by hour as `template_hours`.
template_evictions = Table(
    "template_evictions",
    metadata,
    Column("hour_s", BigInteger, primary_key=True, autoincrement=False),
    Column("template_id", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("tenant", String(63), primary_key=True),
    Column("evictions", BigInteger, nullable=False),
)

# What can be computed again: a row counts only for the tokenizer and chat template that it was made with.
template_analyses = Table(
    "template_analyses",
    metadata,
    Column("template_id", Integer, ForeignKey("templates.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("prefix", LargeBinary, nullable=False),  # token ids, 4 bytes each, little-endian
    Column("advice", JSON, nullable=False),
)
