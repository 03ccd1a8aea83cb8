"""One daemon for all tests of commands."""

import pytest
from tests.cli.running import CONFIG, serving

from preble.daemon import __version__


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("operator")) as running:
        (running.folder / "preble.toml").write_text(CONFIG.format(data_dir="data", port=running.port))
        yield running


@pytest.fixture
def daemon(served, monkeypatch):
    """The daemon, found as an operator's shell would find it: by the preble.toml in the current folder."""
    monkeypatch.chdir(served.folder)
    for name in ("PREBLE_URL", "PREBLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    served.unready, served.version = None, __version__
