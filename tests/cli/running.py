"""Commands as an operator types them, and a daemon for them: the real admin routes on a loopback port."""

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time

import structlog
import uvicorn
from click.testing import CliRunner, Result
from litestar.response.base import ASGIResponse
from tests.admin_app import LIVE, author, explanation, open_admin_app, usage

from preble.daemon import __version__
from preble.daemon.api.health import HealthService
from preble.daemon.cli.main import main
from preble.daemon.config import LiveConfig
from preble.daemon.wire.settings import TenantSettings

CONFIG = """
data_dir = "{data_dir}"
[server]
port = {port}
[[models]]
name = "preble-demo"
path = "demo"
hardware = "cpu"
"""


@dataclass
class Running:
    """A daemon, and the folder that an operator sits in."""

    folder: Path
    port: int
    unready: str | None = None
    version: str = __version__

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def key(self, name: str) -> str:
        return (self.data_dir / f"{name}.key").read_text().strip()


@contextmanager
def serving(folder: Path, live: LiveConfig = LIVE) -> Iterator[Running]:
    """A daemon in a thread, for as long as the block runs."""
    (folder / "data").mkdir(mode=0o700)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))  # stdout is the commands'
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # asyncio sends at once only if that is said
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        running = Running(folder, listening.getsockname()[1])
        ready, servers = threading.Event(), []
        work = serve(running, listening, ready, servers, live)
        thread = threading.Thread(target=lambda: asyncio.run(work), daemon=True)  # a test that fails ends all the same
        thread.start()
        assert ready.wait(30)
        try:
            yield running
        finally:
            servers[0].should_exit = True
            thread.join(30)


async def serve(
    running: Running, listening: socket.socket, ready: threading.Event, servers: list, live: LiveConfig
) -> None:
    """Serve on a socket that listens already, until told to end."""

    health = HealthService(unready=lambda: running.unready, render_metrics=lambda: (b"", "text/plain"))

    async with open_admin_app(running.data_dir, health, live) as admin:
        await admin.accounts.tenants.create("acme", TenantSettings(), author())
        for number in range(3):
            admin.ledger.record(usage(number, "acme", created_at_s=time() - 7200))
        admin.ledger.record(usage(3, "default", created_at_s=time()))
        admin.decisions.record(explanation())
        admin.decisions.record(explanation("req_old", predicted_output_tokens=None))
        await admin.ledger.close()
        await admin.decisions.close()
        servers.append(
            uvicorn.Server(uvicorn.Config(of_version(running, admin.app), log_config=None, lifespan="off", ws="none"))
        )
        ready.set()
        await servers[0].serve([listening])


def of_version(running: Running, app):
    """The same, by a daemon that says that it is of another version."""

    async def answer(scope, receive, send) -> None:
        if scope["path"] == "/schema/openapi.json":
            told = {"info": {"title": "Preble", "version": running.version}}
            schema = ASGIResponse(body=json.dumps(told).encode(), media_type="application/json")
            await schema(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


def preble(*arguments: str, **environment: str) -> Result:
    """Run a command in this process."""
    return CliRunner(env=environment).invoke(main, [str(each) for each in arguments])


def data(*arguments: str, **environment: str):
    """A command's JSON; nothing but JSON is on stdout."""
    result = preble(*arguments, "--json", **environment)
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return json.loads(result.stdout)
