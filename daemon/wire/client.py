"""The operator's side of the admin routes, for the command line and the console."""

from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from preble.daemon.errors import PrebleError, Refused, Unreachable
from preble.daemon.wire.admin import Explanation, GpuRow, KeyCreated, KeyRow, TenantRow, UsagePage

_CONNECT_TIMEOUT_S = 5.0
_TIMEOUT_S = 30.0
_PATIENT = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
_T = TypeVar("_T")


class BadKey(Refused):
    """The daemon does not know the key, or got none."""


class AdminClient:
    """Speaks to one daemon with an operator's key. Every method raises `Unreachable` and `Refused`.

    `key` None sends none: the daemon's refusal then says that it is there.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self._url}/admin/v1",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy for the web is none for the daemon
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def tenants(self) -> list[TenantRow]:
        """Every tenant."""
        return self._get("/tenants", list[TenantRow])

    def tenant(self, name: str) -> TenantRow:
        """One tenant."""
        return self._get(f"/tenants/{_segment(name)}", TenantRow)

    def create_tenant(self, name: str) -> TenantRow:
        """Make one."""
        return self._post("/tenants", TenantRow, {"name": name})

    def keys(self, tenant: str | None = None) -> list[KeyRow]:
        """Keys, without their secrets."""
        return self._get("/keys", list[KeyRow], tenant=tenant)

    def create_key(self, tenant: str, *, name: str = "", expires_in_days: float | None = None) -> KeyCreated:
        """Make one; this is the only time it can be read."""
        return self._post("/keys", KeyCreated, {"tenant": tenant, "name": name, "expires_in_days": expires_in_days})

    def revoke_key(self, key_id: str) -> KeyRow:
        """Make one useless."""
        return self._post(f"/keys/{_segment(key_id)}/revoke", KeyRow)

    def gpus(self) -> list[GpuRow]:
        """Every engine."""
        return self._get("/gpus", list[GpuRow])

    def order_gpu(self, gpu: str, order: str) -> GpuRow:
        """`drain`, `undrain` or `restart` one. A restart answers when the GPU's requests have ended, however long."""
        return self._call("POST", f"/gpus/{_segment(gpu)}/{order}", GpuRow, timeout=_PATIENT)

    def usage(self, tenant: str | None = None, since: datetime | None = None, limit: int = 100) -> UsagePage:
        """The ledger's newest rows, up to 1000, and the totals of all that match."""
        since_text = since.isoformat() if since else None
        return self._get("/usage", UsagePage, tenant=tenant, since=since_text, limit=str(limit))

    def explain(self, request_id: str) -> Explanation:
        """Why a request went where it went."""
        return self._get(f"/explain/{_segment(request_id)}", Explanation)

    def dry_run(self, body: bytes, tenant: str | None = None) -> Explanation:
        """What would become of a request with that body now, if it were this tenant's."""
        query = {} if tenant is None else {"tenant": tenant}
        return self._call("POST", "/explain", Explanation, content=body, params=query)

    def _get(self, path: str, kind: type[_T], **query: str | None) -> _T:
        return self._call("GET", path, kind, params={name: value for name, value in query.items() if value is not None})

    def _post(self, path: str, kind: type[_T], body: dict[str, Any] | None = None) -> _T:
        return self._call("POST", path, kind, json=body)

    def _call(self, method: str, path: str, kind: type[_T], **request: Any) -> _T:
        try:
            response = self._http.request(method, path, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise Unreachable(f"no daemon answers at {self._url}: {why}. Is `preble serve` running?") from error
        try:
            if response.is_success:
                return msgspec.json.decode(response.content, type=kind)
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError) as error:
            what = f"{self._url} is no Preble daemon of this version: it answered {method} {path} with"
            raise PrebleError(f"{what} {response.status_code}") from error
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise BadKey(message)
        raise Refused(message) if response.is_client_error else PrebleError(message)


def _segment(text: str) -> str:
    """One part of a path. Raises `Refused` for what would be more, or none: nothing has such a name."""
    if text in ("", ".", "..") or "/" in text:
        raise Refused(f"nothing is named {text!r}")
    return quote(text)
