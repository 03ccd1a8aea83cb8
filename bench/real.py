"""All policies on two real CPU engines in one run: whether what the simulator says of them comes true.

    .venv/bin/python bench/real.py OUT                          # 18 minutes
    .venv/bin/python bench/real.py OUT --seeds 9 --seconds 25   # about an hour and a half
    .venv/bin/python bench/real.py OUT --write                  # and puts the tables into docs/real-engines.md

Each policy has a daemon with two engines, and all of them are there all the time, idle but for one. A load at a rate is
played by all policies right after each other, in an order drawn for each seed and load, with the same requests at the
same times, on empty caches: a machine whose speed drifts is about the same for all of them. What was disturbed is
played again. OUT gets `real.json`.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
from cpu_engines import Daemon, dump, machine, play, serving_each
from cpu_loads import KV_BLOCKS, LOADS, fill, numbers, of_seeds, requests, small_fit, table
from cpu_watch import BUSY_CORES

from preble.daemon.sim.report import Run

POLICIES = ("e2", "e2_paper", "prefix_affinity", "least_loaded", "round_robin")
RATES = {"tools": (10.0, 18.0), "agents": (12.0, 28.0)}
"""Requests per second: moderate, and near what the engines can do."""


@dataclass(frozen=True)
class Done:
    """One run, and how the machine was meanwhile."""

    run: Run
    others_cores: float
    discarded: int


# --- playing ---


def of_seed(
    seed: int, loads: list[str], seconds: float, busy_cores: float, daemons: dict[str, Daemon]
) -> Iterator[Done | str]:
    """Every policy's runs of a seed, or why there is none."""
    rng = random.Random(seed)
    conditions = [(load, rate) for load in loads for rate in RATES[load]]
    for load, rate in rng.sample(conditions, len(conditions)):
        for policy in rng.sample(POLICIES, len(POLICIES)):
            played = play(daemons[policy], lambda load=load, rate=rate: requests(load, rate, seconds, seed), busy_cores)
            if played.disturbed:
                yield f"{load} at {rate:g}/s, {policy}, seed {seed}: {played.disturbed}"
            else:
                run = numbers(played.outcomes, load, rate, policy, seed, small_fit("cpu-demo"))
                yield Done(run, played.others_cores, played.discarded)


def show(done: Done | str) -> None:
    if isinstance(done, str):
        print(f"left out: {done}", file=sys.stderr)
        return
    run = done.run
    print(
        f"{run.workload} {run.rate:g}/s seed {run.seed} {run.policy}: TTFT {run.mean_ttft_s:.3f} s, "
        f"latency {run.mean_latency_s:.3f} s, p99 {run.p99_latency_s:.3f} s, hit {run.hit_ratio:.3f}, "
        f"refused {run.refused}, others {done.others_cores:.2f}",
        file=sys.stderr,
    )


# --- tables ---

MEASURES = (
    ("mean TTFT, s", "mean_ttft_s", ".3f"),
    ("mean latency, s", "mean_latency_s", ".3f"),
    ("p99 latency, s", "p99_latency_s", ".2f"),
    ("hit ratio", "hit_ratio", ".3f"),
)


def policies_table(runs: list[Run]) -> str:
    rows = []
    for load, rate in dict.fromkeys((run.workload, run.rate) for run in sorted(runs, key=lambda run: run.rate)):
        for policy in POLICIES:
            some = [run for run in runs if (run.workload, run.rate, run.policy) == (load, rate, policy)]
            if some:
                values = [of_seeds([getattr(run, name) for run in some], form) for _, name, form in MEASURES]
                rows.append([load, f"{rate:g}", policy, str(len(some)), *values])
    return table(["load", "req/s", "policy", "seeds", *(name for name, _, _ in MEASURES)], sorted(rows, key=order))


def order(row: list[str]) -> tuple[int, float]:
    return list(LOADS).index(row[0]), float(row[1])


def ratios_table(runs: list[Run]) -> str:
    """Each other policy's mean over e2's with the same requests."""
    by_setting = {(run.workload, run.rate, run.policy, run.seed): run for run in runs}
    rows = []
    for load in LOADS:
        for rate in RATES[load]:
            for title, name, _ in MEASURES[:3]:
                cells = []
                for policy in POLICIES[1:]:
                    ratios = [
                        getattr(run, name) / getattr(e2, name)
                        for (of, at, by, seed), run in by_setting.items()
                        if (of, at, by) == (load, rate, policy) and (e2 := by_setting.get((load, rate, "e2", seed)))
                    ]
                    cells.append(of_seeds(ratios, ".2f") if ratios else "-")
                if set(cells) != {"-"}:
                    rows.append([load, f"{rate:g}", title.removesuffix(", s"), *cells])
    return table(["load", "req/s", "", *(f"{policy} / e2" for policy in POLICIES[1:])], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--loads", default=",".join(LOADS), help="with commas")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long requests come in each run")
    parser.add_argument("--busy", type=float, default=BUSY_CORES, help="cores that others may keep busy")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    left_out: list[str] = []
    ways = {policy: {"policy": policy, "kv_blocks": KV_BLOCKS + 1} for policy in POLICIES}
    with tempfile.TemporaryDirectory() as workshop, serving_each(Path(workshop), ways) as daemons:
        for seed in range(1, args.seeds + 1):
            for each in of_seed(seed, args.loads.split(","), args.seconds, args.busy, daemons):
                show(each)
                if isinstance(each, Done):
                    done.append(each)
                else:
                    left_out.append(each)
                found = {"machine": machine(), "seconds": args.seconds, "left_out": left_out, "done": done}
                dump(args.out / "real.json", msgspec.to_builtins(found))
    runs = [each.run for each in done]
    told = (
        f"{len(runs)} runs in which requests came for {args.seconds:g} s, on {machine()}, of which others kept "
        f"{median(each.others_cores for each in done):.2f} busy in the median. {sum(each.discarded for each in done)} "
        f"tries were disturbed and played again, and {len(left_out)} runs left out since every try was. "
        f"{sum(run.refused for run in runs)} of {sum(run.requests for run in runs):,} requests were not answered."
    )
    tables = {"policies": f"{policies_table(runs)}\n\n{told}", "ratios": ratios_table(runs)}
    print("\n\n".join(tables.values()))
    if args.write:
        fill(tables)


if __name__ == "__main__":
    main()
