"""Measures how fast a fresh engine is, with a few short requests, so that the first decisions rest on something.

A start value only: the scheduler refits it from what it observes (`sched.timefit`).
"""

import time
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from preble.daemon.engine.client import EngineClient
from preble.daemon.ids import ModelName
from preble.daemon.sched.timefit import fit_prefill
from preble.daemon.sched.types import EngineLimits, TimeModel

_PREFILL_TOKENS = (32, 128, 512, 1024, 2048, 4096, 8192)
_LONG_ENOUGH_MS = 400.0
"""Once a prefill takes so long, longer ones are not tried."""
_REPEATS = 2
_DECODE_TOKENS = 32
_BATCH = 16
"""Sequences decoded at once, to tell the part of a step that they share from each one's own."""
_TOKEN_IDS = (5, 200)
"""From these ids prompts are drawn; every vocabulary has them."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """Sends uncached prompts to one engine and takes the time."""

    client: EngineClient
    model: ModelName

    async def best_ms(self, prompt_tokens: int, output_tokens: int, batch: int = 1) -> float:
        """Return the shortest of a few runs; whatever else the machine does only ever adds time."""
        return min([await self._run_ms(prompt_tokens, output_tokens, batch) for _ in range(_REPEATS)])

    async def step_ms(self, prompt_tokens: int, batch: int) -> float:
        """Return how long a step takes that decodes `batch` sequences."""
        first_ms = await self.best_ms(prompt_tokens, 1, batch)
        return max(0.0, await self.best_ms(prompt_tokens, 1 + _DECODE_TOKENS, batch) - first_ms) / _DECODE_TOKENS

    async def _run_ms(self, prompt_tokens: int, output_tokens: int, batch: int) -> float:
        body = {
            "model": self.model,
            "prompt": np.random.default_rng().integers(*_TOKEN_IDS, size=prompt_tokens).tolist(),
            "cache_salt": uuid4().hex,
            "n": batch,
            "max_tokens": output_tokens,
            "ignore_eos": True,
        }
        started_s = time.perf_counter()
        await self.client.complete(body)
        return (time.perf_counter() - started_s) * 1000


async def calibrate(client: EngineClient, model_name: ModelName, limits: EngineLimits) -> TimeModel:
    """Measure prefill over a range of lengths, and decode. Takes a second or two and leaves garbage in the cache.

    Raises `EngineError` or `InvalidRequest` if the engine fails or refuses.
    """
    probe = _Probe(client, model_name)
    longest = min(limits.max_model_len - _DECODE_TOKENS, (limits.kv_blocks - 1) * limits.block_size // 2)
    lengths = [length for length in _PREFILL_TOKENS if length <= longest] or [max(1, longest)]
    await probe.best_ms(lengths[0], 2)  # the first requests of an engine pay for its warming up
    measured: list[tuple[int, float]] = []
    for length in lengths:
        measured.append((length, await probe.best_ms(length, 1)))
        if measured[-1][1] > _LONG_ENOUGH_MS:
            break
    alone_ms = await probe.step_ms(lengths[0], 1)
    batch = min(_BATCH, limits.max_num_seqs)
    step_ms = max(alone_ms, await probe.step_ms(lengths[0], batch))
    per_sequence = (step_ms - alone_ms) / (batch - 1) if batch > 1 else alone_ms
    base, per_token, per_token2 = fit_prefill(measured)
    return TimeModel(
        prefill_base_ms=base,
        prefill_ms_per_token=per_token,
        prefill_ms_per_token2=per_token2,
        decode_base_ms=max(0.0, alone_ms - per_sequence),
        decode_ms_per_sequence=per_sequence,
    )
