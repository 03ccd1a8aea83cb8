"""Tenants, their keys, and whom a presented key stands for."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from preble.daemon.errors import Forbidden, Unauthenticated
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.tenancy.keys import id_of, matches
from preble.daemon.wire.settings import NAME, NO_LIMITS, Limits, TenantSettings


class Scope(StrEnum):
    """What a key may do."""

    INFERENCE = "inference"
    TEMPLATES = "templates"
    USAGE_READ = "usage:read"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"
    PROMPTS_READ = "prompts:read"
    """What tenants have asked, in their words: an operator's key has it only where it is named."""


TENANT_SCOPES = frozenset({Scope.INFERENCE, Scope.TEMPLATES, Scope.USAGE_READ})
OPERATOR_SCOPES = frozenset({Scope.USAGE_READ, Scope.ADMIN_READ, Scope.ADMIN_WRITE})
"""Those that an operator's key has if nobody says."""


def is_tenant_name(text: str) -> bool:
    """Whether a tenant may be called that."""
    return re.fullmatch(NAME, text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Somebody who is served, and whose use is counted."""

    name: TenantName
    settings: TenantSettings
    salt_epoch: int
    """Goes into the salt of its cached prefixes: with each next one they are as if they had never been."""
    version: int
    """Counts its changes, from 1."""
    created_at_s: float
    """Seconds since the epoch."""
    deleted_at_s: float | None = None
    """None: it is there. The others are remembered so that whoever gets the name gets nothing else of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is stored: everything but the key itself."""

    id: KeyId
    tenant: TenantName | None
    """None for an operator's key."""
    name: str
    """What its owner calls it."""
    digest: bytes
    last4: str
    scopes: frozenset[Scope]
    created_at_s: float
    expires_at_s: float | None
    revoked_at_s: float | None
    limits: Limits = NO_LIMITS
    """Beside those of its tenant."""
    replaced_by: KeyId | None = None
    """The key that it was rotated to."""
    version: int = 1
    """Counts its changes, from 1."""

    def is_valid(self, now_s: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at_s is None and (self.expires_at_s is None or now_s < self.expires_at_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whom a request is from."""

    tenant: TenantName | None
    """None for an operator."""
    key_id: KeyId
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raise `Forbidden` unless the key may do this."""
        if scope not in self.scopes:
            raise Forbidden(f"This key lacks the scope {scope.value!r}.")


class Known(Protocol):
    """Where tenants and keys are looked up."""

    def key(self, key_id: KeyId) -> ApiKey | None:
        """The key with this id, whether it works or not."""

    def find(self, tenant: TenantName) -> Tenant | None:
        """None if there is no such tenant."""


def authenticate(authorization: str | None, known: Known, now_s: float) -> Principal:
    """Whom an `Authorization` header stands for.

    Raises `Unauthenticated`, in the same words whether the key is missing, mistyped, unknown, revoked or expired; and
    `Forbidden` if the key is right and its tenant is suspended.
    """
    scheme, _, text = (authorization or "").partition(" ")
    key_id = id_of(text.strip()) if scheme.lower() == "bearer" else None
    if key_id is None:
        raise Unauthenticated
    key = known.key(key_id)
    if not matches(text.strip(), key.digest if key else None) or key is None or not key.is_valid(now_s):
        raise Unauthenticated
    if key.tenant is not None:
        tenant = known.find(key.tenant)
        if tenant is None:
            raise Unauthenticated
        if tenant.settings.suspended:
            raise Forbidden(f"Tenant {key.tenant!r} is suspended.", code="tenant_suspended")
    return Principal(tenant=key.tenant, key_id=key.id, scopes=key.scopes)
