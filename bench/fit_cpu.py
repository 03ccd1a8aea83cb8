"""Measures a CPU engine's steps and writes the simulator's calibration of it, daemon/sim/fits/cpu-demo.toml.

    .venv/bin/python bench/fit_cpu.py            # prints it; about four minutes
    .venv/bin/python bench/fit_cpu.py --write    # and writes it to its place

Both engines are measured at the same time, past the daemon, since that is how they run: prompts of many lengths, ends
of prompts whose beginning is cached, and steps that decode for many sequences of many lengths. The median of each is
taken, and all are fitted together, by least squares of the relative error with no coefficient below 0. What a request
needs on its way is fitted too, so that no step is charged with it, and left out: it is not the engine's.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, product
from pathlib import Path
from statistics import median
from uuid import uuid4

import aiohttp
import numpy as np
from cpu_engines import (
    BLOCK_TOKENS,
    MAX_MODEL_LEN,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    MODEL,
    Watch,
    machine,
    random_prompt,
    serving,
)

from preble.daemon.sim.fits import load_fit

BENCH = Path(__file__).resolve().parent
PROMPTS = (16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8000)
CONTEXTS = (1024, 2048, 4096, 7168)
CHUNKS = (32, 128, 512, 1024)
BATCHES = (1, 2, 4, 8, 16, 32)
SHARED_BATCHES = (8, 32)
SHARING = 4  # sequences of one prompt in these
DECODE_CONTEXTS = (32, 1024, 2048, 4096, 7168)
SHARED_CONTEXTS = (1024, 2048, 4096)
DECODE_TOKENS = 66_000  # in all sequences of a batch; more take long to prepare, and are rare
DECODE_STEPS = 64
PREFILL_REPEATS = 7
DECODE_REPEATS = 3
NAMES = ("way", "base", "per_token", "per_decode_context", "per_shared_context", "per_chunk_context", "per_attended")


@dataclass(frozen=True)
class Point:
    """One measurement: what was done, how often each coefficient is in it, and how long it took."""

    what: str
    terms: tuple[float, ...]
    ms: float


# --- measuring ---


async def ask(http: aiohttp.ClientSession, prompts: list[list[int]], output_tokens: int, salt: str) -> float:
    """Milliseconds of one request with so many prompts at once."""
    body = {
        "model": MODEL,
        "prompt": prompts,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "cache_salt": salt,
    }
    started_s = time.perf_counter()
    async with http.post("http://engine/v1/completions", json=body) as response:
        answer = await response.text()
    if response.status != 200:
        raise SystemExit(answer)
    return (time.perf_counter() - started_s) * 1000


async def chunk_ms(http: aiohttp.ClientSession, n_tokens: int, context: int) -> float:
    """Of a prompt whose last `n_tokens` are not cached."""
    salt, prompt = uuid4().hex, random_prompt(context)
    if context > n_tokens:
        await ask(http, [prompt[: context - n_tokens]], 1, salt)
    return await ask(http, [prompt], 1, salt)


async def step_ms(http: aiohttp.ClientSession, batch: int, context: int, sharing: int) -> float:
    """Of a step that decodes for `batch` sequences, in turn of so many prompts that `sharing` of them have each."""
    salt, prompts = uuid4().hex, [random_prompt(context) for _ in range(batch // sharing)] * sharing
    await ask(http, prompts, 1, salt)
    first_ms = await ask(http, prompts, 1, salt)
    return (await ask(http, prompts, 1 + DECODE_STEPS, salt) - first_ms) / DECODE_STEPS


async def typical(
    engines: list[aiohttp.ClientSession], repeats: int, measure: Callable[[aiohttp.ClientSession], Awaitable[float]]
) -> float:
    """The median of some runs on all engines at once."""
    values: list[float] = []
    for _ in range(repeats):
        values += await asyncio.gather(*map(measure, engines))
    return median(values)


class Measuring:
    """Runs on all engines at once, and notes what they took."""

    def __init__(self, engines: list[aiohttp.ClientSession]) -> None:
        self.points: list[Point] = []
        self._engines = engines

    async def prompt(self, n_tokens: int, context: int) -> None:
        ms = await typical(self._engines, PREFILL_REPEATS, lambda http: chunk_ms(http, n_tokens, context))
        self._note(f"{n_tokens} tokens to {context}", prefill_terms(n_tokens, context), ms)

    async def decode(self, batch: int, context: int, sharing: int = 1) -> None:
        ms = await typical(self._engines, DECODE_REPEATS, lambda http: step_ms(http, batch, context, sharing))
        again = (batch - batch // sharing) * context
        once = batch * (context + DECODE_STEPS / 2) - again
        what = f"{batch} sequences of {context}"
        self._note(what if sharing == 1 else f"{what}, {sharing} of each prompt", (0, 1, batch, once, again, 0, 0), ms)

    def _note(self, what: str, terms: tuple[float, ...], ms: float) -> None:
        self.points.append(Point(what, terms, ms))
        print(f"{what}: {ms:.2f} ms", file=sys.stderr)


async def measure(sockets: list[Path]) -> list[Point]:
    engines = [aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) for path in sockets]
    measuring = Measuring(engines)
    try:
        for http in engines:
            await ask(http, [random_prompt(64)], 8, uuid4().hex)  # an engine's first requests pay for its warming up
        for n_tokens in PROMPTS:
            await measuring.prompt(n_tokens, n_tokens)
        for context, n_tokens in product(CONTEXTS, CHUNKS):
            if n_tokens < context:
                await measuring.prompt(n_tokens, context)
        for context, batch in product(DECODE_CONTEXTS, BATCHES):
            if batch * context <= DECODE_TOKENS:
                await measuring.decode(batch, context)
        for context, batch in product(SHARED_CONTEXTS, SHARED_BATCHES):
            await measuring.decode(batch, context, SHARING)
    finally:
        for http in engines:
            await http.close()
    return measuring.points


def prefill_terms(n_tokens: int, context: int) -> tuple[float, ...]:
    terms = np.array([1.0, 0, 0, 0, 0, 0, 0])
    for chunk, end in chunks(n_tokens, context):
        terms += [0, 1, chunk, 0, 0, end, chunk * end - chunk * (chunk - 1) / 2]
    return tuple(terms)


def chunks(n_tokens: int, context: int) -> Iterator[tuple[int, int]]:
    """Tokens of each step, and where they end."""
    done = context - n_tokens
    while done < context:
        n = min(MAX_NUM_BATCHED_TOKENS, context - done)
        done += n
        yield n, done


# --- fitting ---


def fit(points: list[Point]) -> np.ndarray:
    """The best coefficients that are not negative: the best of the plain fits over subsets that come out so."""
    scaled = np.array([np.array(point.terms) / point.ms for point in points])
    ones = np.ones(len(points))
    best, least = np.zeros(len(NAMES)), float("inf")
    subsets = [list(some) for size in range(1, len(NAMES) + 1) for some in combinations(range(len(NAMES)), size)]
    for chosen in subsets:
        found = np.linalg.lstsq(scaled[:, chosen], ones, rcond=None)[0]
        error = float(((scaled[:, chosen] @ found - ones) ** 2).sum())
        if found.min() >= 0 and error < least:
            best, least = np.zeros(len(NAMES)), error
            best[chosen] = found
    return best


def errors(points: list[Point], coefficients: np.ndarray) -> dict[str, float]:
    """By measurement, how much longer the fit says."""
    return {point.what: float(np.dot(point.terms, coefficients)) / point.ms - 1 for point in points}


TARGET = BENCH.parent / "daemon/sim/fits/cpu-demo.toml"
TOKEN_BYTES = 2048  # in the KV cache
TOML = """\
# The generated demo model on one core of an x86-64 CPU, as preble.toml's `preble-demo` runs it,
# while a second engine was as busy on another core.
#
# By bench/fit_cpu.py, from {n_points} measurements. The fit is off by {median_error:.0%} in the median,
# by {p90_error:.0%} or less in nine of ten, and by {worst_error:.0%} at most ({worst}).
# A request needs {way:.1f} ms more on its way to an engine and back, which are not in here.
source = "measured on one of {machine}"
date = "{date}"

[engine]
block_size = {block_size}
kv_blocks = {kv_blocks:<17} # 1 GiB at {token_bytes:,} bytes a token, less the one block that vLLM keeps
max_num_seqs = {max_num_seqs}
max_num_batched_tokens = {max_num_batched_tokens}
max_model_len = {max_model_len}

[step]
base_ms = {base:.4g}
ms_per_token = {per_token:.4g}
ms_per_context_token = {per_decode_context:.4g}
ms_per_shared_context_token = {per_shared_context:.4g}

[prefill]
ms_per_context_token = {per_chunk_context:.4g}
ms_per_attended_token = {per_attended:.4g}
"""


def toml(points: list[Point], coefficients: np.ndarray) -> str:
    off = errors(points, coefficients)
    worst = max(off, key=lambda what: abs(off[what]))
    sizes = [abs(error) for error in off.values()]
    return TOML.format(
        n_points=len(points),
        median_error=median(sizes),
        p90_error=float(np.percentile(sizes, 90)),
        worst_error=abs(off[worst]),
        worst=worst,
        machine=machine(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        block_size=BLOCK_TOKENS,
        kv_blocks=2**30 // (TOKEN_BYTES * BLOCK_TOKENS) - 1,
        token_bytes=TOKEN_BYTES,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        max_model_len=MAX_MODEL_LEN,
        **dict(zip(NAMES, coefficients, strict=True)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write it to its place")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as workshop, serving(Path(workshop)) as daemon, Watch(daemon) as watch:
        points = asyncio.run(measure(daemon.sockets()))
    if watch.disturbed:
        print(f"{watch.disturbed}; the medians may have borne it", file=sys.stderr)
    coefficients = fit(points)
    for what, error in errors(points, coefficients).items():
        print(f"{what}: {error:+.0%}", file=sys.stderr)
    text = toml(points, coefficients)
    print(text)
    if args.write:
        TARGET.write_text(text)
        load_fit(TARGET)


if __name__ == "__main__":
    main()
