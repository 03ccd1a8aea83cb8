"""What `preble doctor` says of the configured models: their devices, whether their files are there, if they fit."""

from collections.abc import Sequence
from pathlib import Path

from preble.daemon.cli.checks import Check, fail, ok, warn
from preble.daemon.config import DEMO_MODEL, ModelConfig
from preble.daemon.engine.hardware import Hardware
from preble.daemon.engine.launch import EngineSpec
from preble.daemon.errors import ConfigError

_CONFIG = "config.json"
_GIB = 1 << 30
_CPU_ENGINE_GIB = 2.0  # vLLM 0.32 itself: two engines with 1 GiB of KV cache each took 6 GiB together


def check_plan(specs: Sequence[EngineSpec], hardware: Hardware) -> Check:
    """Which engines this machine would run."""
    found = ", ".join(f"{spec.gpu} for {spec.model.name}" for spec in specs)
    cores = len(hardware.cpu_cores)
    if specs[0].hardware == "cpu" and len(specs) > cores:
        return warn("models", f"{found}: {len(specs)} engines share {cores} cores", "lower models.engines")
    return ok("models", f"engines: {found}")


def check_model(model: ModelConfig, data_dir: Path) -> Check:
    """Whether what an engine and the daemon read of a model can be read."""
    name = f"model {model.name}"
    if model.path == DEMO_MODEL:
        return ok(name, f"the demo model; the daemon makes it in {data_dir / 'models'} where it is missing")
    folder = _local_folder(model.path)
    if folder is not None:
        return _check_folder(name, folder)
    if not _is_hub_id(model.path):
        return fail(name, f"there is no folder {model.path}", "change models.path, or put the model there")
    detail = f"{model.path} is no folder here, so it is fetched from the Hugging Face hub when the daemon starts"
    return warn(name, detail, f"fetch it now: hf download {model.path}")


def check_memory(specs: Sequence[EngineSpec]) -> Check:
    """Whether CPU engines fit into what is free. Call it only while they do not run."""
    need_gib = sum(_CPU_ENGINE_GIB + spec.model.cpu_kv_cache_gib + weights_gib(spec.model.path) for spec in specs)
    free_gib = available_bytes() / _GIB
    found = f"{free_gib:.1f} GiB available; {len(specs)} engines want about {need_gib:.1f} GiB"
    if free_gib >= need_gib:
        return ok("memory", found)
    return warn("memory", found, "fewer `engines`, a smaller `cpu_kv_cache_gib`, or more memory")


def check_gpu_memory(specs: Sequence[EngineSpec], hardware: Hardware) -> list[Check]:
    """Whether GPUs are large enough for their model's weights, where both sizes are known."""
    size_mib = {device.index: device.memory_mib for device in hardware.cuda_devices}
    checks = []
    for spec in specs:
        sizes = [size_mib[device] for device in spec.devices]
        share_gib = sum(size or 0 for size in sizes) / 1024 * spec.model.gpu_memory_utilization
        need_gib = weights_gib(spec.model.path)
        if None not in sizes and need_gib >= share_gib:
            detail = f"{spec.model.name} has {need_gib:.1f} GiB of weights, and its engine may use {share_gib:.1f} GiB"
            mend = "raise tensor_parallel_size, or have vLLM quantise it (extra_args)"
            checks.append(warn(f"memory of {spec.gpu}", detail, mend))
    return checks


def available_bytes() -> int:
    """What the kernel could still give, and what our control group lets us have."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


def weights_gib(path: str) -> float:
    """What a model's weights take, as they are stored; 0 where they are not here yet."""
    folder = _local_folder(path)
    files = folder.glob("*.safetensors") if folder is not None else ()
    return sum(file.stat().st_size for file in files) / _GIB


def _check_folder(name: str, folder: Path) -> Check:
    from preble.daemon.prompt.files import read_model

    mend = "put the model's whole folder there, as from the Hugging Face hub, or change models.path"
    if not (folder / _CONFIG).is_file():
        return fail(name, f"{folder / _CONFIG} is missing", mend)
    try:
        files = read_model(folder)
    except ConfigError as error:
        return fail(name, str(error), mend)
    if files.template is None:
        detail = f"{folder} has no chat template, so chat requests are refused; completions work"
        return warn(name, detail, f"put its chat_template.jinja into {folder}")
    return ok(name, str(folder))


def _local_folder(path: str) -> Path | None:
    """Where a model's files are, in a folder of its own or in the hub's cache. Asks nobody."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, _CONFIG) if _is_hub_id(path) else None
    return Path(cached).parent if isinstance(cached, str) else None


def _is_hub_id(path: str) -> bool:
    """Whether the hub could have a model of this name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        try_to_load_from_cache(path, _CONFIG)
    except HFValidationError:
        return False
    return True
