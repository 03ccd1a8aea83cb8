"""Templates in GPUs' caches: warmed once, or kept there. A tenant's under `/v1`, any tenant's under `/admin/v1`."""

from asyncio import gather
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter

from preble.daemon.api.admin import Limit
from preble.daemon.api.bodies import convert, read_body, read_object
from preble.daemon.api.changes import DryRun, author_of, planned
from preble.daemon.api.schema import keyed
from preble.daemon.api.templates import Caller, Number, TemplateService, operator, tenant
from preble.daemon.errors import Conflict, EngineFailed, InvalidRequest, NotFound, TimedOut, TooLarge, Unavailable
from preble.daemon.flow.encode import encoded
from preble.daemon.flow.keeper import Keeper
from preble.daemon.flow.pin_foresight import PinBudget, budgeted, kept, size
from preble.daemon.flow.template_stats import StatsDesk
from preble.daemon.flow.warming import Prefix, Try, Warmer
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.sched.types import Candidate
from preble.daemon.store.audit import AuditLog
from preble.daemon.templates.directory import Template, Version
from preble.daemon.templates.pins import Pin
from preble.daemon.tenancy.audit import Author, Change
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.pins import PinPage, PinRow, PinWanted, TemplateStatsPage, Warmed, WarmRow, WarmUp
from preble.daemon.wire.settings import Limits
from preble.daemon.wire.templates import TemplateUse

AnyRequest = Request[Any, Any, Any]
_ANSWERS: Any = PinRow | PlannedChange
_THERE = {200: ResponseSpec(_ANSWERS, generate_examples=False, description="Pinned already; or, a dry run")}
_REFUSALS = (InvalidRequest, NotFound, Conflict, TooLarge, EngineFailed, Unavailable)


@dataclass(frozen=True, slots=True)
class PinService:
    """What the routes below need, put together by the composition root."""

    warmer: Warmer
    audit: AuditLog
    keeper: Keeper
    stats: StatsDesk


Pins = NamedDependency[PinService]
AllPins = Annotated[bool, QueryParameter(name="all", description="Whatever is pinned of it.")]
Templates = NamedDependency[TemplateService]
Reader = NamedDependency[Caller]
Writer = NamedDependency[Caller]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meant:
    """What a caller names."""

    tenant: TenantName
    template: Template
    version: Version
    prefix: Prefix


class _PinRoutes(Controller):
    """What both have."""

    @post(
        "/{name:str}/warm",
        status_code=200,
        operation_class=keyed(*_REFUSALS, TimedOut, body=WarmUp),
    )
    async def warm_template(
        self,
        request: AnyRequest,
        pins: Pins,
        templates: Templates,
        writer: Writer,
        name: FromPath[str],
        dry_run: DryRun = False,
    ) -> Warmed:
        """Compute what can be cached of a version, where that costs least; answered when engines have reported it."""
        wanted = convert(read_object(await read_body(request)), WarmUp)
        meant = await _meant(pins, templates, writer, name, wanted)
        chosen = pins.warmer.chosen(meant.prefix, wanted.gpus)
        is_told = not meant.prefix.scope.is_shared or writer.principal.tenant is None
        if dry_run:
            return _warmed(pins, meant, chosen if is_told else (), {}, is_told=is_told)
        author = author_of(request, writer.principal)
        after = {"version": meant.version.number, "model": meant.prefix.model, "gpus": [each.gpu for each in chosen]}
        change = Change(action="template.warm", target=name, tenant=meant.tenant, before=None, after=after)
        await pins.audit.write(author, [change])
        key_id = KeyId(author.name)
        tries = await gather(*(pins.warmer.warm(meant.prefix, each.gpu, key_id) for each in chosen))
        errors = [each.error for each in tries if each.error is not None]
        if len(errors) == len(tries):
            raise errors[0]
        return _warmed(pins, meant, chosen, {each.gpu: each for each in tries}, is_told=is_told)

    @post("/{name:str}/pin", status_code=201, responses=_THERE, operation_class=keyed(*_REFUSALS, body=PinWanted))
    async def pin_template(
        self,
        request: AnyRequest,
        pins: Pins,
        templates: Templates,
        writer: Writer,
        name: FromPath[str],
        dry_run: DryRun = False,
    ) -> Response[PinRow]:
        """Keep what can be cached of a version, or of what a label points to, in GPUs' caches."""
        wanted = convert(read_object(await read_body(request)), PinWanted)
        meant = await _meant(pins, templates, writer, name, wanted)
        author = author_of(request, writer.principal)
        pin = _pin(meant, wanted, author)
        _check_tokens(pins.keeper, templates, pin, len(meant.prefix.tokens))
        done = await pins.keeper.pin(pin, meant.prefix, name, author, dry_run=dry_run)
        if dry_run:
            effect = _pinning(pins.keeper, templates, writer, pin, meant.prefix)
            return Response(planned(done.change, effect), status_code=200)  # type: ignore[arg-type]
        held = next(each for each in pins.keeper.find(meant.tenant) if each.pin.key == pin.key)
        return Response(pins.keeper.row(held), status_code=201 if done.is_new else 200)

    @get("/{name:str}/pins", operation_class=keyed(InvalidRequest, NotFound))
    async def list_pins(self, pins: Pins, templates: Templates, reader: Reader, name: FromPath[str]) -> PinPage:
        """Pins of a template, and how they stand."""
        template = templates.desk.store.directory.visible(reader.owner, name)
        return PinPage(rows=[pins.keeper.row(held) for held in pins.keeper.find(reader.owner, template.id)])

    @delete("/{name:str}/pin", status_code=200, operation_class=keyed(InvalidRequest, NotFound))
    async def unpin_template(
        self,
        request: AnyRequest,
        pins: Pins,
        templates: Templates,
        writer: Writer,
        name: FromPath[str],
        version: Number = None,
        label: FromQuery[str | None] = None,
        model: FromQuery[str | None] = None,
        all_pins: AllPins = False,
        dry_run: DryRun = False,
    ) -> Response[PinPage | PlannedChange]:
        """Let go what was pinned by this version or label or, without one, what was pinned without one."""
        tenant = _for_whom(writer)
        template = templates.desk.store.directory.visible(tenant, name)
        if all_pins and (version is not None or label is not None):
            raise InvalidRequest("`all` takes neither `version` nor `label`.", param="all")
        reference = None if all_pins else _reference(version, label)
        there = pins.keeper.find(tenant, template.id)
        found = [each for each in there if model in (None, each.pin.model) and reference in (None, each.pin.reference)]
        if not found:
            raise NotFound(_not_pinned(name, reference, model, [held.pin for held in there]))
        rows = [pins.keeper.row(held) for held in found]
        author = author_of(request, writer.principal)
        change = await pins.keeper.unpin([held.pin for held in found], name, author, dry_run=dry_run)
        return Response(planned(change) if dry_run else PinPage(rows=rows), status_code=200)


class PinsController(_PinRoutes):
    """`/v1/templates...`, for tenants' keys."""

    path = "/v1/templates"
    tags = ("templates",)
    dependencies = {  # noqa: RUF012 - Litestar's own type
        "reader": Provide(tenant(), sync_to_thread=False),
        "writer": Provide(tenant(), sync_to_thread=False),
    }


class AdminPinsController(_PinRoutes):
    """`/admin/v1/templates...`, for operators' keys: for one `tenant`."""

    path = "/admin/v1/templates"
    tags = ("operators",)
    dependencies = {  # noqa: RUF012 - Litestar's own type
        "reader": Provide(operator(Scope.ADMIN_READ), sync_to_thread=False),
        "writer": Provide(operator(Scope.ADMIN_WRITE), sync_to_thread=False),
    }


class _StatsRoutes(Controller):
    """What both have."""

    @get(operation_class=keyed(InvalidRequest, NotFound))
    async def list_stats(
        self, pins: Pins, reader: Reader, limit: Limit = 100, name: FromQuery[str | None] = None
    ) -> TemplateStatsPage:
        """What templates have saved, version by version; those that saved most first. With a `name`, of one."""
        owner = reader.owner
        is_shared = owner is not None and pins.warmer.scope(owner).is_shared
        hides = is_shared and reader.principal.tenant is not None
        rows = await pins.stats.rows(owner, reader.models, hides=hides, limit=limit, name=name)
        return TemplateStatsPage(rows=rows)


class StatsController(_StatsRoutes):
    """`/v1/template-stats`, for tenants' keys: of their own use."""

    path = "/v1/template-stats"
    tags = ("templates",)
    dependencies = {"reader": Provide(tenant(), sync_to_thread=False)}  # noqa: RUF012 - Litestar's own type


class AdminStatsController(_StatsRoutes):
    """`/admin/v1/template-stats`, for operators' keys: of all tenants, or of one `tenant`."""

    path = "/admin/v1/template-stats"
    tags = ("operators",)
    dependencies = {  # noqa: RUF012 - Litestar's own type
        "reader": Provide(operator(Scope.ADMIN_READ), sync_to_thread=False)
    }


async def _meant(
    pins: PinService, templates: TemplateService, caller: Caller, name: str, wanted: WarmUp | PinWanted
) -> _Meant:
    tenant = _for_whom(caller)
    use = TemplateUse(name=name, version=wanted.version, label=wanted.label)
    template, version, body = await templates.desk.find(tenant, use)
    model = templates.desk.model_for(body, wanted.model, caller.models)
    prefix = await encoded(partial(pins.warmer.prefix, tenant, template, version, model))
    if not prefix.keys:
        raise InvalidRequest("Nothing of this template can be cached: it has no whole block that never varies.")
    return _Meant(tenant=tenant, template=template, version=version, prefix=prefix)


def _for_whom(caller: Caller) -> TenantName:
    if caller.owner is None:
        message = "Name the `tenant` in whose cache it is to be: tenants' caches are kept apart."
        raise InvalidRequest(message, param="tenant")
    return caller.owner


def _reference(version: int | None, label: str | None) -> str:
    return str(version) if version is not None else label or ""


def _not_pinned(name: str, reference: str | None, model: str | None, there: Sequence[Pin]) -> str:
    what = f" as {reference[:100]!r}" if reference else " without a version or label" if there else ""
    where = f" for model {model[:100]!r}" if model is not None else ""
    others = ", ".join(f"{_named(name, pin)} of {pin.model!r}" for pin in there)
    return f"Template {name!r} is not pinned{what}{where}{f'; pinned are {others}' if others else ''}."


def _named(name: str, pin: Pin) -> str:
    return f"{name}@{pin.reference}" if pin.reference else name


def _pin(meant: _Meant, wanted: PinWanted, author: Author) -> Pin:
    most = wanted.max_replicas or wanted.replicas
    if most < wanted.replicas:
        message = f"`max_replicas` must be at least `replicas`, {wanted.replicas}."
        raise InvalidRequest(message, param="max_replicas")
    return Pin(
        tenant=meant.tenant,
        template_id=meant.template.id,
        reference=_reference(wanted.version, wanted.label),
        model=meant.prefix.model,
        replicas=wanted.replicas,
        max_replicas=most,
        expires_at_s=None if wanted.ttl_s is None else author.at_s + wanted.ttl_s,
        created_at_s=author.at_s,
        created_by=KeyId(author.name),
    )


def _check_tokens(keeper: Keeper, templates: TemplateService, pin: Pin, n_tokens: int) -> None:
    """Raise `Conflict` if its tenant, or the key, may not pin so much."""
    theirs, its = templates.limits(pin.tenant, pin.created_by)
    more = pin.replicas * n_tokens
    for whose, limits, key_id in ((f"tenant {pin.tenant!r}", theirs, None), ("this key", its, pin.created_by)):
        taken = keeper.pinned_tokens(pin.tenant, key_id, pin)
        if limits.pinned_tokens is not None and taken + more > limits.pinned_tokens:
            message = (
                f"Limit of pinned tokens reached for {whose}: {limits.pinned_tokens} allowed, {taken} pinned, "
                f"{more} wanted."
            )
            raise Conflict(message, code="pin_budget_exceeded")


def _pinning(keeper: Keeper, templates: TemplateService, caller: Caller, pin: Pin, prefix: Prefix) -> list[str]:
    """What it would do; tenants are not told of what others have pinned, nor of what is cached for others."""
    seen = keeper.foresee(pin, prefix)
    is_operator = caller.principal.tenant is None
    where = [*kept(seen)] if is_operator else [f"{size(seen)} are kept on {_gpus(pin.replicas)}."]
    theirs, its = templates.limits(pin.tenant, pin.created_by)
    budgets = [_budget(keeper, pin, seen.tokens, pin.tenant, theirs, None)]
    if its.pinned_tokens is not None:
        budgets.append(_budget(keeper, pin, seen.tokens, "This key", its, pin.created_by))
    return where + [budgeted(budget) for budget in budgets]


def _budget(keeper: Keeper, pin: Pin, n_tokens: int, whose: str, limits: Limits, key_id: KeyId | None) -> PinBudget:
    return PinBudget(
        whose=whose,
        others_tokens=keeper.pinned_tokens(pin.tenant, key_id, pin),
        tokens=pin.replicas * n_tokens,
        limit_tokens=limits.pinned_tokens,
    )


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _warmed(
    pins: PinService, meant: _Meant, chosen: Sequence[Candidate], tries: dict[str, Try], *, is_told: bool
) -> Warmed:
    states = pins.warmer.states(meant.prefix)
    rows = []
    for each in chosen:
        state, tokens = states.get(each.gpu, (None, None))
        tried = tries.get(each.gpu)
        problem = tried.error.message if tried and tried.error else None
        rows.append(
            WarmRow(
                gpu=each.gpu,
                state=state,
                cached_tokens=tokens,
                cost_ms=each.cost_ms if is_told else None,
                request_id=tried.request_id if tried else None,
                problem=problem,
            )
        )
    return Warmed(
        name=meant.template.name,
        version=meant.version.number,
        model=meant.prefix.model,
        tenant=meant.tenant,
        cacheable_tokens=len(meant.prefix.tokens),
        rows=rows,
    )
