"""The operator's routes for keys."""

from datetime import UTC, datetime
from hashlib import sha256
from time import time
from typing import Annotated, Any, cast

import msgspec
from litestar import Controller, Request, Response, get, patch, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter

from preble.daemon.api.admin import Admin, AdminService, Limit
from preble.daemon.api.bodies import convert, merged, read_body, read_object
from preble.daemon.api.changes import DryRun, IfMatch, answer, author_of, etag, planned, versions
from preble.daemon.api.schema import keyed
from preble.daemon.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed, TooLarge
from preble.daemon.flow.key_foresight import KeyForesight, revoked
from preble.daemon.ids import KeyId
from preble.daemon.store.keys import KeySpec, MadeKey, Repeatable
from preble.daemon.tenancy.model import ApiKey, Principal, Scope
from preble.daemon.wire.accounts import (
    KeyCreate,
    KeyCreated,
    KeyPage,
    KeyRotate,
    KeyRow,
    KeySettings,
    PlannedChange,
    ScopeName,
)
from preble.daemon.wire.moments import iso, iso_or_none

AnyRequest = Request[Any, Any, Any]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="idempotency-key",
        min_length=1,
        max_length=255,
        description="A name for this request. When it comes again no second key is made, and none is shown.",
    ),
]
_ANSWERS: Any = KeyCreated | PlannedChange
_MADE = {200: ResponseSpec(_ANSWERS, generate_examples=False, description="Made before; or, a dry run")}
_PLANNED = {200: ResponseSpec(PlannedChange, generate_examples=False, description="A dry run")}
_DAY_S = 86_400
_LATEST_S = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


class KeysController(Controller):
    """`/admin/v1/keys...`, for operators' keys."""

    path = "/admin/v1/keys"
    tags = ("operators",)

    @get(operation_class=keyed(InvalidRequest, NotFound))
    async def list_keys(
        self,
        request: AnyRequest,
        admin: Admin,
        tenant: FromQuery[str | None] = None,
        limit: Limit = 100,
        after: FromQuery[str | None] = None,
    ) -> KeyPage:
        """Keys without their secrets, oldest first; those that come `after` the key of an id."""
        admin.authenticate(request, Scope.ADMIN_READ)
        keys = admin.accounts.directory.find_keys(tenant)
        if after is not None:
            last = admin.accounts.directory.key(KeyId(after))
            if last is None:
                raise InvalidRequest(f"There is no key {after!r}.", param="after")
            keys = [key for key in keys if (key.created_at_s, key.id) > (last.created_at_s, last.id)]
        return KeyPage(rows=[_row(key) for key in keys[:limit]], next=keys[limit - 1].id if len(keys) > limit else None)

    @post(
        status_code=201,
        responses=_MADE,
        operation_class=keyed(InvalidRequest, NotFound, Conflict, TooLarge, body=KeyCreate, tagged=True),
    )
    async def create_key(
        self, request: AnyRequest, admin: Admin, idempotency_key: IdempotencyKey = None, dry_run: DryRun = False
    ) -> Response[KeyCreated]:
        """Make a key. Its text is in this answer and nowhere else."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        wanted = convert(read_object(await read_body(request)), KeyCreate)
        author = author_of(request, principal)
        spec = KeySpec(
            name=wanted.name,
            scopes=None if wanted.scopes is None else frozenset(map(Scope, wanted.scopes)),
            expires_at_s=None if wanted.expires_in_days is None else author.at_s + wanted.expires_in_days * _DAY_S,
            limits=wanted.limits,
        )
        repeatable = None if idempotency_key is None else _repeatable(idempotency_key, wanted)
        made = await admin.accounts.keys.create(wanted.tenant, spec, author, request=repeatable, dry_run=dry_run)
        status = 201 if made.is_new else 200
        return answer(made, _created_row, dry_run=dry_run, version=made.value.key.version, status=status)

    @get("/{key_id:str}", operation_class=keyed(NotFound, tagged=True))
    async def show_key(self, request: AnyRequest, admin: Admin, key_id: FromPath[str]) -> Response[KeyRow]:
        """One key, without its secret."""
        admin.authenticate(request, Scope.ADMIN_READ)
        key = admin.accounts.keys.get(key_id)
        return Response(_row(key), headers={"etag": etag(key.version)})

    @patch(
        "/{key_id:str}",
        operation_class=keyed(
            InvalidRequest,
            NotFound,
            Conflict,
            PreconditionFailed,
            TooLarge,
            body=KeySettings,
            tagged=True,
        ),
    )
    async def update_key(
        self,
        request: AnyRequest,
        admin: Admin,
        key_id: FromPath[str],
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response[KeyRow | PlannedChange]:
        """Change a key that is not revoked, from the next request on. What is not named stays; null lifts a limit."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        changes = read_object(await read_body(request))
        done = await admin.accounts.keys.update(
            key_id,
            lambda key: _spec(merged(_settings(key), changes, KeySettings)),
            author_of(request, principal),
            if_version=versions(if_match),
            dry_run=dry_run,
        )
        return answer(done, _row, dry_run=dry_run, version=done.value.version)

    @post("/{key_id:str}/revoke", status_code=200, operation_class=keyed(InvalidRequest, NotFound, tagged=True))
    async def revoke_key(
        self, request: AnyRequest, admin: Admin, key_id: FromPath[str], dry_run: DryRun = False
    ) -> Response[KeyRow | PlannedChange]:
        """Make a key useless, from the next request on."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        done = await admin.accounts.keys.revoke(key_id, author_of(request, principal), dry_run=dry_run)
        if dry_run:
            return Response(planned(done.change, await _revoking(admin, principal, admin.accounts.keys.get(key_id))))
        return answer(done, _row, dry_run=dry_run, version=done.value.version)

    @post(
        "/{key_id:str}/rotate",
        status_code=201,
        responses=_PLANNED,
        operation_class=keyed(InvalidRequest, NotFound, Conflict, TooLarge, body=KeyRotate, tagged=True),
    )
    async def rotate_key(
        self, request: AnyRequest, admin: Admin, key_id: FromPath[str], dry_run: DryRun = False
    ) -> Response[KeyCreated]:
        """Make a key of the same settings and lifetime. The old one works for the overlap, and then no longer."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        wanted = convert(read_object(await read_body(request)), KeyRotate)
        author = author_of(request, principal)
        made = await admin.accounts.keys.rotate(key_id, wanted.overlap_s, author, dry_run=dry_run)
        return answer(made, _created_row, dry_run=dry_run, version=made.value.key.version, status=201)


async def _revoking(admin: AdminService, principal: Principal, key: ApiKey) -> list[str]:
    """What it would do; nothing if it was done before."""
    if key.revoked_at_s is not None:
        return []
    running, waiting = admin.console.requests_of(key.id)
    used_s = None if key.tenant is None else await admin.ledger.last_used_s(key.tenant, key.id)
    now_s = time()
    theirs = [each for each in admin.accounts.directory.find_keys() if each.tenant == key.tenant and each.id != key.id]
    seen = KeyForesight(
        key=key,
        last_used_s=used_s,
        running=running,
        waiting=waiting,
        others=sum(1 for each in theirs if each.is_valid(now_s)),
        is_asking=principal.key_id == key.id,
    )
    return revoked(seen)


def _repeatable(name: str, wanted: KeyCreate) -> Repeatable:
    if not name.isprintable():
        raise InvalidRequest("An Idempotency-Key has no control characters.", param="idempotency-key")
    return Repeatable(name, sha256(msgspec.json.encode(wanted)).digest())


def _settings(key: ApiKey) -> KeySettings:
    expires_at = None if key.expires_at_s is None else datetime.fromtimestamp(key.expires_at_s, UTC)
    scopes = cast(tuple[ScopeName, ...], tuple(sorted(key.scopes)))
    return KeySettings(name=key.name, scopes=scopes, expires_at=expires_at, limits=key.limits)


def _spec(wanted: KeySettings) -> KeySpec:
    expires_at_s = None
    if wanted.expires_at is not None:
        at = wanted.expires_at if wanted.expires_at.tzinfo else wanted.expires_at.replace(tzinfo=UTC)
        expires_at_s = at.timestamp()
        if not 0 <= expires_at_s < _LATEST_S:
            raise InvalidRequest("A key's `expires_at` is between 1970 and 9999.", param="expires_at")
    scopes = frozenset(map(Scope, wanted.scopes))
    return KeySpec(name=wanted.name, scopes=scopes, expires_at_s=expires_at_s, limits=wanted.limits)


def _row(key: ApiKey) -> KeyRow:
    return KeyRow(**_shown(key))


def _created_row(made: MadeKey) -> KeyCreated:
    return KeyCreated(key=made.text, **_shown(made.key))


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "last4": key.last4,
        "scopes": sorted(key.scopes),
        "limits": key.limits,
        "created_at": iso(key.created_at_s),
        "expires_at": iso_or_none(key.expires_at_s),
        "revoked_at": iso_or_none(key.revoked_at_s),
        "replaced_by": key.replaced_by,
        "version": key.version,
    }
