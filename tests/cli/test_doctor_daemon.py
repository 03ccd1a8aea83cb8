"""What `preble doctor` says of a daemon and of the address it would listen on."""

import json
import socket

import pytest
from tests.admin_app import gpu_row
from tests.cli.running import preble

from preble.daemon.cli.check_daemon import check_gpu, check_port
from preble.daemon.config import ServerConfig


def diagnosis(*arguments: str, **environment: str):
    result = preble("doctor", "--json", *arguments, **environment)
    assert result.stderr == ""
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == any(check["status"] == "fail" for check in checks.values())
    return checks


def test_a_daemon_is_found_by_its_configuration_and_asked_for_its_engines(daemon):
    checks = diagnosis()
    assert checks["port"]["detail"] == f"{daemon.port} is held by Preble"
    assert [checks[name]["status"] for name in ("daemon", "ready", "version", "gpu cpu0", "gpu cpu1")] == [
        *["ok"] * 4,
        "fail",
    ]
    assert "exited with status 1" in checks["gpu cpu1"]["detail"]
    assert "preble gpu restart cpu1" in checks["gpu cpu1"]["mend"]
    assert "memory" not in checks  # its engines have theirs already


@pytest.mark.parametrize(
    ("state", "status"),
    [("ready", "ok"), ("draining", "warn"), ("starting", "warn"), ("backoff", "fail"), ("failed", "fail")],
)
def test_an_engine_is_at_fault_only_when_it_has_failed(state, status):
    assert check_gpu(gpu_row("gpu0", state=state)).status == status


def test_a_daemon_that_cannot_serve_says_why(daemon):
    daemon.unready = "No engine serves preble-demo: cpu0 is failed."
    check = diagnosis()["ready"]
    assert (check["status"], check["detail"]) == ("fail", "No engine serves preble-demo: cpu0 is failed.")


def test_a_daemon_of_another_version_is_worth_a_word(daemon):
    daemon.version = "0.0.1"
    check = diagnosis()["version"]
    assert (check["status"], "0.0.1" in check["detail"]) == ("warn", True)


def test_a_daemon_is_asked_by_its_address_even_where_there_is_no_configuration(daemon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checks = diagnosis("--url", daemon.url, PREBLE_KEY=daemon.key("operator"))
    assert checks["configuration"]["status"] == "fail"
    assert checks["gpu cpu0"]["status"] == "ok"
    assert "data directory" not in checks


def test_without_a_key_the_engines_are_not_asked_and_that_is_said(daemon):
    check = diagnosis(PREBLE_KEY=daemon.key("default"))["gpus"]
    assert (check["status"], "--key-file" in check["mend"]) == ("warn", True)


def test_no_daemon_is_a_fault_only_where_one_was_named(daemon, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "preble.toml"
    file.write_text(f'[server]\nport = {port}\n[[models]]\nname = "a"\npath = "demo"\nhardware = "cpu"\n')
    checks = diagnosis("--config", str(file))
    assert (checks["port"]["status"], checks["daemon"]["status"]) == ("ok", "ok")
    named = diagnosis("--config", str(file), "--url", f"http://127.0.0.1:{port}")
    assert (named["port"]["status"], named["daemon"]["status"]) == ("ok", "fail")


def test_a_model_for_other_hardware_is_a_fault(daemon, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # so that no nvidia-smi is found
    file = tmp_path / "preble.toml"
    file.write_text('[[models]]\nname = "a"\npath = "b"\n')
    check = diagnosis("--config", str(file))["models"]
    assert (check["status"], "'cpu'" in check["detail"]) == ("fail", True)


# --- the port ---


def test_a_port_that_something_else_holds_is_a_fault():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        check = check_port(ServerConfig(port=port))
    assert (check.status, "Address already in use" in check.detail) == ("fail", True)
    assert check_port(ServerConfig(port=port)).status == "ok"


def test_an_address_that_is_not_this_machines_is_a_fault():
    assert check_port(ServerConfig(host="192.0.2.1")).status == "fail"


def test_a_name_may_stand_for_addresses_that_this_machine_lacks_if_it_has_one(monkeypatch):
    def both(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert check_port(ServerConfig(host="both", port=0)).status == "ok"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", ""])
def test_every_way_to_name_this_machine_will_do(host):
    assert check_port(ServerConfig(host=host, port=0)).status == "ok"
