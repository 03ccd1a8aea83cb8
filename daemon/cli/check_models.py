"""What `preble doctor` says of the configured models: which devices they get, and whether their files are there."""

from collections.abc import Sequence
from pathlib import Path

from preble.daemon.cli.checks import Check, fail, ok, warn
from preble.daemon.config import DEMO_MODEL, ModelConfig
from preble.daemon.engine.hardware import Hardware
from preble.daemon.engine.launch import EngineSpec
from preble.daemon.errors import ConfigError

_CONFIG = "config.json"
_HUB_PATTERN_PARTS = 2  # owner/name


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
    folder = Path(model.path)
    if not folder.is_dir():
        return _check_hub_model(name, model.path)
    return _check_folder(name, folder)


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


def _check_hub_model(name: str, path: str) -> Check:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if path.startswith((".", "/", "~")) or path.count("/") >= _HUB_PATTERN_PARTS:
            raise HFValidationError
        cached = try_to_load_from_cache(path, _CONFIG)
    except HFValidationError:
        return fail(name, f"there is no folder {path}", "change models.path, or put the model there")
    if isinstance(cached, str):
        return _check_folder(name, Path(cached).parent)
    detail = f"{path} is no folder, so it would be fetched from the Hugging Face hub when the daemon starts"
    return warn(name, detail, f"fetch it now: hf download {path}")
