"""Templates: a tenant's own under `/v1`, the operator's, and any tenant's, under `/admin/v1`. The same routes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter

from preble.daemon.api.admin import Limit
from preble.daemon.api.bodies import convert, read_body, read_object
from preble.daemon.api.changes import DryRun, IfMatch, answer, author_of, etag, planned, versions
from preble.daemon.api.models import ServedModel, models_of
from preble.daemon.api.schema import keyed
from preble.daemon.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed, TooLarge
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.templates.body import variables_of
from preble.daemon.templates.directory import Owner, Template, Version
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.model import Principal, Scope
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.moments import iso
from preble.daemon.wire.settings import Limits
from preble.daemon.wire.templates import (
    LATEST,
    LabelMove,
    Rendered,
    TemplateBody,
    TemplateCreate,
    TemplatePage,
    TemplateRender,
    TemplateRow,
    TemplateUse,
    TemplateVersion,
    VersionPage,
    VersionRow,
)

AnyRequest = Request[Any, Any, Any]
_ANSWERS: Any = TemplateVersion | PlannedChange
_THERE = {200: ResponseSpec(_ANSWERS, generate_examples=False, description="There already; or, a dry run")}
Number = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True)
class TemplateService:
    """What the routes below need, put together by the composition root."""

    authenticate: Callable[[AnyRequest, Scope], Principal]
    directory: Directory
    desk: TemplateDesk
    served: Mapping[str, ServedModel]
    limits: Callable[[TenantName, KeyId], tuple[Limits, Limits]]
    """Those of a tenant, and those of its key: all of them hold."""

    def models(self, principal: Principal) -> Collection[str]:
        """Those that somebody may ask."""
        limits = () if principal.tenant is None else self.limits(principal.tenant, principal.key_id)
        return models_of(self.served, limits)


Templates = NamedDependency[TemplateService]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, about whose templates."""

    principal: Principal
    owner: Owner
    models: Collection[str]


Reader = NamedDependency[Caller]
Writer = NamedDependency[Caller]


class _TemplateRoutes(Controller):
    """What both have."""

    @get(operation_class=keyed(InvalidRequest, NotFound))
    async def list_templates(
        self, templates: Templates, reader: Reader, limit: Limit = 100, after: FromQuery[str | None] = None
    ) -> TemplatePage:
        """Templates by name, the operator's included; those that come `after` a name."""
        found = templates.desk.store.directory.all_visible(reader.owner)
        left = [each for each in found if after is None or (each.name, each.owner is None) > _place(after)]
        rows = [_row(each) for each in left[:limit]]
        return TemplatePage(rows=rows, next=_after(rows[-1]) if len(left) > limit else None)

    @post(
        status_code=201,
        responses=_THERE,
        operation_class=keyed(InvalidRequest, NotFound, Conflict, TooLarge, body=TemplateCreate, tagged=True),
    )
    async def register_template(
        self, request: AnyRequest, templates: Templates, writer: Writer, dry_run: DryRun = False
    ) -> Response[TemplateVersion]:
        """Make a version, and say what of it can be cached. One that says the same is answered with 200."""
        wanted = convert(read_object(await read_body(request)), TemplateCreate)
        body = TemplateBody(**{name: getattr(wanted, name) for name in TemplateBody.__struct_fields__})
        author = author_of(request, writer.principal)
        done = await templates.desk.register(
            writer.owner,
            wanted.name,
            body,
            author,
            writer.models,
            description=wanted.description,
            dry_run=dry_run,
        )
        if dry_run:
            return Response(planned(done.change), status_code=200)  # type: ignore[arg-type]
        row = await _version(templates, writer, *done.value)
        status = 201 if done.is_new else 200
        return Response(row, status_code=status, headers={"etag": etag(row.changes)})

    @get("/{name:str}", operation_class=keyed(InvalidRequest, NotFound, tagged=True))
    async def show_template(
        self,
        templates: Templates,
        reader: Reader,
        name: FromPath[str],
        version: Number = None,
        label: FromQuery[str | None] = None,
    ) -> Response[TemplateVersion]:
        """One version with its body, and what of it can be cached; without either, the one that requests get."""
        if version is not None and label is not None:
            raise InvalidRequest("`version` and `label` exclude each other.", param="version")
        template = templates.desk.store.directory.visible(reader.owner, name)
        row = await _version(templates, reader, template, template.version(version, label))
        return Response(row, headers={"etag": etag(row.changes)})

    @get("/{name:str}/versions", operation_class=keyed(InvalidRequest, NotFound))
    async def list_versions(
        self, templates: Templates, reader: Reader, name: FromPath[str], limit: Limit = 100, before: Number = None
    ) -> VersionPage:
        """Versions of a template, newest first; those `before` a number."""
        template = templates.desk.store.directory.visible(reader.owner, name)
        numbers = sorted((each for each in template.versions if before is None or each < before), reverse=True)
        rows = [_version_row(template, template.versions[number]) for number in numbers[:limit]]
        return VersionPage(rows=rows, next=rows[-1].version if len(numbers) > limit else None)

    @post(
        "/{name:str}/render",
        status_code=200,
        operation_class=keyed(InvalidRequest, NotFound, TooLarge, body=TemplateRender),
    )
    async def render_template(
        self, request: AnyRequest, templates: Templates, reader: Reader, name: FromPath[str]
    ) -> Rendered:
        """A template with values in place of its variables, as a request that names it would have it."""
        wanted = convert(read_object(await read_body(request)), TemplateRender)
        use = TemplateUse(name=name, version=wanted.version, label=wanted.label, variables=wanted.variables)
        version, body = await templates.desk.rendered(reader.owner, use, reader.models)
        messages = None if body.messages is None else msgspec.to_builtins(body.messages)
        return Rendered(name=name, version=version.number, text=body.text, messages=messages, tools=body.tools)

    @put(
        "/{name:str}/labels/{label:str}",
        status_code=200,
        operation_class=keyed(
            InvalidRequest, NotFound, Conflict, PreconditionFailed, TooLarge, body=LabelMove, tagged=True
        ),
    )
    async def move_label(
        self,
        request: AnyRequest,
        templates: Templates,
        writer: Writer,
        name: FromPath[str],
        label: FromPath[str],
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response[TemplateRow | PlannedChange]:
        """Point a label to a version, from the next request on."""
        wanted = convert(read_object(await read_body(request)), LabelMove)
        return await _label(request, templates, writer, (name, label, wanted.version), if_match, dry_run)

    @delete(
        "/{name:str}/labels/{label:str}",
        status_code=200,
        operation_class=keyed(InvalidRequest, NotFound, PreconditionFailed, tagged=True),
    )
    async def remove_label(
        self,
        request: AnyRequest,
        templates: Templates,
        writer: Writer,
        name: FromPath[str],
        label: FromPath[str],
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response[TemplateRow | PlannedChange]:
        """Take a label away. Its version stays."""
        return await _label(request, templates, writer, (name, label, None), if_match, dry_run)

    @delete("/{name:str}", status_code=200, operation_class=keyed(InvalidRequest, NotFound, PreconditionFailed))
    async def delete_template(
        self,
        request: AnyRequest,
        templates: Templates,
        writer: Writer,
        name: FromPath[str],
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response[TemplateRow | PlannedChange]:
        """Delete a template with all its versions, and answer with what it was. The numbers are not given again."""
        author = author_of(request, writer.principal)
        done = await templates.desk.store.delete(
            writer.owner, name, author, if_version=versions(if_match), dry_run=dry_run
        )
        return answer(done, _row, dry_run=dry_run, version=None)


def tenant() -> Callable[..., Caller]:
    """Finds the caller of a tenant's route."""

    def find(request: AnyRequest, templates: Templates) -> Caller:
        principal = templates.authenticate(request, Scope.TEMPLATES)
        assert principal.tenant is not None, "only tenants' keys have the scope"
        return Caller(principal, principal.tenant, templates.models(principal))

    return find


def operator(scope: Scope) -> Callable[..., Caller]:
    """Finds the caller of an operator's route, which may be about one `tenant`."""

    def find(request: AnyRequest, templates: Templates, tenant: FromQuery[str | None] = None) -> Caller:
        principal = templates.authenticate(request, scope)
        owner = None if tenant is None else templates.directory.tenant(tenant).name
        return Caller(principal, owner, templates.models(principal))

    return find


class TemplatesController(_TemplateRoutes):
    """`/v1/templates...`, for tenants' keys."""

    path = "/v1/templates"
    tags = ("templates",)
    dependencies = {  # noqa: RUF012 - Litestar's own type
        "reader": Provide(tenant(), sync_to_thread=False),
        "writer": Provide(tenant(), sync_to_thread=False),
    }


class AdminTemplatesController(_TemplateRoutes):
    """`/admin/v1/templates...`, for operators' keys: those that all tenants share, or those of one `tenant`."""

    path = "/admin/v1/templates"
    tags = ("operators",)
    dependencies = {  # noqa: RUF012 - Litestar's own type
        "reader": Provide(operator(Scope.ADMIN_READ), sync_to_thread=False),
        "writer": Provide(operator(Scope.ADMIN_WRITE), sync_to_thread=False),
    }


async def _label(
    request: AnyRequest,
    templates: TemplateService,
    writer: Caller,
    move: tuple[str, str, int | None],
    if_match: str | None,
    dry_run: bool,
) -> Response[Any]:
    done = await templates.desk.store.label(
        writer.owner,
        *move,
        author_of(request, writer.principal),
        if_version=versions(if_match),
        dry_run=dry_run,
    )
    return answer(done, _row, dry_run=dry_run, version=done.value.changes)


def _place(after: str) -> tuple[str, bool]:
    """Where a page begins: a name, with a slash behind it if the operator's of that name has been told too."""
    return after.removesuffix("/"), after.endswith("/")


def _after(row: TemplateRow) -> str:
    return row.name if row.owner is not None else f"{row.name}/"


async def _version(templates: TemplateService, caller: Caller, template: Template, version: Version) -> TemplateVersion:
    body = await templates.desk.store.body(template, version)
    analyses = await templates.desk.analyses(caller.owner, template, version, caller.models)
    return TemplateVersion(
        **msgspec.structs.asdict(_row(template)),
        version=version.number,
        digest=version.digest.hex(),
        body=body,
        variables=variables_of(body),
        analyses=analyses,
    )


def _row(template: Template) -> TemplateRow:
    return TemplateRow(
        name=template.name,
        owner=template.owner,
        description=template.description,
        created_at=iso(template.created_at_s),
        created_by=template.created_by,
        latest=template.latest.number,
        labels=dict(sorted(template.labels.items())),
        changes=template.changes,
    )


def _version_row(template: Template, version: Version) -> VersionRow:
    labels = [label for label, number in sorted(template.labels.items()) if number == version.number]
    return VersionRow(
        version=version.number,
        digest=version.digest.hex(),
        created_at=iso(version.created_at_s),
        created_by=version.created_by,
        labels=[*labels, LATEST] if version is template.latest else labels,
    )
