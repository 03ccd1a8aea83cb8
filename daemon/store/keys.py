"""Changes of keys: in the database, the audit and the directory, in this order, one at a time."""

from asyncio import Lock
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from secrets import token_bytes
from typing import Any

import msgspec
from sqlalchemy import Executable, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.errors import Conflict, InvalidRequest, NotFound
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.store.audit import AuditLog, shown_key, shown_limits
from preble.daemon.store.tables import api_keys
from preble.daemon.store.tenants import check_version
from preble.daemon.tenancy.audit import Author, Change, Outcome
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.keys import CHANCE_BYTES, mint
from preble.daemon.tenancy.model import OPERATOR_SCOPES, TENANT_SCOPES, ApiKey, Scope
from preble.daemon.wire.settings import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """What can be chosen of a key."""

    name: str = ""
    scopes: frozenset[Scope] | None = None
    """None: all that such a key can have."""
    expires_at_s: float | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A name that a client gave its request, and a digest of what that asks: to know it when it comes again."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key, and its text if it was made just now."""

    key: ApiKey
    text: str | None


class KeyStore:
    """Makes, changes, rotates and revokes keys. With `dry_run` everything is checked and nothing is changed."""

    def __init__(self, engine: AsyncEngine, audit: AuditLog, directory: Directory, lock: Lock) -> None:
        self._engine = engine
        self._audit = audit
        self._directory = directory
        self._lock = lock

    async def create(
        self,
        tenant: str | None,
        spec: KeySpec,
        author: Author,
        *,
        request: Repeatable | None = None,
        dry_run: bool = False,
    ) -> Outcome[MadeKey]:
        """Make a key for a tenant, or for an operator (None). A request that came before makes no second one.

        Raises `NotFound`, `InvalidRequest`, and `Conflict` if the request has the name of a different one.
        """
        async with self._lock:
            owner = self._directory.tenant(tenant).name if tenant is not None else None
            if request is not None and (made := await self._made_by(request)) is not None:
                return Outcome(MadeKey(made, None), _change("create", made, shown_key(made), shown_key(made)))
            key, text = _mint(owner, spec, author)
            change = _change("create", key, None, shown_key(key))
            if not dry_run:
                name, digest = (request.name, request.digest) if request else (None, None)
                row = {**_row(key), "idempotency_key": name, "idempotency_digest": digest}
                await self._audit.write(author, [change], insert(api_keys).values(row))
                self._directory.put_key(key)
            return Outcome(MadeKey(key, text), change)

    async def update(
        self,
        key_id: str,
        revise: Callable[[ApiKey], KeySpec],
        author: Author,
        *,
        if_version: Container[int] | None = None,
        dry_run: bool = False,
    ) -> Outcome[ApiKey]:
        """Change what can be chosen. Raises `NotFound`, `InvalidRequest`, `PreconditionFailed`, `Conflict`."""
        async with self._lock:
            before = self._usable(key_id)
            check_version(before.version, if_version)
            spec = revise(before)
            scopes = _checked(before.tenant, spec)
            after = replace(before, name=spec.name, scopes=scopes, expires_at_s=spec.expires_at_s, limits=spec.limits)
            if after == before:
                return Outcome(before, _change("update", before, shown_key(before), shown_key(before)))
            return await self._replace("update", before, after, author, dry_run)

    async def revoke(self, key_id: str, author: Author, *, dry_run: bool = False) -> Outcome[ApiKey]:
        """The key works no longer; revoking it again changes nothing. Raises `NotFound`."""
        async with self._lock:
            before = self.get(key_id)
            if before.revoked_at_s is not None:
                return Outcome(before, _change("revoke", before, shown_key(before), shown_key(before)))
            return await self._replace("revoke", before, replace(before, revoked_at_s=author.at_s), author, dry_run)

    async def rotate(self, key_id: str, overlap_s: float, author: Author, *, dry_run: bool = False) -> Outcome[MadeKey]:
        """Make another key of the same settings and lifetime; the old one works `overlap_s` longer at most.

        Raises `NotFound`, and `Conflict` if the key works no longer or was rotated before.
        """
        async with self._lock:
            before = self._usable(key_id)
            if before.replaced_by is not None:
                raise Conflict(f"Key {key_id!r} was rotated to {before.replaced_by!r} before: rotate that.", param="id")
            if not before.is_valid(author.at_s):
                raise Conflict(f"Key {key_id!r} has expired: make another.", param="id")
            lifetime_s = None if before.expires_at_s is None else before.expires_at_s - before.created_at_s
            expires_at_s = None if lifetime_s is None else author.at_s + lifetime_s
            spec = KeySpec(name=before.name, scopes=before.scopes, expires_at_s=expires_at_s, limits=before.limits)
            key, text = _mint(before.tenant, spec, author)
            end_s = min(author.at_s + overlap_s, before.expires_at_s or float("inf"))
            old = replace(before, expires_at_s=end_s, replaced_by=key.id, version=before.version + 1)
            change = _change("rotate", old, shown_key(before), shown_key(old))
            if not dry_run:
                changes = [change, _change("create", key, None, shown_key(key))]
                await self._audit.write(author, changes, insert(api_keys).values(_row(key)), _update(old))
                self._directory.put_key(key)
                self._directory.put_key(old)
            return Outcome(MadeKey(key, text), change)

    def get(self, key_id: str) -> ApiKey:
        """The key with this id, whether it works or not. Raises `NotFound`."""
        key = self._directory.key(KeyId(key_id))
        if key is None:
            raise NotFound(f"There is no key {key_id!r}.", param="id")
        return key

    def _usable(self, key_id: str) -> ApiKey:
        """One that is not revoked, be it expired. Raises `NotFound` and `Conflict`."""
        key = self.get(key_id)
        if key.revoked_at_s is not None:
            raise Conflict(f"Key {key_id!r} is revoked.", param="id")
        return key

    async def _made_by(self, request: Repeatable) -> ApiKey | None:
        """The key that this request has made; None if it is new."""
        query = select(api_keys.c.id, api_keys.c.idempotency_digest).where(api_keys.c.idempotency_key == request.name)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        if row.idempotency_digest != request.digest:
            message = f"A different request was sent with the Idempotency-Key {request.name!r} before."
            raise Conflict(message, param="idempotency-key")
        return self.get(row.id)

    async def _replace(
        self, action: str, before: ApiKey, after: ApiKey, author: Author, dry_run: bool
    ) -> Outcome[ApiKey]:
        after = replace(after, version=before.version + 1)
        change = _change(action, after, shown_key(before), shown_key(after))
        if not dry_run:
            await self._audit.write(author, [change], _update(after))
            self._directory.put_key(after)
        return Outcome(after, change)


def read_key(row: Mapping[Any, Any]) -> ApiKey:
    """A key as it is in the database."""
    return ApiKey(
        id=KeyId(row["id"]),
        tenant=row["tenant"] and TenantName(row["tenant"]),
        name=row["name"],
        digest=row["digest"],
        last4=row["last4"],
        scopes=frozenset(map(Scope, row["scopes"].split())),
        created_at_s=row["created_at_s"],
        expires_at_s=row["expires_at_s"],
        revoked_at_s=row["revoked_at_s"],
        limits=msgspec.convert(row["limits"], Limits),
        replaced_by=row["replaced_by"] and KeyId(row["replaced_by"]),
        version=row["version"],
    )


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "digest": key.digest,
        "last4": key.last4,
        "scopes": " ".join(sorted(key.scopes)),
        "created_at_s": key.created_at_s,
        "expires_at_s": key.expires_at_s,
        "revoked_at_s": key.revoked_at_s,
        "limits": shown_limits(key.limits),
        "replaced_by": key.replaced_by,
        "version": key.version,
    }


def _mint(owner: TenantName | None, spec: KeySpec, author: Author) -> tuple[ApiKey, str]:
    scopes = _checked(owner, spec)
    minted = mint("op" if owner is None else "live", token_bytes(CHANCE_BYTES))
    key = ApiKey(
        id=minted.id,
        tenant=owner,
        name=spec.name,
        digest=minted.digest,
        last4=minted.last4,
        scopes=scopes,
        created_at_s=author.at_s,
        expires_at_s=spec.expires_at_s,
        revoked_at_s=None,
        limits=spec.limits,
    )
    return key, minted.text


def _checked(owner: TenantName | None, spec: KeySpec) -> frozenset[Scope]:
    """The scopes that are meant. Raises `InvalidRequest`, also for a name that would steer a terminal."""
    if not spec.name.isprintable():
        raise InvalidRequest("A key's name has no control characters.", param="name")
    usual = OPERATOR_SCOPES if owner is None else TENANT_SCOPES
    if spec.scopes is None:
        return usual
    possible = usual | {Scope.PROMPTS_READ} if owner is None else usual
    if beyond := sorted(spec.scopes - possible):
        whose = "an operator's" if owner is None else "a tenant's"
        raise InvalidRequest(f"The scope {beyond[0].value!r} is none of {whose} key.", param="scopes")
    return spec.scopes


def _change(action: str, key: ApiKey, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Change:
    return Change(action=f"key.{action}", target=key.id, tenant=key.tenant, before=before, after=after)


def _update(key: ApiKey) -> Executable:
    return update(api_keys).where(api_keys.c.id == key.id).values(_row(key))
