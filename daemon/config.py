"""preble.toml as frozen structs. Reads the file, refuses what it does not know, and reads no environment."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.ids import ModelName

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]

DEMO_MODEL = "demo"
"""The `path` that stands for the generated model."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the daemon listens and what it lets a client do."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    max_body_bytes: Count = 16_777_216
    max_header_bytes: Count = 65_536
    header_timeout_s: Positive = 10.0
    keep_alive_s: Positive = 75.0
    request_timeout_s: Positive = 600.0
    drain_timeout_s: NotNegative = 30.0
    create_default_tenant: bool = True


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """E2 and the daemon's waiting queues."""

    window_s: Positive = 180.0
    decode_imbalance_ratio: Annotated[float, msgspec.Meta(ge=1)] = 1.5
    expected_output_tokens: Count = 64
    prefill_lead_steps: Positive = 2.0
    max_waiting_requests: Count = 4096
    max_attempts: Count = 3
    decisions_kept: Count = 100_000


class EnginesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How engines are started, watched and ended."""

    start_timeout_s: Positive = 900.0
    health_interval_s: Positive = 1.0
    health_timeout_s: Positive = 10.0
    unhealthy_after: Count = 3
    restart_backoff_s: Positive = 1.0
    restart_backoff_max_s: Positive = 60.0
    drain_timeout_s: NotNegative = 60.0
    stop_grace_s: NotNegative = 5.0


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How usage is written and how long it is kept."""

    flush_interval_ms: Count = 200
    retention_days: Count = 400


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model and the engines that serve it."""

    name: ModelName
    path: str
    hardware: Literal["cuda", "cpu"] = "cuda"
    gpus: Literal["all"] | Annotated[tuple[CountOrZero, ...], msgspec.Meta(min_length=1)] = "all"
    engines: Count = 2
    tensor_parallel_size: Count = 1
    block_size: Count = 16
    max_num_seqs: Count = 256
    max_num_batched_tokens: Count = 8192
    max_model_len: CountOrZero = 0
    kv_blocks: CountOrZero = 0
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    cpu_kv_cache_gib: Count = 1
    extra_args: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of preble.toml."""

    data_dir: str = ".preble"
    server: ServerConfig = ServerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    engines: EnginesConfig = EnginesConfig()
    ledger: LedgerConfig = LedgerConfig()
    log: LogConfig = LogConfig()
    models: tuple[ModelConfig, ...] = ()


def load(path: Path) -> Config:
    """Read and check the file.

    `data_dir` comes back absolute. Raises `ConfigError`, which names the file, the key and, for an unknown key,
    the nearest known one.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _refuse_unknown_keys(path, raw)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_readable(str(error))}") from error
    names = [model.name for model in config.models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: models: two entries are named {name!r}")
    return msgspec.structs.replace(config, data_dir=str((path.parent / config.data_dir).resolve()))


def _refuse_unknown_keys(path: Path, raw: dict[str, Any]) -> None:
    _check_keys(path, raw, Config, "")
    for field in msgspec.structs.fields(Config):
        section = raw.get(field.name)
        if isinstance(section, dict):
            _check_keys(path, section, field.type, f"{field.name}.")
    models = raw.get("models")
    for number, entry in enumerate(models if isinstance(models, list) else []):
        if isinstance(entry, dict):
            _check_keys(path, entry, ModelConfig, f"models[{number}].")


def _check_keys(path: Path, table: dict[str, Any], struct: type[msgspec.Struct], prefix: str) -> None:
    known = [field.name for field in msgspec.structs.fields(struct)]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ConfigError(f"{path}: unknown key {prefix}{key!r}; the nearest known key is {prefix}{near[0]!r}")


def _readable(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.server.port`" into "server.port: Expected `int`, got `str`"."""
    what, at, where = message.rpartition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if at else message
