"""How commands end when something is wrong: the exit code, one line on stderr, and nothing on stdout."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.cli.running import preble

from preble.daemon.cli.output import Exit
from preble.daemon.tenancy.keys import CHANCE_BYTES, mint
from preble.daemon.wire.client import AdminClient


def complaint(code: Exit, *arguments: str, **environment: str) -> str:
    """The one line that a command which fails with `code` says."""
    result = preble(*arguments, **environment)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("preble: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]  # bound and not listening: nobody answers there


def test_the_codes_are_those_that_scripts_rely_on():
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "UNREACHABLE": 3,
        "REFUSED": 4,
        "INTERRUPTED": 130,
    }


def test_what_the_daemon_refuses_is_4_in_the_daemons_words(daemon):
    assert "cpu0, cpu1" in complaint(Exit.REFUSED, "gpu", "drain", "cpu9")
    assert "'acme'" in complaint(Exit.REFUSED, "tenant", "show", "acne")
    complaint(Exit.REFUSED, "tenant", "create", "default", "--weight", "2")
    complaint(Exit.REFUSED, "explain", "req_nothing")


@pytest.mark.parametrize("body", ["", "{", "[]", '{"model": "m"}', '{"model": "other", "prompt": "x"}'])
def test_a_body_that_the_daemon_would_not_take_is_4_in_a_dry_run_too(daemon, tmp_path, body):
    file = tmp_path / "body.json"
    file.write_text(body)
    complaint(Exit.REFUSED, "explain", "--dry-run", file)
    file.write_text('{"model": "m", "prompt": "x"}')
    assert "nobody" in complaint(Exit.REFUSED, "explain", "--dry-run", file, "--tenant", "nobody")


@pytest.mark.parametrize(
    "arguments", [[], ["req_1", "--dry-run", "-"], ["--dry-run", "gone.json"], ["req_1", "--tenant", "acme"]]
)
def test_explain_wants_a_request_or_a_file_and_no_more(daemon, arguments):
    result = preble("explain", *arguments)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert "Error: " in result.stderr


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../tenants", "/", "a?b=c", "a#b", "%2e", "ä", "a b", "\x1b"])
def test_a_name_is_one_part_of_a_path_whatever_is_in_it(daemon, name):
    for command in (["tenant", "show"], ["key", "revoke"], ["gpu", "drain"], ["explain"]):
        assert "route" not in complaint(Exit.REFUSED, *command, name)


def test_no_daemon_is_3_and_says_how_to_start_one(daemon, free_port):
    said = complaint(Exit.UNREACHABLE, "gpu", "list", "--url", f"http://127.0.0.1:{free_port}")
    assert f"127.0.0.1:{free_port}" in said
    assert "preble serve" in said
    complaint(Exit.UNREACHABLE, "explain", "--dry-run", "-", "--url", f"http://127.0.0.1:{free_port}")


def test_the_environment_names_daemon_and_key_and_options_come_first(daemon, free_port, tmp_path, monkeypatch):
    key, nowhere = daemon.key("operator"), f"http://127.0.0.1:{free_port}"
    monkeypatch.chdir(tmp_path)
    complaint(Exit.UNREACHABLE, "gpu", "list", PREBLE_URL=nowhere, PREBLE_KEY=key)
    assert preble("gpu", "list", PREBLE_URL=daemon.url, PREBLE_KEY=key).exit_code == 0
    assert preble("gpu", "list", "--url", daemon.url, PREBLE_URL=nowhere, PREBLE_KEY=key).exit_code == 0
    other = mint("op", os.urandom(CHANCE_BYTES)).text
    file = str(daemon.data_dir / "operator.key")
    assert preble("gpu", "list", "--key-file", file, PREBLE_URL=daemon.url, PREBLE_KEY=other).exit_code == 0
    assert "PREBLE_KEY" in complaint(Exit.REFUSED, "gpu", "list", PREBLE_URL=daemon.url, PREBLE_KEY=other)


def test_without_a_key_the_daemons_refusal_says_where_one_would_be(daemon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = complaint(Exit.REFUSED, "gpu", "list", "--url", daemon.url)
    assert "operator.key is not there" in said
    assert "--key-file" in said


def test_a_tenants_key_is_no_operators(daemon):
    complaint(Exit.REFUSED, "gpu", "list", PREBLE_KEY=daemon.key("default"))


def test_a_key_that_is_mistyped_is_2_and_goes_nowhere(daemon, tmp_path):
    mistyped = daemon.key("operator")[:-1] + "_"
    assert mistyped not in complaint(Exit.USAGE, "gpu", "list", PREBLE_KEY=mistyped)
    file = tmp_path / "some.key"
    file.write_bytes(b"\xff\xfe")
    assert str(file) in complaint(Exit.USAGE, "gpu", "list", "--key-file", str(file))
    assert "gone.key" in complaint(Exit.USAGE, "gpu", "list", "--key-file", str(tmp_path / "gone.key"))


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://x"])
def test_an_address_that_is_none_is_2(daemon, url):
    assert "--url" in complaint(Exit.USAGE, "gpu", "list", "--url", url)


@pytest.mark.parametrize("command", [["serve"], ["config", "show"], ["config", "check"], ["db", "check"]])
def test_a_folder_without_a_configuration_is_2_and_says_what_to_do(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = complaint(Exit.USAGE, *command)
    assert "preble.toml: there is no such file" in said
    assert "--config" in said
    assert "preble config default > preble.toml" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["serve"], ["config", "check"], ["gpu", "list"]])
def test_a_wrong_configuration_is_2_and_names_file_and_key(tmp_path, command):
    file = tmp_path / "other.toml"
    file.write_text("[server]\nprot = 1\n")
    said = complaint(Exit.USAGE, *command, "--config", str(file))
    assert f"{file}: unknown key server.prot; the nearest known key is server.port" in said


@contextmanager
def stranger(status: int, body: bytes):
    """Some other HTTP server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b"<html>", Exit.FAILED),
        (404, b"<html>", Exit.FAILED),
        (200, b'[{"gpu": 1}]', Exit.FAILED),
        (500, b'{"error": {"message": "it broke"}}', Exit.FAILED),
        (409, b'{"error": {"message": "not now"}}', Exit.REFUSED),
        (409, b'{"error": {}}', Exit.FAILED),
        (409, b'{"error": "not now"}', Exit.FAILED),
        (409, b"[]", Exit.FAILED),
    ],
)
def test_an_answer_that_is_no_daemons_is_1_and_never_a_traceback(daemon, status, body, code):
    with stranger(status, body) as url:
        complaint(code, "gpu", "list", "--url", url)


def test_what_a_daemon_says_does_not_steer_the_terminal(daemon):
    with stranger(409, b'{"error": {"message": "\\u001b[2Jgone"}}') as url:
        assert "?[2Jgone" in complaint(Exit.REFUSED, "gpu", "list", "--url", url)


def test_a_stranger_is_not_taken_for_a_daemon(daemon):
    with stranger(200, b"{}") as url:
        result = preble("doctor", "--url", url)
    assert result.exit_code == Exit.FAILED
    assert f"no Preble daemon answers at {url}" in result.stdout


def test_ctrl_c_is_130(daemon, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(AdminClient, "gpus", interrupted)
    assert preble("gpu", "list").exit_code == Exit.INTERRUPTED


def test_a_file_that_is_no_database_is_1_and_stays_as_it_is(tmp_path):
    (tmp_path / "preble.toml").write_text('data_dir = "."')
    (tmp_path / "preble.db").write_bytes(b"no database" * 100)
    for command in ("check", "upgrade"):
        complaint(Exit.FAILED, "db", command, "--config", str(tmp_path / "preble.toml"))
    assert (tmp_path / "preble.db").read_bytes() == b"no database" * 100


def test_a_database_server_that_does_not_answer_is_1(tmp_path):
    (tmp_path / "preble.toml").write_text(f'database_url = "postgresql:///x?host={tmp_path}"')
    for command in ("check", "upgrade"):
        said = complaint(Exit.FAILED, "db", command, "--config", str(tmp_path / "preble.toml"))
        assert "connection" in said


def test_a_database_of_another_schema_is_1_until_it_is_upgraded(tmp_path):
    file = str(tmp_path / "preble.toml")
    (tmp_path / "preble.toml").write_text('data_dir = "data"')
    checked = preble("db", "check", "--config", file)
    assert checked.exit_code == Exit.FAILED
    assert "preble db upgrade" in checked.stderr
    assert not (tmp_path / "data").exists()
    assert preble("db", "upgrade", "--config", file).exit_code == 0
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert preble("db", "check", "--config", file).exit_code == 0


def test_a_command_that_does_not_exist_is_answered_with_the_nearest():
    result = preble("gpu", "lst")
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert "'list'" in result.stderr


def test_a_reader_that_leaves_early_gets_no_traceback(daemon):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "preble.daemon.cli.main", "config", "schema"]
    with os.fdopen(write_end, "wb") as stdout:
        ended = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=30)
    assert b"Traceback" not in ended.stderr
    assert ended.returncode in (1, -signal.SIGPIPE)
