"""Tenants and their keys. Every key is also kept in memory, where each request looks it up."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from difflib import get_close_matches
from secrets import token_bytes
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.errors import Conflict, NotFound
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.store.tables import api_keys, tenants
from preble.daemon.tenancy.keys import CHANCE_BYTES, MintedKey, mint
from preble.daemon.tenancy.model import OPERATOR_SCOPES, TENANT_SCOPES, ApiKey, Scope, Tenant


class Accounts:
    """All tenants and keys, in memory and in the database. What a method has written counts from the next request."""

    def __init__(self, engine: AsyncEngine, found: Mapping[TenantName, Tenant], keys: Mapping[KeyId, ApiKey]) -> None:
        self._engine = engine
        self._tenants = dict(found)
        self._keys = dict(keys)

    @classmethod
    async def load(cls, engine: AsyncEngine) -> "Accounts":
        """Read everything once."""
        async with engine.connect() as connection:
            found = [_tenant(row) for row in (await connection.execute(select(tenants))).mappings()]
            keys = [_key(row) for row in (await connection.execute(select(api_keys))).mappings()]
        return cls(engine, {tenant.name: tenant for tenant in found}, {key.id: key for key in keys})

    def lookup(self, key_id: KeyId) -> ApiKey | None:
        """The key with this id, whether it still works or not."""
        return self._keys.get(key_id)

    def tenants(self) -> list[Tenant]:
        """All tenants, by name."""
        return sorted(self._tenants.values(), key=lambda tenant: tenant.name)

    def tenant(self, name: str) -> Tenant:
        """Raises `NotFound`."""
        try:
            return self._tenants[TenantName(name)]
        except KeyError:
            near = get_close_matches(name, self._tenants, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise NotFound(f"There is no tenant {name!r}.{hint}", param="tenant") from None

    def keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or one tenant's, oldest first. Raises `NotFound` for an unknown tenant."""
        if tenant is not None:
            self.tenant(tenant)
        chosen = [key for key in self._keys.values() if tenant is None or key.tenant == tenant]
        return sorted(chosen, key=lambda key: (key.created_at_s, key.id))

    async def create_tenant(self, name: str, now_s: float) -> Tenant:
        """Raises `Conflict` if there is one of that name."""
        tenant = Tenant(name=TenantName(name), created_at_s=now_s)
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(tenants).values(name=name, created_at_s=now_s))
        except IntegrityError:
            raise Conflict(f"There is a tenant {name!r} already.", param="name") from None
        self._tenants[tenant.name] = tenant
        return tenant

    async def create_key(
        self, tenant: str | None, *, name: str, now_s: float, expires_at_s: float | None = None
    ) -> MintedKey:
        """Make a key for a tenant, or for an operator (None). Raises `NotFound` for an unknown tenant."""
        owner = self.tenant(tenant).name if tenant is not None else None
        minted = mint("op" if owner is None else "live", token_bytes(CHANCE_BYTES))
        key = ApiKey(
            id=minted.id,
            tenant=owner,
            name=name,
            digest=minted.digest,
            last4=minted.last4,
            scopes=OPERATOR_SCOPES if owner is None else TENANT_SCOPES,
            created_at_s=now_s,
            expires_at_s=expires_at_s,
            revoked_at_s=None,
        )
        async with self._engine.begin() as connection:
            await connection.execute(insert(api_keys).values(_row(key)))
        self._keys[key.id] = key
        return minted

    async def revoke_key(self, key_id: str, now_s: float) -> ApiKey:
        """The key works no longer; revoking it again changes nothing. Raises `NotFound`."""
        key = self._keys.get(KeyId(key_id))
        if key is None:
            raise NotFound(f"There is no key {key_id!r}.", param="id")
        if key.revoked_at_s is not None:
            return key
        async with self._engine.begin() as connection:
            await connection.execute(update(api_keys).where(api_keys.c.id == key.id).values(revoked_at_s=now_s))
        revoked = self._keys[key.id] = replace(key, revoked_at_s=now_s)
        return revoked


def _tenant(row: Mapping[Any, Any]) -> Tenant:
    return Tenant(name=TenantName(row["name"]), created_at_s=row["created_at_s"])


def _key(row: Mapping[Any, Any]) -> ApiKey:
    return ApiKey(**{**row, "scopes": frozenset(map(Scope, row["scopes"].split()))})


def _row(key: ApiKey) -> dict[str, Any]:
    return {**asdict(key), "scopes": " ".join(sorted(key.scopes))}
