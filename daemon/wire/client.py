"""The operator's side of the admin routes, for the command line and the console."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from preble.daemon.errors import PrebleError, Refused, Unreachable
from preble.daemon.wire.accounts import (
    AuditPage,
    AuditRow,
    KeyCreated,
    KeyPage,
    KeyRow,
    PlannedChange,
    TenantPage,
    TenantRow,
)
from preble.daemon.wire.admin import Explanation, GpuRow, UsagePage, UsageTotals
from preble.daemon.wire.live import LiveEvent
from preble.daemon.wire.pins import PinPage, PinRow, PinWanted, TemplateStats, TemplateStatsPage, Unpin, Warmed, WarmUp
from preble.daemon.wire.templates import (
    Rendered,
    TemplateCreate,
    TemplatePage,
    TemplateRender,
    TemplateRow,
    TemplateVersion,
    VersionPage,
    VersionRow,
)

_CONNECT_TIMEOUT_S = 5.0
_TIMEOUT_S = 30.0
_PATIENT = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
_LIVE = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S, read=2 * _TIMEOUT_S)
_decode_event = msgspec.json.Decoder(LiveEvent).decode
_WHOLE_PAGE = "1000"
OPERATORS, TENANTS = "/admin/v1", "/v1"
"""Where the routes are, by whose keys they want."""
_T = TypeVar("_T")


class BadKey(Refused):
    """The daemon does not know the key, or got none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which usage to look at. None: all."""

    tenant: str | None = None
    key_id: str | None = None
    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fields(self) -> dict[str, str | None]:
        """The same in a query."""
        times = {"since": self.since, "until": self.until}
        texts = {name: None if at is None else at.isoformat() for name, at in times.items()}
        return {"tenant": self.tenant, "key": self.key_id, "model": self.model, **texts}


class AdminClient:
    """Speaks to one daemon with an operator's key. Every method raises `Unreachable` and `Refused`.

    `key` None sends none: the daemon's refusal then says that it is there. With a tenant's key, and `routes` for it,
    only what is about templates works.
    """

    def __init__(self, url: str, key: str | None, routes: str = OPERATORS) -> None:
        self.request_id: str | None = None
        """That the daemon gave the latest request which it answered."""
        self._routes = routes
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self._url}{routes}",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy for the web is none for the daemon
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    # Whatever changes tenants and keys takes `dry_run`, and then says what would change.

    def tenants(self) -> list[TenantRow]:
        """Every tenant."""
        page = self._get("/tenants", TenantPage, limit=_WHOLE_PAGE)
        rows = page.rows
        while page.next is not None:
            page = self._get("/tenants", TenantPage, limit=_WHOLE_PAGE, after=page.next)
            rows += page.rows
        return rows

    def tenant(self, name: str) -> TenantRow:
        """One tenant."""
        return self._get(f"/tenants/{_segment(name)}", TenantRow)

    def create_tenant(
        self, name: str, settings: Mapping[str, Any] | None = None, *, dry_run: bool = False
    ) -> TenantRow | PlannedChange:
        """Make one, unless one of this name and these settings is there."""
        return self._change("POST", "/tenants", TenantRow, {**(settings or {}), "name": name}, dry_run=dry_run)

    def update_tenant(
        self, name: str, settings: Mapping[str, Any], *, if_version: int | None = None, dry_run: bool = False
    ) -> TenantRow | PlannedChange:
        """Change what is named, if it still has the version; None: whichever it has."""
        path = f"/tenants/{_segment(name)}"
        return self._change("PATCH", path, TenantRow, settings, if_version=if_version, dry_run=dry_run)

    def delete_tenant(
        self, name: str, *, revoke_keys: bool = False, dry_run: bool = False
    ) -> TenantRow | PlannedChange:
        """Delete one, and its working keys too if that is asked for."""
        query = {"revoke_keys": str(revoke_keys).lower()}
        return self._change("DELETE", f"/tenants/{_segment(name)}", TenantRow, dry_run=dry_run, query=query)

    def rotate_salt(self, name: str, *, dry_run: bool = False) -> TenantRow | PlannedChange:
        """Give up what is cached for one."""
        return self._change("POST", f"/tenants/{_segment(name)}/rotate-salt", TenantRow, dry_run=dry_run)

    def keys(self, tenant: str | None = None) -> list[KeyRow]:
        """Keys, without their secrets."""
        page = self._get("/keys", KeyPage, limit=_WHOLE_PAGE, tenant=tenant)
        rows = page.rows
        while page.next is not None:
            page = self._get("/keys", KeyPage, limit=_WHOLE_PAGE, tenant=tenant, after=page.next)
            rows += page.rows
        return rows

    def key(self, key_id: str) -> KeyRow:
        """One key, without its secret."""
        return self._get(f"/keys/{_segment(key_id)}", KeyRow)

    def create_key(
        self,
        tenant: str | None,
        settings: Mapping[str, Any],
        *,
        request_name: str | None = None,
        dry_run: bool = False,
    ) -> KeyCreated | PlannedChange:
        """Make one, for an operator if `tenant` is None; this is the only time it can be read.

        With a `request_name` the same request makes one key however often it is sent.
        """
        headers = {} if request_name is None else {"idempotency-key": request_name}
        body = {**settings, "tenant": tenant}
        return self._change("POST", "/keys", KeyCreated, body, headers=headers, dry_run=dry_run)

    def update_key(
        self, key_id: str, settings: Mapping[str, Any], *, if_version: int | None = None, dry_run: bool = False
    ) -> KeyRow | PlannedChange:
        """Change what is named, if it still has the version; None: whichever it has."""
        path = f"/keys/{_segment(key_id)}"
        return self._change("PATCH", path, KeyRow, settings, if_version=if_version, dry_run=dry_run)

    def rotate_key(self, key_id: str, overlap_s: float, *, dry_run: bool = False) -> KeyCreated | PlannedChange:
        """Make another of the same settings; the old one works for the overlap."""
        path = f"/keys/{_segment(key_id)}/rotate"
        return self._change("POST", path, KeyCreated, {"overlap_s": overlap_s}, dry_run=dry_run)

    def revoke_key(self, key_id: str, *, dry_run: bool = False) -> KeyRow | PlannedChange:
        """Make one useless."""
        return self._change("POST", f"/keys/{_segment(key_id)}/revoke", KeyRow, dry_run=dry_run)

    def changes(self, tenant: str | None = None, since: datetime | None = None, limit: int = 100) -> list[AuditRow]:
        """The newest administrative changes."""
        rows: list[AuditRow] = []
        after = None
        while len(rows) < limit:
            page = self._get(
                "/audit",
                AuditPage,
                tenant=tenant,
                since=since.isoformat() if since else None,
                limit=str(min(limit - len(rows), int(_WHOLE_PAGE))),
                after=after,
            )
            rows += page.rows
            if page.next is None:
                break
            after = str(page.next)
        return rows

    # Templates are those that all tenants share, or those of one `tenant`; with a tenant's key they are its own.

    def templates(self, tenant: str | None = None) -> list[TemplateRow]:
        """Every template that can be seen."""
        page = self._get("/templates", TemplatePage, limit=_WHOLE_PAGE, **self._of(tenant))
        rows = page.rows
        while page.next is not None:
            page = self._get("/templates", TemplatePage, limit=_WHOLE_PAGE, **self._of(tenant), after=page.next)
            rows += page.rows
        return rows

    def register_template(
        self, template: TemplateCreate, tenant: str | None = None, *, dry_run: bool = False
    ) -> TemplateVersion | PlannedChange:
        """Make a version, unless there is one that says the same."""
        body = msgspec.to_builtins(template)
        return self._change("POST", "/templates", TemplateVersion, body, dry_run=dry_run, query=self._of(tenant))

    def template(
        self, name: str, version: int | None = None, label: str | None = None, tenant: str | None = None
    ) -> TemplateVersion:
        """One version; with neither number nor label the one that requests get."""
        number = None if version is None else str(version)
        return self._get(
            f"/templates/{_segment(name)}", TemplateVersion, version=number, label=label, **self._of(tenant)
        )

    def template_versions(self, name: str, tenant: str | None = None) -> list[VersionRow]:
        """All versions, newest first."""
        path = f"/templates/{_segment(name)}/versions"
        page = self._get(path, VersionPage, limit=_WHOLE_PAGE, **self._of(tenant))
        rows = page.rows
        while page.next is not None:
            page = self._get(path, VersionPage, limit=_WHOLE_PAGE, **self._of(tenant), before=str(page.next))
            rows += page.rows
        return rows

    def render_template(self, name: str, use: TemplateRender, tenant: str | None = None) -> Rendered:
        """A version with values in place of its variables."""
        path = f"/templates/{_segment(name)}/render"
        return self._call("POST", path, Rendered, json=msgspec.to_builtins(use), params=self._of(tenant))

    def label_template(
        self,
        name: str,
        label: str,
        version: int | None,
        tenant: str | None = None,
        *,
        if_version: int | None = None,
        dry_run: bool = False,
    ) -> TemplateRow | PlannedChange:
        """Point a label to a version, or take it away (None), if the template still has so many changes."""
        path = f"/templates/{_segment(name)}/labels/{_segment(label)}"
        method, body = ("DELETE", None) if version is None else ("PUT", {"version": version})
        return self._change(
            method, path, TemplateRow, body, if_version=if_version, dry_run=dry_run, query=self._of(tenant)
        )

    def delete_template(
        self, name: str, tenant: str | None = None, *, if_version: int | None = None, dry_run: bool = False
    ) -> TemplateRow | PlannedChange:
        """Delete one with all its versions."""
        path = f"/templates/{_segment(name)}"
        return self._change("DELETE", path, TemplateRow, if_version=if_version, dry_run=dry_run, query=self._of(tenant))

    def warm_template(self, name: str, wanted: WarmUp, tenant: str | None = None, *, dry_run: bool = False) -> Warmed:
        """Bring a version into GPUs' caches; answers when it is there, however long that takes."""
        path, query = f"/templates/{_segment(name)}/warm", {**self._of(tenant), "dry_run": str(dry_run).lower()}
        return self._call("POST", path, Warmed, json=msgspec.to_builtins(wanted), params=query, timeout=_PATIENT)

    def pin_template(
        self, name: str, wanted: PinWanted, tenant: str | None = None, *, dry_run: bool = False
    ) -> PinRow | PlannedChange:
        """Keep a version in GPUs' caches."""
        path, body = f"/templates/{_segment(name)}/pin", msgspec.to_builtins(wanted)
        return self._change("POST", path, PinRow, body, dry_run=dry_run, query=self._of(tenant))

    def unpin_template(
        self, name: str, which: Unpin, tenant: str | None = None, *, dry_run: bool = False
    ) -> PinPage | PlannedChange:
        """Let pins go."""
        query = {**self._of(tenant), **which.fields()}
        return self._change("DELETE", f"/templates/{_segment(name)}/pin", PinPage, dry_run=dry_run, query=query)

    def template_pins(self, name: str, tenant: str | None = None) -> list[PinRow]:
        """How its pins stand."""
        return self._get(f"/templates/{_segment(name)}/pins", PinPage, **self._of(tenant)).rows

    def template_stats(self, name: str | None = None, tenant: str | None = None) -> list[TemplateStats]:
        """What templates have saved, those that saved most first."""
        return self._get("/template-stats", TemplateStatsPage, limit=_WHOLE_PAGE, name=name, **self._of(tenant)).rows

    def gpus(self) -> list[GpuRow]:
        """Every engine."""
        return self._get("/gpus", list[GpuRow])

    def order_gpu(self, gpu: str, order: str) -> GpuRow:
        """`drain`, `undrain` or `restart` one. A restart answers when the GPU's requests have ended, however long."""
        return self._call("POST", f"/gpus/{_segment(gpu)}/{order}", GpuRow, timeout=_PATIENT)

    def usage(self, which: "UsageQuery", limit: int = 100) -> UsagePage:
        """The ledger's newest requests, up to 1000, and the totals of all that match, by tenant."""
        return self._get("/usage", UsagePage, limit=str(limit), **which.fields())

    def usage_by(self, by: str, which: "UsageQuery") -> list[UsageTotals]:
        """The totals of each tenant, key, model, hour, day or month."""
        totals: list[UsageTotals] = []
        offset: int | None = 0
        while offset is not None:
            page = self._get("/usage", UsagePage, by=by, limit=_WHOLE_PAGE, offset=str(offset), **which.fields())
            totals += page.totals
            offset = page.next
        return totals

    def explain(self, request_id: str) -> Explanation:
        """Why a request went where it went."""
        return self._get(f"/explain/{_segment(request_id)}", Explanation)

    def dry_run(self, body: bytes, tenant: str | None = None) -> Explanation:
        """What would become of a request with that body now, if it were this tenant's."""
        query = {} if tenant is None else {"tenant": tenant}
        return self._call("POST", "/explain", Explanation, content=body, params=query)

    def live(self, after: int | None = None) -> Iterator[LiveEvent]:
        """What happens as it happens, for as long as the daemon tells it; without what is known up to `after`."""
        params = {} if after is None else {"after": str(after)}
        try:
            with self._http.stream("GET", "/live", params=params, timeout=_LIVE) as response:
                if not response.is_success:
                    response.read()
                    self._refuse(response, "GET", "/live")
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        yield _decode_event(line[len("data: ") :])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _of(self, tenant: str | None) -> dict[str, str]:
        """Whose templates. Raises `Refused`: with a tenant's key there is no choice."""
        if tenant is not None and self._routes != OPERATORS:
            raise Refused("this is a tenant's key: leave out --tenant, or take an operator's")
        return {} if tenant is None else {"tenant": tenant}

    def _get(self, path: str, kind: type[_T], **query: str | None) -> _T:
        return self._call("GET", path, kind, params={name: value for name, value in query.items() if value is not None})

    def _change(
        self,
        method: str,
        path: str,
        kind: type[_T],
        body: Mapping[str, Any] | None = None,
        *,
        dry_run: bool,
        if_version: int | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> _T | PlannedChange:
        tag = {} if if_version is None else {"if-match": f'"{if_version}"'}
        request: dict[str, Any] = {"json": body, "headers": {**(headers or {}), **tag}}
        if dry_run:
            return self._call(method, path, PlannedChange, params={**(query or {}), "dry_run": "true"}, **request)
        return self._call(method, path, kind, params=query, **request)

    def _call(self, method: str, path: str, kind: type[_T], **request: Any) -> _T:
        try:
            response = self._http.request(method, path, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        self.request_id = response.headers.get("x-request-id")
        if response.is_success:
            try:
                return msgspec.json.decode(response.content, type=kind)
            except ValueError as error:
                raise self._stranger(response, method, path) from error
        self._refuse(response, method, path)

    def _unreachable(self, error: Exception) -> Unreachable:
        why = str(error) or type(error).__name__
        return Unreachable(f"no daemon answers at {self._url}: {why}. Is `preble serve` running?")

    def _stranger(self, response: httpx.Response, method: str, path: str) -> PrebleError:
        what = f"{self._url} is no Preble daemon of this version: it answered {method} {path} with"
        return PrebleError(f"{what} {response.status_code}")

    def _refuse(self, response: httpx.Response, method: str, path: str) -> NoReturn:
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._stranger(response, method, path) from error
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise BadKey(message)
        raise Refused(message) if response.is_client_error else PrebleError(message)


def _segment(text: str) -> str:
    """One part of a path. Raises `Refused` for what would be more, or none: nothing has such a name."""
    if text in ("", ".", "..") or "/" in text:
        raise Refused(f"nothing is named {text!r}")
    return quote(text)
