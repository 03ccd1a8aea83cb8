"""What this machine has to compute on. Asks the driver and the kernel, and loads no engine for it."""

import os
import subprocess
from dataclasses import dataclass

_QUERY = ["nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
_QUERY_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU."""

    index: int
    """The driver's number, in PCI bus order."""
    name: str
    memory_mib: int | None
    """None where the driver does not tell, as with memory shared with the CPU."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """All of it."""

    cuda_devices: tuple[CudaDevice, ...]
    cpu_cores: tuple[int, ...]
    """Cores this process may use, by the kernel's numbers."""


def detect() -> Hardware:
    """Look now. A machine without `nvidia-smi`, or where it fails, has no CUDA devices."""
    return Hardware(_cuda_devices(), tuple(sorted(os.sched_getaffinity(0))))


def _cuda_devices() -> tuple[CudaDevice, ...]:
    try:
        told = subprocess.run(_QUERY, check=True, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_device(line) for line in told.stdout.splitlines() if line.strip())


def _device(line: str) -> CudaDevice:
    index, rest = line.split(",", 1)
    name, memory = rest.rsplit(",", 1)
    return CudaDevice(int(index), name.strip(), int(memory) if memory.strip().isdigit() else None)
