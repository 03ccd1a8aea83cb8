"""Measures a CPU engine's steps and writes the simulator's calibration of it, daemon/sim/fits/cpu-demo.toml.

    .venv/bin/python bench/fit_cpu.py            # prints it; about six minutes
    .venv/bin/python bench/fit_cpu.py --write    # and writes it to its place

Both engines are measured at the same time, past the daemon, while others keep half a core busy, since that is how
they run: prompts of many lengths, ends of prompts whose beginning is cached, the same while another sequence decodes,
and steps that decode for many sequences of many lengths. The median of each is taken, and all are fitted together, by
least squares of the relative error with no coefficient below 0. What a request needs on its way is fitted too, so that
no step is charged with it, and left out: it is not the engine's.
"""

import argparse
import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from itertools import combinations, product
from pathlib import Path
from statistics import median

import numpy as np
from cpu_engines import BLOCK_TOKENS, MAX_MODEL_LEN, MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, machine, serving
from cpu_points import Kind, Point, company, decoding, lone_prompt, measured, prompt_beside
from cpu_watch import Watch

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
BESIDE = ((16, 16), (128, 128), (512, 512), (16, 1776), (256, 2016), (32, 4096))
"""Prompts that come while a sequence decodes: tokens to compute, and where they end."""
DECODE_TOKENS = 66_000  # in all sequences of a batch; more take long to prepare, and are rare
COMPANY_CORES = 0.5
"""What daemon, API servers and clients take of the two other cores where the load is near what the engines can do."""
ROUNDS = 3
PROMPT_REPEATS = 2
"""In each round: they are quick."""
NAMES = (
    "way",
    "way_per_token",
    "per_request",
    "base",
    "per_token",
    "per_decode_context",
    "per_shared_context",
    "per_chunk_context",
    "per_attended",
)


# --- measuring ---


def kinds() -> list[Kind]:
    """All that is measured, in the order of a round."""
    some = [lone_prompt(n_tokens, n_tokens) for n_tokens in PROMPTS] * PROMPT_REPEATS
    some += [lone_prompt(n, end) for end, n in product(CONTEXTS, CHUNKS) if n < end] * PROMPT_REPEATS
    some += [prompt_beside(n_tokens, context) for n_tokens, context in BESIDE]
    some += [
        decoding(batch, context)
        for context, batch in product(DECODE_CONTEXTS, BATCHES)
        if batch * context <= DECODE_TOKENS
    ]
    some += [decoding(batch, context, SHARING) for context, batch in product(SHARED_CONTEXTS, SHARED_BATCHES)]
    return some


# --- fitting ---


def fit(points: list[Point]) -> np.ndarray:
    """The best coefficients that are not negative: the best of the plain fits over subsets that come out so."""
    scaled = np.array([np.array(counts(point)) / point.scale_ms for point in points])
    wanted = np.array([point.ms / point.scale_ms for point in points])
    best, least = np.zeros(len(NAMES)), float("inf")
    subsets = [list(some) for size in range(1, len(NAMES) + 1) for some in combinations(range(len(NAMES)), size)]
    for chosen in subsets:
        found = np.linalg.lstsq(scaled[:, chosen], wanted, rcond=None)[0]
        error = float(((scaled[:, chosen] @ found - wanted) ** 2).sum())
        if found.min() >= 0 and error < least:
            best, least = np.zeros(len(NAMES)), error
            best[chosen] = found
    return best


def counts(point: Point) -> list[float]:
    """How often each coefficient is in it."""
    return [point.terms.get(name, 0.0) for name in NAMES]


def errors(points: list[Point], coefficients: np.ndarray) -> dict[str, float]:
    """By measurement, how much longer the fit says."""
    return {point.what: (float(np.dot(counts(point), coefficients)) - point.ms) / point.scale_ms for point in points}


TARGET = BENCH.parent / "daemon/sim/fits/cpu-demo.toml"
TOKEN_BYTES = 2048  # in the KV cache
TOML = """\
# The generated demo model on one core of an x86-64 CPU, as preble.toml's `preble-demo` runs it,
# while a second engine was as busy on another core, and other processes kept {company:g} cores of the rest busy.
#
# By bench/fit_cpu.py, from {n_points} measurements. The fit is off by {median_error:.0%} in the median,
# by {p90_error:.0%} or less in nine of ten, and by {worst_error:.0%} at most ({worst}).
# A request needs {way:.1f} ms more on its way to an engine and back, and {way_per_1000:.1f} ms for each thousand tokens
# of its prompt, which are not in here.
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
ms_per_request = {per_request:.4g}

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
        way_per_1000=1000 * coefficients[NAMES.index("way_per_token")],
        company=COMPANY_CORES,
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
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often all is measured")
    parser.add_argument("--write", action="store_true", help="write it to its place")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as workshop,
        serving(Path(workshop)) as daemon,
        company(COMPANY_CORES),
        Watch() as watch,
    ):
        points = asyncio.run(measured(daemon.sockets(), kinds(), args.rounds))
    if watch.disturbed:
        print(f"{watch.disturbed}; the medians may have borne it", file=sys.stderr)
    coefficients = fit(points)
    off = errors(points, coefficients)
    for point in points:
        print(f"{point.what}: {point.ms:.2f} ms, fit {off[point.what]:+.0%}", file=sys.stderr)
    text = toml(points, coefficients)
    print(text)
    if args.write:
        TARGET.write_text(text)
        load_fit(TARGET)


if __name__ == "__main__":
    main()
