"""Runs points, and keeps what came out."""

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter

import msgspec

from evaluation.points import Point
from preble.daemon.cli.sim_runs import Job, Source, bound, simulate
from preble.daemon.config import SchedulerConfig
from preble.daemon.sim.fits import load_fit
from preble.daemon.sim.oracle import capacity_hit_ratio
from preble.daemon.sim.report import Setting

FIT = "a6000-mistral-7b"
Runs = dict[Point, dict]
"""The numbers of each run."""
KEPT = (
    "requests", "refused", "mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "hit_ratio",
    "throughput", "duration_s", "preemptions",
)  # fmt: skip


def run(point: Point, trace: Path | None) -> dict:
    """Numbers of one run. The oracle is a run of another kind: it has hit ratios only."""
    is_trace = point.workload == "mooncake"
    source = Source(
        workload=None if is_trace else point.workload,
        trace=trace if is_trace else None,
        requests=point.requests,
        gpus=point.gpus,
        arrivals="poisson" if is_trace else point.arrivals,
    )
    rate = None if is_trace else point.rate
    if point.policy == "oracle":
        fit = load_fit(FIT)
        requests, limits = source.generate(rate, point.seed), fit.limits
        n_blocks = point.gpus * limits.kv_blocks
        return {
            "hit_ratio": bound(source, rate, point.seed, fit, lambda _: None),
            "capacity_hit_ratio": capacity_hit_ratio(requests, limits.block_size, n_blocks, limits.max_model_len),
        }
    setting = Setting(
        workload=point.workload,
        policy=point.policy,
        fairness="d2lpm",
        gpus=point.gpus,
        rate=point.rate,
        seed=point.seed,
        fit=FIT,
        arrivals=point.arrivals,
    )
    config = msgspec.structs.replace(SchedulerConfig(policy=point.policy), **dict.fromkeys(point.off, False))
    done = simulate(Job(source=source, rate=rate, setting=setting, config=config, sampled=False), lambda _: None)
    numbers = {name: getattr(done.run, name) for name in KEPT}
    if point.workload == "noisy_neighbour":
        others = [of_one for name, of_one in done.run.tenants.items() if name != "flooder"]
        numbers["neighbours_p99_ttft_s"] = max(of_one.p99_ttft_s for of_one in others)
    return numbers


def code_hash() -> str:
    """Of all code that the numbers come from."""
    digest = hashlib.sha256()
    daemon = Path(sys.modules["preble.daemon.sim.fits"].__file__ or "").parents[1]
    files = [daemon / "config.py", *(path for name in ("flow", "sched", "sim") for path in (daemon / name).rglob("*"))]
    for path in sorted(files):
        if path.suffix in (".py", ".toml"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run_all(points: Iterable[Point], out: Path, trace: Path | None, processes: int) -> Runs:
    """Run what has not been run. Progress goes to stderr."""
    by_key = {point.key: point for point in points}
    kept_path, code = out / "runs.json", code_hash()
    kept = json.loads(kept_path.read_text()) if kept_path.exists() else {}
    runs: dict[str, dict] = kept["runs"] if kept.get("code") == code else {}
    todo = sorted((point for key, point in by_key.items() if key not in runs), key=lambda point: -point.cost)
    started_s = written_s = perf_counter()

    def keep() -> None:
        kept_path.write_text(json.dumps({"code": code, "runs": dict(sorted(runs.items()))}, indent=0))

    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(run, point, trace): point for point in todo}
        total_cost, done_cost = sum(point.cost for point in todo), 0.0
        for future in as_completed(futures):
            runs[futures[future].key] = future.result()
            done_cost += futures[future].cost
            if perf_counter() - written_s > 30:
                keep()
                written_s = perf_counter()
                taken_s = written_s - started_s
                print(f"{done_cost / total_cost:4.0%} after {taken_s:.0f} s", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
        keep()
    if todo:
        print(f"{len(todo)} runs in {perf_counter() - started_s:.0f} s, {processes} at a time", file=sys.stderr)
    return {point: runs[key] for key, point in by_key.items()}
