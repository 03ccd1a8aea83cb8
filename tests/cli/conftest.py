"""One daemon for all tests of commands."""

import asyncio
import socket
import threading

import pytest
from tests.cli.running import CONFIG, Running, serve

from preble.daemon import __version__


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operator")
    (folder / "data").mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = Running(folder, listening.getsockname()[1])
        (folder / "preble.toml").write_text(CONFIG.format(data_dir="data", port=running.port))
        ready, servers = threading.Event(), []
        thread = threading.Thread(target=lambda: asyncio.run(serve(running, listening, ready, servers)))
        thread.start()
        assert ready.wait(30)
        yield running
        servers[0].should_exit = True
        thread.join(30)


@pytest.fixture
def daemon(served, monkeypatch):
    """The daemon, found as an operator's shell would find it: by the preble.toml in the current folder."""
    monkeypatch.chdir(served.folder)
    for name in ("PREBLE_URL", "PREBLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    served.unready, served.version = None, __version__
