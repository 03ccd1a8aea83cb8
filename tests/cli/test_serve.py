"""`preble serve`, but for the daemon inside it: addresses, signals, and what it says."""

import asyncio
import os
import resource
import signal
import socket
from contextlib import asynccontextmanager

import pytest
import structlog
from litestar import Litestar
from tests.cli.running import preble

from preble.daemon.app import Daemon
from preble.daemon.cli import serve as module


class House:
    """Stands in for the daemon; SIGTERM comes as soon as its engines have settled."""

    def __init__(self, tmp_path):
        self.file = tmp_path / "preble.toml"
        self.file.write_text('data_dir = "."\n[server]\nport = 0\n')
        self.unready = None
        self.opened = self.closed = self.feeds_ended = False

    @asynccontextmanager
    async def open(self, config, say, record_to, tail):
        self.opened, self.record_to = True, record_to
        app = Litestar([], openapi_config=None, logging_config=None)
        yield Daemon(app, self.file.parent, "a-model", lambda: self.unready, self.settled, self.end_feeds)
        self.closed = True

    def end_feeds(self):
        self.feeds_ended = True

    async def settled(self):
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)


@pytest.fixture
def house(tmp_path, monkeypatch):
    built = House(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(module, "open_daemon", built.open)
    monkeypatch.setattr(module, "configure", lambda *_: True)  # it would set up logging for all tests after this one
    yield built
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def serve(house, *options):
    return preble("serve", "--config", str(house.file), *options)


def test_sigterm_ends_it_in_order_and_well(house, capfd):
    result = serve(house)
    assert (result.exit_code, result.stdout, house.closed, house.feeds_ended) == (0, "", True, True)
    assert result.stderr.splitlines()[-2:] == ["ending: no new requests; running ones may finish", "ended"]


def test_events_are_recorded_where_it_is_asked_for(house, tmp_path):
    serve(house, "--record-events", str(tmp_path / "events"))
    assert house.record_to == tmp_path / "events"
    serve(house)
    assert house.record_to is None


def test_it_says_how_to_use_it_once_it_can_be_used(house):
    (house.file.parent / "default.key").touch()
    said = serve(house).stderr
    assert "Preble is ready on http://127.0.0.1:" in said
    assert "127.0.0.1:0" not in said
    assert f"$(cat {house.file.parent / 'default.key'})" in said
    assert '"model": "a-model"' in said


def test_who_wants_json_gets_its_words_as_log_lines(house):
    house.file.write_text(house.file.read_text() + '[log]\nformat = "json"\n')
    (house.file.parent / "default.key").touch()
    for house.unready, first in ((None, "Preble is ready on http://127.0.0.1:"), ("No engine.", "not ready: ")):
        with structlog.testing.capture_logs() as logged:
            result = serve(house)
        assert result.output == ""
        words = [line["event"] for line in logged]
        assert words[0].startswith(first)
        assert words[1:] == ["ending: no new requests; running ones may finish", "ended"]


def test_it_names_no_key_file_where_there_is_none(house):
    said = serve(house).stderr
    assert "preble key create TENANT" in said
    assert "default.key" not in said


def test_engines_that_fail_are_named_with_where_to_read_on(house):
    house.unready = "No engine serves a-model: cpu0 is failed."
    said = serve(house).stderr
    assert "not ready: No engine serves a-model: cpu0 is failed." in said
    assert str(house.file.parent / "logs") in said
    assert "Preble is ready" not in said


def test_a_port_in_use_is_1_before_anything_is_started(house):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        house.file.write_text(f"[server]\nport = {port}\n")
        result = serve(house)
    assert (result.exit_code, house.opened) == (1, False)
    assert result.stderr == f"preble: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_an_address_that_is_not_ours_is_1(house):
    house.file.write_text('[server]\nhost = "192.0.2.1"\n')
    assert "cannot listen on 192.0.2.1:8000" in serve(house).stderr


def test_as_many_connections_may_be_open_as_the_system_allows(house):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    serve(house)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
