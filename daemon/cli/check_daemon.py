"""What `preble doctor` says of a daemon: whether one runs, and how it and its engines are."""

from collections.abc import Iterator
from typing import Any

import httpx

from preble.daemon import __version__
from preble.daemon.cli.checks import Check, fail, ok, warn
from preble.daemon.cli.listening import take_address
from preble.daemon.cli.remote import Remote
from preble.daemon.config import ServerConfig
from preble.daemon.errors import PrebleError
from preble.daemon.wire.admin import GpuRow

_TIMEOUT_S = 5.0


def is_preble(url: str) -> bool:
    """Whether a Preble daemon answers there."""
    response = _get(url, "/health/live")
    return response is not None and _json(response).get("status") == "live"


def check_port(server: ServerConfig) -> Check:
    """Whether a daemon could listen where it is to."""
    try:
        for each in take_address(server):
            each.close()
    except PrebleError as error:
        return fail("port", str(error), "end what holds it, or change server.host or server.port")
    return ok("port", f"{server.host}:{server.port} is free")


def check_daemon(url: str, remote: Remote) -> Iterator[Check]:
    """Whether it lives, is ready and of our version, and the state of each GPU."""
    if not is_preble(url):
        yield fail("daemon", f"no Preble daemon answers at {url}", "start it with `preble serve`, or change --url")
        return
    yield ok("daemon", f"answers at {url}")
    yield _check_ready(url)
    yield from _check_version(url)
    try:
        with remote.client() as client:
            rows = client.gpus()
    except PrebleError as error:
        yield warn("gpus", f"not asked: {error}", "name the operator's key with --key-file or PREBLE_KEY")
        return
    for row in rows:
        yield check_gpu(row)


def _check_ready(url: str) -> Check:
    response = _get(url, "/health/ready")
    if response is not None and response.is_success:
        return ok("ready", "every model has an engine that serves")
    problem = _json(response).get("error") if response is not None else None
    reason = str(problem["message"]) if isinstance(problem, dict) and "message" in problem else "it does not say why"
    return fail("ready", reason, "wait while engines start; else read the logs in DATA_DIR/logs")


def _check_version(url: str) -> Iterator[Check]:
    response = _get(url, "/schema/openapi.json")
    found = _json(response).get("info", {}).get("version") if response is not None else None
    if found is None:
        return  # its routes need not be described
    if found == __version__:
        yield ok("version", f"{found}, as here")
    else:
        detail = f"the daemon is Preble {found}, and this is {__version__}"
        yield warn("version", detail, "restart the daemon, so that both are of one version")


def check_gpu(row: GpuRow) -> Check:
    """Whether it is in service, or on its way."""
    name, found = f"gpu {row.gpu}", f"{row.state}, for {row.model}" + (f": {row.detail}" if row.detail else "")
    match row.state:
        case "ready":
            return ok(name, found)
        case "draining":
            return warn(name, found, f"preble gpu undrain {row.gpu}, when it is to serve again")
        case "starting" | "stopping":
            return warn(name, found, "wait")
        case _:
            return fail(name, found, f"read DATA_DIR/logs/{row.gpu}.log; then preble gpu restart {row.gpu}")


def _get(url: str, path: str) -> httpx.Response | None:
    try:
        return httpx.get(url.rstrip("/") + path, timeout=_TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return None


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
