"""Tenants, keys and the record of changes to them, as operators see them. Points in time are ISO 8601, UTC."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from preble.daemon.wire.settings import NAME, NO_LIMITS, Limits, TenantSettings

ScopeName = Literal["inference", "templates", "usage:read", "admin:read", "admin:write", "prompts:read"]
Scopes = Annotated[tuple[ScopeName, ...], msgspec.Meta(min_length=1, max_length=6)]
KeyName = Annotated[str, msgspec.Meta(max_length=200)]

_DAYS = 36_500


class TenantCreate(TenantSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /admin/v1/tenants`."""

    name: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{NAME}$"})]


class TenantRow(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant, with what it has used since it was created."""

    name: str
    created_at: str
    version: int
    """Counts its changes; also the ETag."""
    weight: float
    priority: str
    isolation: str
    suspended: bool
    salt_epoch: int
    """Counts how often its cached prefixes were given up."""
    limits: Limits
    keys: int
    """Keys that work."""
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class TenantPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tenants, by name."""

    rows: list[TenantRow]
    next: str | None
    """`after` of the next page; None: this is the last."""


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    id: str
    tenant: str | None
    """None for an operator's key."""
    name: str
    last4: str
    scopes: list[str]
    limits: Limits
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    replaced_by: str | None
    """The key that it was rotated to."""
    version: int
    """Counts its changes; also the ETag."""


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, oldest first."""

    rows: list[KeyRow]
    next: str | None
    """`after` of the next page; None: this is the last."""


class KeyCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /admin/v1/keys`."""

    tenant: str | None
    """None: for an operator."""
    name: KeyName = ""
    scopes: Scopes | None = None
    """None: all that such a key can have, but for `prompts:read`."""
    expires_in_days: Annotated[float, msgspec.Meta(gt=0, le=_DAYS)] | None = None
    limits: Limits = NO_LIMITS


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be changed of a key."""

    name: KeyName
    scopes: Scopes
    expires_at: datetime | None
    limits: Limits


class KeyRotate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /admin/v1/keys/ID/rotate`."""

    overlap_s: Annotated[float, msgspec.Meta(ge=0, le=_DAYS * 86_400)] = 0.0
    """How long the old key still works."""


class KeyCreated(KeyRow, frozen=True, kw_only=True):
    """A new key, the only time it is shown."""

    key: str | None
    """None when it was made before, by a request with the same `Idempotency-Key`."""


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a request with `dry_run=true` would have changed; nothing, if `before` and `after` are the same."""

    dry_run: Literal[True] = True
    action: str
    target: str
    before: dict[str, Any] | None
    """None: there is none yet."""
    after: dict[str, Any] | None
    """None: there would be none any more."""
    effect: tuple[str, ...] = ()
    """What would follow from it, a sentence each, where that can be told."""
    computed_at: str | None = None
    """When that was so."""


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One administrative change."""

    number: int
    at: str
    actor: str
    """The id of an operator's key, or `local` for the daemon itself."""
    action: str
    target: str
    """The tenant, key or GPU that was changed."""
    tenant: str | None
    """Whose it is."""
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Changes, newest first."""

    rows: list[AuditRow]
    next: int | None
    """`after` of the next page; None: this is the last."""
