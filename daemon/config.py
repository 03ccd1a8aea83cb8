"""preble.toml as frozen structs. Reads the file, refuses what it does not know, and reads no environment."""

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.ids import ModelName

_LARGEST = 2**53  # no value is near; beyond it a database column or a JSON number could not hold it, and inf is not one
Positive = Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]
Count = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Text = Annotated[str, msgspec.Meta(min_length=1)]

DEMO_MODEL = "demo"
"""The `path` that stands for the generated model."""
ANY_MODEL = "*"
"""In prices, stands for the models that have none of their own."""


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


FairnessName = Literal["none", "vtc", "d2lpm"]
FAIRNESS: tuple[FairnessName, ...] = get_args(FairnessName)
PolicyName = Literal["e2", "e2_paper", "round_robin", "least_loaded", "prefix_affinity"]


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """E2 and the daemon's waiting queues."""

    policy: PolicyName = "e2"
    cached_first: bool = True
    move_waiting: bool = True
    load_weight: NotNegative = 0.001
    rebalance: bool = True
    rebalance_cost_ratio: Annotated[float, msgspec.Meta(ge=1, le=_LARGEST)] = 1.4
    rebalance_ratio: Annotated[float, msgspec.Meta(ge=1, le=_LARGEST)] = 1.5
    rebalance_until_ratio: Annotated[float, msgspec.Meta(ge=1, le=_LARGEST)] = 1.2
    rebalance_pause_s: NotNegative = 10.0
    replicate: bool = True
    replicate_wait_ratio: Annotated[float, msgspec.Meta(gt=1, le=_LARGEST)] = 2.0
    decode_balance: bool = True
    window_s: Positive = 180.0
    decode_imbalance_ratio: Annotated[float, msgspec.Meta(ge=1, le=_LARGEST)] = 1.5
    expected_output_tokens: Count = 64
    prefill_lead_tokens: CountOrZero = 0
    fairness: FairnessName = "d2lpm"
    quantum_s: Positive = 1.0
    cached_charge_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    batch_service_ratio: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.05
    light_reserve_ratio: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.1
    max_waiting_requests: Count = 4096
    max_indexed_blocks: Count = 5_000_000
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


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often an address may come without a valid key."""

    failures_per_minute: Count = 30
    failures_at_once: Count = 30
    addresses_kept: Count = 10_000


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests count towards the limits of tenants and keys."""

    cached_token_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    assumed_output_tokens: Count = 1024
    bytes_per_token: Count = 4
    busy_retry_s: Positive = 1.0


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How usage is written and how long it is kept."""

    flush_interval_ms: Count = 200
    retention_days: Count = 400
    hours_retention_days: Annotated[int, msgspec.Meta(ge=32, le=_LARGEST)] = 3660


class TemplatesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of GPUs' caches templates may keep."""

    pinned_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a million tokens, in any currency."""

    input: NotNegative
    """Of prompt tokens that were not cached."""
    output: NotNegative
    cached: NotNegative | None = None
    """Of prompt tokens that were; None: as others."""


class PricesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tokens cost, by model; `*` stands for every model that is not named. Without a price there is no cost."""

    per_million_tokens: dict[str, Price] = {}


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class LiveConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What consoles are told as it happens, and when something needs a human."""

    name: str = ""
    interval_ms: Annotated[int, msgspec.Meta(ge=100, le=60_000)] = 500
    recent_s: Annotated[float, msgspec.Meta(ge=30, le=3600)] = 300.0
    requests_per_tick: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 200
    logs_per_tick: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 100
    ticks_kept: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 120
    max_consoles: Count = 10
    keep_prompts: bool = False
    kept_prompts_mib: Count = 64
    alarm_queue_p99_s: Positive = 2.0
    alarm_kv_used_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    alarm_error_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    alarm_time_error_ratio: Positive = 0.75
    alarm_evicted_ratio: Positive = 2.0
    alarm_restarts: Count = 3


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model and the engines that serve it."""

    name: Annotated[ModelName, msgspec.Meta(min_length=1)]
    path: Text
    hardware: Literal["cuda", "cpu"] = "cuda"
    gpus: Literal["all"] | Annotated[tuple[CountOrZero, ...], msgspec.Meta(min_length=1)] = "all"
    engines: Count = 2
    tensor_parallel_size: Count = 1
    block_size: Count = 16
    max_num_seqs: Count = 256
    max_num_batched_tokens: Count = 8192
    long_prefill_token_threshold: CountOrZero = 0
    max_model_len: CountOrZero = 0
    kv_blocks: CountOrZero = 0
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    cpu_kv_cache_gib: Count = 1
    extra_args: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of preble.toml."""

    data_dir: Text = ".preble"
    database_url: str = ""
    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    limits: LimitsConfig = LimitsConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    engines: EnginesConfig = EnginesConfig()
    ledger: LedgerConfig = LedgerConfig()
    prices: PricesConfig = PricesConfig()
    templates: TemplatesConfig = TemplatesConfig()
    log: LogConfig = LogConfig()
    live: LiveConfig = LiveConfig()
    models: tuple[ModelConfig, ...] = ()


def load(path: Path) -> Config:
    """Read and check the file.

    `data_dir` and models' folders come back absolute. Raises `ConfigError`, which names the file, the key and, for an
    unknown key, the nearest known one.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        advice = "run this in the folder that has it, name it with --config, or begin one: preble config default"
        raise ConfigError(f"{path}: there is no such file; {advice} > {path}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        _refuse_unknown_keys(raw)
        config = msgspec.convert(raw, Config)
        _refuse_contradictions(config)
        return _absolute(config, path.parent)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_readable(str(error))}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _refuse_unknown_keys(raw: dict[str, Any]) -> None:
    _check_keys(raw, Config, "")
    for field in msgspec.structs.fields(Config):
        section = raw.get(field.name)
        if isinstance(section, dict) and field.name != "models":
            _check_keys(section, field.type, f"{field.name}.")
    _refuse_unknown_prices(raw)
    models = raw.get("models")
    if isinstance(models, dict):
        raise ConfigError("models: each begins with [[models]], in double brackets")
    for number, entry in enumerate(models if isinstance(models, list) else []):
        if isinstance(entry, dict):
            _check_keys(entry, ModelConfig, f"models[{number}].")


def _refuse_unknown_prices(raw: dict[str, Any]) -> None:
    prices = raw["prices"].get("per_million_tokens") if isinstance(raw.get("prices"), dict) else None
    for model, price in prices.items() if isinstance(prices, dict) else ():
        if isinstance(price, dict):
            _check_keys(price, Price, f"prices.per_million_tokens.{model}.")


def _check_keys(table: dict[str, Any], struct: type[msgspec.Struct], prefix: str) -> None:
    known = [field.name for field in msgspec.structs.fields(struct)]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ConfigError(f"unknown key {prefix}{key}; the nearest known key is {prefix}{near[0]}")


def _refuse_contradictions(config: Config) -> None:
    """What is wrong on any machine, so that `preble config check` finds it on all."""
    _refuse_database(config.database_url)
    if config.ledger.hours_retention_days < config.ledger.retention_days:
        raise ConfigError("ledger.hours_retention_days: at least as many as ledger.retention_days")
    names: dict[str, str] = {}
    takers: dict[int | str, str] = {}
    for number, model in enumerate(config.models):
        key = f"models[{number}]"
        if model.name in names:
            raise ConfigError(f"{key}.name: {model.name!r} is the name of {names[model.name]} too")
        names[model.name] = key
        if model.max_num_batched_tokens < model.max_num_seqs:
            raise ConfigError(f"{key}.max_num_batched_tokens: vLLM wants at least max_num_seqs, {model.max_num_seqs}")
        if 0 < model.max_model_len < model.long_prefill_token_threshold:
            raise ConfigError(
                f"{key}.long_prefill_token_threshold: vLLM wants at most max_model_len, {model.max_model_len}"
            )
        if model.hardware == "cuda":
            _take_gpus(key, model.gpus, takers)
    for name in config.prices.per_million_tokens:
        if name not in (ANY_MODEL, *names):
            near = difflib.get_close_matches(name, [ANY_MODEL, *names], n=1, cutoff=0.0)
            raise ConfigError(f"prices.per_million_tokens.{name}: there is no such model; the nearest is {near[0]!r}")


def _refuse_database(url: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises where it is no number)
    except ValueError as error:
        raise ConfigError(f"database_url: {error}") from error
    if parts.scheme != "postgresql":
        raise ConfigError("database_url: it begins with postgresql://, or is empty for SQLite in data_dir")
    if parts.password is not None:
        raise ConfigError("database_url: leave the password to ~/.pgpass or PGPASSWORD; this file is shown to many")


def _take_gpus(key: str, gpus: Sequence[int | str], takers: dict[int | str, str]) -> None:
    if takers and (gpus == "all" or "all" in takers):
        raise ConfigError(f"{key}.gpus: {next(iter(takers.values()))} wants some of the same GPUs")
    for gpu in [gpus] if gpus == "all" else gpus:
        if gpu in takers:
            raise ConfigError(f"{key}.gpus: CUDA device {gpu} is already taken by {takers[gpu]}")
        takers[gpu] = key


def _absolute(config: Config, base: Path) -> Config:
    """Paths are meant from the file's folder, wherever a command runs."""
    models = []
    for number, model in enumerate(config.models):
        folder = _resolved(base, model.path, f"models[{number}].path")
        is_folder = model.path != DEMO_MODEL and folder.is_dir()  # else a Hugging Face id
        models.append(msgspec.structs.replace(model, path=str(folder)) if is_folder else model)
    data_dir = str(_resolved(base, config.data_dir, "data_dir"))
    return msgspec.structs.replace(config, data_dir=data_dir, models=tuple(models))


def _resolved(base: Path, path: str, key: str) -> Path:
    try:
        return (base / Path(path).expanduser()).resolve()
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{key}: {path!r}: {error}") from error


def _readable(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.server.port`" into "server.port: Expected `int`, got `str`"."""
    what, at, where = message.rpartition(" - at `$.")
    if not at:
        return message
    key = where.rstrip("`")
    if what.startswith("Object missing required field"):
        return f"{key}.{what.split('`')[1]}: it has no default and must be there"
    if what.startswith("Invalid enum value"):
        return f"{key}: {what.removeprefix('Invalid enum value ')} is none of {', '.join(_choices(key))}"
    return f"{key}: {what}"


def _choices(key: str) -> list[str]:
    """What may stand there, as far as it is words."""
    kind: Any = Config
    for part in re.findall(r"[a-z_]+", key):
        struct: Any = next((each for each in (kind, *get_args(kind)) if hasattr(each, "__struct_fields__")), None)
        kind = next(field.type for field in msgspec.structs.fields(struct) if field.name == part)
    parts = [kind, *get_args(kind)]
    return [repr(word) for part in parts if get_origin(part) is Literal for word in get_args(part)]
