"""Calibrations of engines: how long a step takes and what fits. Reads its own TOML files, or one that is named.

A step computes n tokens: one of each sequence that decodes, whose contexts sum up to C tokens, S of which are in blocks
that another of them reads too, and chunks of prompts, each of q tokens and ending at context c. It takes

    max(step.least_ms, step.base_ms + n * step.ms_per_token)
    + for each request that it begins: step.ms_per_request
    + (C - S) * step.ms_per_context_token + S * step.ms_per_shared_context_token
    + for each chunk: c * prefill.ms_per_context_token + (q * c - q * (q - 1) / 2) * prefill.ms_per_attended_token
    + for each chunk with q * c > long_prefill.from_token_pairs: q * long_prefill.ms_per_token
      + c * long_prefill.ms_per_context_token + q * c * long_prefill.ms_per_token_pair

and, since no coefficient is negative, never less for doing more.
"""

import tomllib
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.sched.timefit import fit_prefill
from preble.daemon.sched.types import EngineLimits, TimeModel

PS_PER_MS = 10**9

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0, le=2**40)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it can take."""

    block_size: _Count
    kv_blocks: _Count
    max_num_seqs: _Count
    max_num_batched_tokens: _Count
    max_model_len: _Count
    long_prefill_token_threshold: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    """Tokens of one prompt in a step, unless it is alone; 0: as many as there is room for."""


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every step costs, and decoding."""

    least_ms: _NotNegative = 0.0
    base_ms: _NotNegative
    ms_per_token: _NotNegative
    ms_per_context_token: _NotNegative
    """Of sequences that decode."""
    ms_per_shared_context_token: _NotNegative | None = None
    """Of those, once another one has read the same block; None: as much as others."""
    ms_per_request: _NotNegative = 0.0
    """In the step that begins it: taking it in, and all that is done once for it."""


class Prefill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a chunk of a prompt costs beyond its tokens."""

    ms_per_context_token: _NotNegative = 0.0
    ms_per_attended_token: _NotNegative = 0.0
    """For each token of the chunk, of itself and those before it."""


class LongPrefill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a chunk costs in addition once its tokens times its context pass a threshold."""

    from_token_pairs: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    ms_per_token: _NotNegative = 0.0
    ms_per_context_token: _NotNegative = 0.0
    ms_per_token_pair: _NotNegative = 0.0


class Fit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """One engine's calibration, with where it comes from."""

    source: _Text
    date: _Text
    engine: Engine
    step: Step
    prefill: Prefill = Prefill()
    long_prefill: LongPrefill = LongPrefill()

    def __post_init__(self) -> None:
        engine = self.engine
        if engine.kv_blocks * engine.block_size < engine.max_model_len:
            raise ValueError("engine.kv_blocks: they must hold at least one prompt of max_model_len")
        if engine.max_num_batched_tokens < engine.max_num_seqs:
            raise ValueError("engine.max_num_batched_tokens: it must be at least max_num_seqs")
        shared_ms = self.step.ms_per_shared_context_token
        if shared_ms is not None and shared_ms > self.step.ms_per_context_token:
            raise ValueError("step.ms_per_shared_context_token: it may not be above step.ms_per_context_token")
        if max(self.step.least_ms, self.step.base_ms + self.step.ms_per_token) < 1 / PS_PER_MS:
            raise ValueError("step: no step may take no time")

    @cached_property
    def limits(self) -> EngineLimits:
        """What the engine can take, as the scheduler is told."""
        engine = self.engine
        return EngineLimits(
            block_size=engine.block_size,
            kv_blocks=engine.kv_blocks,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_model_len=engine.max_model_len,
        )

    # --- in picoseconds, for exact sums ---

    def batch_ps(self, n_tokens: int) -> int:
        """What a step of so many tokens takes, whatever their contexts."""
        return round(PS_PER_MS * max(self.step.least_ms, self.step.base_ms + n_tokens * self.step.ms_per_token))

    @cached_property
    def context_ps(self) -> int:
        """What each token of context costs that a decoding sequence has."""
        return round(PS_PER_MS * self.step.ms_per_context_token)

    @cached_property
    def shared_context_ps(self) -> int:
        """What each of these costs in blocks that another sequence has read in the same step."""
        shared_ms = self.step.ms_per_shared_context_token
        return self.context_ps if shared_ms is None else round(PS_PER_MS * shared_ms)

    @cached_property
    def request_ps(self) -> int:
        """What the step that begins a request takes longer for it."""
        return round(PS_PER_MS * self.step.ms_per_request)

    def chunk_ps(self, n_tokens: int, context: int) -> int:
        """What a chunk of a prompt that ends at `context` costs beyond its tokens."""
        attended = n_tokens * context - n_tokens * (n_tokens - 1) // 2
        ms = context * self.prefill.ms_per_context_token + attended * self.prefill.ms_per_attended_token
        pairs, extra = n_tokens * context, self.long_prefill
        if pairs > extra.from_token_pairs:
            ms += n_tokens * extra.ms_per_token + context * extra.ms_per_context_token + pairs * extra.ms_per_token_pair
        return round(PS_PER_MS * ms)

    # --- for the scheduler ---

    def prefill_ms(self, n_tokens: int) -> float:
        """Time to compute a prompt that is alone in the engine."""
        total_ps, done = self.request_ps if n_tokens else 0, 0
        while done < n_tokens:
            chunk = min(self.engine.max_num_batched_tokens, n_tokens - done)
            done += chunk
            total_ps += self.batch_ps(chunk) + self.chunk_ps(chunk, done)
        return total_ps / PS_PER_MS

    def decode_step_ms(self, n_sequences: int, context: int) -> float:
        """Time of a step that decodes so many sequences of so much context each."""
        return (self.batch_ps(n_sequences) + n_sequences * context * self.context_ps) / PS_PER_MS

    def time_model(self) -> TimeModel:
        """What a calibration of this engine would tell the scheduler: least squares of the relative error."""
        return self._time_model

    @cached_property
    def _time_model(self) -> TimeModel:
        lengths = [n for n in _CALIBRATED_TOKENS if n <= self.engine.max_model_len]
        base, linear, quadratic = fit_prefill([(n, self.prefill_ms(n)) for n in lengths])
        alone_ms, together_ms = (self.decode_step_ms(n, _CALIBRATED_CONTEXT) for n in (1, _CALIBRATED_BATCH))
        per_sequence_ms = (together_ms - alone_ms) / (_CALIBRATED_BATCH - 1)
        return TimeModel(
            prefill_base_ms=base,
            prefill_ms_per_token=linear,
            prefill_ms_per_token2=quadratic,
            decode_base_ms=max(0.0, alone_ms - per_sequence_ms),
            decode_ms_per_sequence=per_sequence_ms,
        )


_CALIBRATED_TOKENS = (32, 128, 512, 1024, 2048, 4096, 8192, 16384)
_CALIBRATED_BATCH = 16
_CALIBRATED_CONTEXT = 1024


# --- reading ---


def fit_names() -> tuple[str, ...]:
    """The calibrations that come with Preble."""
    names = (entry.name for entry in _shipped().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_fit(name_or_path: str | Path) -> Fit:
    """Read a calibration by the name of a shipped one, or from a TOML file. Raises `ConfigError`."""
    try:
        if str(name_or_path) in fit_names():
            text = (_shipped() / f"{name_or_path}.toml").read_text(encoding="utf-8")
        else:
            text = Path(name_or_path).read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), Fit)
    except FileNotFoundError:
        known = ", ".join(fit_names())
        raise ConfigError(f"{name_or_path}: neither a file nor a calibration that is shipped: {known}") from None
    except OSError as error:
        raise ConfigError(f"{name_or_path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name_or_path}: not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name_or_path}: {_readable(str(error))}") from error


def _shipped() -> Any:
    return resources.files(__package__) / "fits"


def _readable(message: str) -> str:
    """Put the key first: "step.base_ms: Expected `float`, got `str`"."""
    what, at, where = message.rpartition(" - at `$")
    if not at:
        return message
    key = where.rstrip("`").removeprefix(".")
    return f"{key}: {what}" if key else what
