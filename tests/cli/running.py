"""Commands as an operator types them, and a daemon for them: the real admin routes on a loopback port."""

import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from time import time

import uvicorn
from click.testing import CliRunner, Result
from litestar import get
from litestar.di import Provide
from tests.admin_app import explanation, open_admin_app, usage

from preble.daemon import __version__
from preble.daemon.api.health import HealthController, HealthService
from preble.daemon.cli.main import main

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


async def serve(running: Running, listening: socket.socket, ready: threading.Event, servers: list) -> None:
    """Serve on a socket that listens already, until told to end."""

    @get("/schema/openapi.json")
    async def schema() -> dict[str, dict[str, str]]:
        return {"info": {"title": "Preble", "version": running.version}}

    health = HealthService(unready=lambda: running.unready, render_metrics=lambda: (b"", "text/plain"))

    class Health(HealthController):
        dependencies = {"health": Provide(lambda: health, sync_to_thread=False)}  # noqa: RUF012 (as Litestar has it)

    async with open_admin_app(running.data_dir) as admin:
        for each in (schema, Health):
            admin.app.register(each)
        await admin.accounts.create_tenant("acme", 1.0)
        for number in range(3):
            admin.ledger.record(usage(number, "acme", created_at_s=time() - 7200))
        admin.ledger.record(usage(3, "default", created_at_s=time()))
        admin.decisions.record(explanation())
        await admin.ledger.close()
        await admin.decisions.close()
        servers.append(uvicorn.Server(uvicorn.Config(admin.app, log_config=None, lifespan="off", ws="none")))
        ready.set()
        await servers[0].serve([listening])


def preble(*arguments: str, **environment: str) -> Result:
    """Run a command in this process."""
    return CliRunner(env=environment).invoke(main, [str(each) for each in arguments])
