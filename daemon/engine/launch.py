"""Decides which engines this machine runs and with which command line and environment. Starts nothing."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from preble.daemon.config import ModelConfig
from preble.daemon.engine.hardware import Hardware
from preble.daemon.errors import ConfigError
from preble.daemon.ids import GpuId, ModelName

KEEP_ALIVE_S = 75
"""How long an engine keeps an idle connection. Clients must let go earlier, or a request may meet a closing socket."""
_IN_SCHEDULER_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""As on one GPU. On CPUs vLLM has a worker process by itself, to bind its threads to cores, and its scheduler's process
spins while that computes; where there is one thread to bind, the core that this costs is worth more."""

_SCHEDULER = "preble.daemon.engine.vllm_scheduler.make_scheduler"
"""Named, for nothing here is to import vLLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine that this machine is to run."""

    gpu: GpuId
    model: ModelConfig
    model_path: str
    """What vLLM loads: a folder, or a Hugging Face model id."""
    devices: tuple[int, ...]
    """CUDA device numbers, or CPU cores."""
    hardware: Literal["cuda", "cpu"]
    device: str
    """What these devices are: a time model holds for engines of the same model and device."""

    @property
    def has_one_core(self) -> bool:
        """Whether it has a CPU core, and no other."""
        return self.hardware == "cpu" and len(self.devices) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Where one engine can be reached on this machine."""

    http: Path
    kv_events: Path
    kv_replay: Path

    @classmethod
    def within(cls, folder: Path, gpu: GpuId) -> "Sockets":
        """Name the sockets of `gpu`'s engine in `folder`."""
        return cls(http=folder / f"{gpu}.sock", kv_events=folder / f"{gpu}.kv", kv_replay=folder / f"{gpu}.replay")

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return self.http, self.kv_events, self.kv_replay

    def unlink(self) -> None:
        """Remove the socket files; a stale one would stop the next start."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def plan(
    models: Sequence[ModelConfig], hardware: Hardware, model_paths: Mapping[ModelName, str]
) -> tuple[EngineSpec, ...]:
    """Deal this machine's devices out to the `[[models]]` entries that are for its kind of hardware.

    CUDA entries are used where there is a CUDA device, CPU entries only where there is none. `model_paths` says where a
    model's files are when that is not the entry's `path`. Raises `ConfigError`, which names the key, when devices
    are missing or wanted twice, or when no entry is for this machine.
    """
    kind: Literal["cuda", "cpu"] = "cuda" if hardware.cuda_devices else "cpu"
    entries = {f"models[{number}]": model for number, model in enumerate(models) if model.hardware == kind}
    if not entries:
        raise ConfigError(f"models: no entry has hardware = {kind!r}, which is what this machine has")
    dealt = _deal_gpus(entries, hardware) if kind == "cuda" else _deal_cores(entries, hardware)
    return tuple(
        EngineSpec(
            gpu=gpu,
            model=model,
            model_path=model_paths.get(model.name, model.path),
            devices=devices,
            hardware=kind,
            device=_describe(devices, hardware),
        )
        for gpu, model, devices in dealt
    )


def _describe(devices: tuple[int, ...], hardware: Hardware) -> str:
    if not hardware.cuda_devices:
        return f"CPU, {len(devices)} cores"
    return " + ".join(device.name for device in hardware.cuda_devices if device.index in devices)


_Dealt = list[tuple[GpuId, ModelConfig, tuple[int, ...]]]


def _deal_gpus(entries: Mapping[str, ModelConfig], hardware: Hardware) -> _Dealt:
    present = [device.index for device in hardware.cuda_devices]
    owner: dict[int, str] = {}
    dealt: _Dealt = []
    for key, model in entries.items():
        wanted = present if model.gpus == "all" else list(model.gpus)
        for device in wanted:
            if device not in present:
                raise ConfigError(f"{key}.gpus: there is no CUDA device {device}; this machine has {present}")
            if device in owner:
                raise ConfigError(f"{key}.gpus: CUDA device {device} is already taken by {owner[device]}")
            owner[device] = key
        size = model.tensor_parallel_size
        if len(wanted) % size:
            raise ConfigError(f"{key}.tensor_parallel_size: {len(wanted)} GPUs cannot be split into groups of {size}")
        groups = [tuple(wanted[start : start + size]) for start in range(0, len(wanted), size)]
        dealt += [(GpuId("gpu" + "-".join(map(str, group))), model, group) for group in groups]
    return dealt


def _deal_cores(entries: Mapping[str, ModelConfig], hardware: Hardware) -> _Dealt:
    wanted = [model for model in entries.values() for _ in range(model.engines)]
    cores = hardware.cpu_cores[1:] if len(hardware.cpu_cores) > len(wanted) else hardware.cpu_cores
    share = max(1, len(cores) // len(wanted))  # the same for all: equal engines are what the scheduler does best with
    return [
        (GpuId(f"cpu{number}"), model, tuple(cores[(number * share + core) % len(cores)] for core in range(share)))
        for number, model in enumerate(wanted)
    ]


def command(spec: EngineSpec, sockets: Sockets) -> list[str]:
    """Return the command line of the engine's server.

    What the scheduler must know and the engine reports nowhere (sequences and tokens per step) is always spelled out.
    """
    model = spec.model
    options: dict[str, object] = {
        "--model": spec.model_path,
        "--served-model-name": model.name,
        "--uds": sockets.http,
        "--block-size": model.block_size,
        "--max-num-seqs": model.max_num_seqs,
        "--max-num-batched-tokens": model.max_num_batched_tokens,
        "--scheduling-policy": "priority",
        "--scheduler-cls": _SCHEDULER,
        "--kv-events-config": _kv_events_config(sockets),
    }
    if model.long_prefill_token_threshold:
        options["--long-prefill-token-threshold"] = model.long_prefill_token_threshold
    if model.max_model_len:
        options["--max-model-len"] = model.max_model_len
    if model.kv_blocks:
        options["--num-gpu-blocks-override"] = model.kv_blocks
    if spec.hardware == "cuda":
        options["--tensor-parallel-size"] = model.tensor_parallel_size
        options["--gpu-memory-utilization"] = model.gpu_memory_utilization
    elif spec.has_one_core:
        options["--distributed-executor-backend"] = _IN_SCHEDULER_PROCESS
    switches = [
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
        "--enable-scale-out",
        "--disable-uvicorn-access-log",
        *(["--enforce-eager"] if spec.hardware == "cpu" else []),
    ]
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *(str(word) for option in options.items() for word in option),
        *switches,
        *model.extra_args,
    ]


def _kv_events_config(sockets: Sockets) -> str:
    return msgspec.json.encode(
        {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"ipc://{sockets.kv_events}",
            "replay_endpoint": f"ipc://{sockets.kv_replay}",
        }
    ).decode()


def environment(spec: EngineSpec) -> dict[str, str]:
    """Return the engine's whole environment: the daemon's own, and what pins the engine to its devices."""
    ours = {"VLLM_NO_USAGE_STATS": "1", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S)}
    devices = ",".join(map(str, spec.devices))
    if spec.hardware == "cuda":
        ours |= {"CUDA_VISIBLE_DEVICES": devices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    else:
        ours["VLLM_CPU_KVCACHE_SPACE"] = str(spec.model.cpu_kv_cache_gib)
        ours |= {"OMP_NUM_THREADS": "1"} if spec.has_one_core else {"VLLM_CPU_OMP_THREADS_BIND": devices}
    if Path(spec.model_path).is_dir():
        ours["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **ours}
