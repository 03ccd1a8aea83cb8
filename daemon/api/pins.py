"""Templates in GPUs' caches: warmed once, or kept there. A tenant's under `/v1`, any tenant's under `/admin/v1`."""

from asyncio import gather
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Controller, Request, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath

from preble.daemon.api.bodies import convert, read_body, read_object
from preble.daemon.api.changes import DryRun, author_of
from preble.daemon.api.schema import keyed
from preble.daemon.api.templates import Caller, TemplateService, operator, tenant
from preble.daemon.errors import EngineFailed, InvalidRequest, NotFound, TooLarge, Unavailable
from preble.daemon.flow.warming import Prefix, Try, Warmer
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.sched.types import Candidate
from preble.daemon.store.audit import AuditLog
from preble.daemon.templates.directory import Template, Version
from preble.daemon.tenancy.audit import Change
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.pins import Warmed, WarmRow, WarmUp
from preble.daemon.wire.templates import TemplateUse

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class PinService:
    """What the routes below need, put together by the composition root."""

    warmer: Warmer
    audit: AuditLog


Pins = NamedDependency[PinService]
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
        operation_class=keyed(InvalidRequest, NotFound, TooLarge, EngineFailed, Unavailable, body=WarmUp),
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


async def _meant(pins: PinService, templates: TemplateService, caller: Caller, name: str, wanted: WarmUp) -> _Meant:
    if caller.owner is None:
        message = "Name the `tenant` in whose cache it is to be: tenants' caches are kept apart."
        raise InvalidRequest(message, param="tenant")
    use = TemplateUse(name=name, version=wanted.version, label=wanted.label)
    template, version, body = await templates.desk.find(caller.owner, use)
    model = templates.desk.model_for(body, wanted.model, caller.models)
    prefix = await pins.warmer.prefix(caller.owner, template, version, model)
    return _Meant(tenant=caller.owner, template=template, version=version, prefix=prefix)


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
