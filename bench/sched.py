"""How what the scheduler costs grows with what it knows: decisions, reports and memory, for 10^4 to 10^7 blocks.

    .venv/bin/python bench/sched.py                       # the growth table (some minutes, up to 6 GB)
    .venv/bin/python bench/sched.py --blocks 1000000      # one row for each workload and number of GPUs
    .venv/bin/python bench/sched.py --against OTHER       # each row for this checkout and for another one, in turn
    .venv/bin/python bench/sched.py --profile             # and which functions take the time

Every row is measured in a process of its own. A machine is given requests like those of tool use, questions about long
documents, or growing conversations, until so many blocks are indexed, on GPUs whose caches are full and evict what was
used least recently. Then follow the requests that are timed, of 8,192 tokens each, most of which are cached somewhere.
Times are of the processor, not of the clock on the wall, so that what else the machine does is not counted. But a
virtual core that shares a real one is up to 1.7 times slower for seconds on end. So a loop that is always the same is
timed before and after every fifty requests, and where it took much more than its best they do not count.

    core       what a turn of that loop took, in ns: how fast the core was
    kept       of the requests that were timed, how many count
    decision   `Machine.step(Arrived)`: where a request goes, and whether it starts
    upkeep     what the daemon does between events (`Runtime.upkeep`): load windows, garbage; mean per request
    life       everything else of a request: two reports, the first token, its end
    gpu_dies   `Machine.step(EngineDown)` of a GPU whose cache is full
    stored     blocks per second from an engine's raw messages to the index, and back out of it
    bytes      memory per block: the index, with the names by which its engine calls it
"""

import argparse
import cProfile
import gc
import json
import os
import pstats
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import thread_time_ns

import numpy as np
from sched_loads import MODEL, WORKLOADS, Load, Reporter, chains, removed, stored

from preble.daemon.flow.events import EngineDown

try:
    from preble.daemon.flow.garbage import collect_rarely
except ImportError:  # a checkout that has none, to compare with
    collect_rarely = None

TURN = 50
"""Requests between two looks at how fast the core is."""
LOOP = 20_000
DISTURBED = 1.15
"""So many times its best the loop takes where the core is shared: it is 1.4 to 1.7 then, and 1.1 else."""


def core_ns() -> float:
    """How long the core takes for a turn of a loop."""
    started_ns, total = thread_time_ns(), 0
    for number in range(LOOP):
        total += number & 7
    return (thread_time_ns() - started_ns) / LOOP


class Turns:
    """Requests that are timed, and how fast the core was meanwhile."""

    def __init__(self, load: Load, n_requests: int) -> None:
        self._core_ns: list[float] = []
        self._took_ns: list[dict[str, list[int]]] = []
        for _ in range(0, n_requests, TURN):
            before_ns = core_ns()
            load.took_ns = {what: [] for what in load.took_ns}
            load.arrive(TURN)
            self._core_ns.append(max(before_ns, core_ns()))
            self._took_ns.append(load.took_ns)
        best_ns = np.percentile(self._core_ns, 2)
        self._kept = [at for at, took_ns in enumerate(self._core_ns) if took_ns <= DISTURBED * best_ns]

    def took_ns(self, what: str) -> list[int]:
        """The decisions, or lives, that count."""
        return [took_ns for at in self._kept for took_ns in self._took_ns[at][what]]

    def core(self) -> dict[str, float]:
        """How fast it was while these were timed, and how many they are."""
        kept_ns = np.median([self._core_ns[at] for at in self._kept])
        return {"core_ns": round(float(kept_ns), 1), "kept": round(len(self._kept) / len(self._core_ns), 2)}


def percentiles(times_ns: list[int], name: str) -> dict[str, float]:
    p50, p99 = np.percentile(times_ns, (50, 99)) / 1000
    return {f"{name}_p50_us": round(float(p50), 1), f"{name}_p99_us": round(float(p99), 1)}


def measure_decisions(workload: str, n_blocks: int, n_gpus: int, n_requests: int, profile: bool) -> dict[str, object]:
    if collect_rarely is not None:
        collect_rarely()
    load = Load(workload, n_blocks, n_gpus)
    load.fill(n_blocks)
    row: dict[str, object] = {"workload": workload, "blocks": load.machine.indexed_blocks(MODEL), "gpus": n_gpus}
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    turns = Turns(load, n_requests)
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    decision_ns = turns.took_ns("decision")
    row |= turns.core() | percentiles(decision_ns, "decision")
    row |= {"decisions_per_s": round(1e9 * len(decision_ns) / sum(decision_ns))}
    row |= {"upkeep_us": round(float(np.mean(turns.took_ns("upkeep"))) / 1000, 1)}
    row |= percentiles(turns.took_ns("life"), "life")
    row["gpu_dies_ms"] = round(load.step(EngineDown(gpu=next(iter(load.caches)))) / 1e6, 1)
    return row


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_reports(n_blocks: int) -> dict[str, object]:
    warm = chains(1000)
    Reporter(1000).report_all(stored(warm))
    all_chains = chains(n_blocks)
    reporter = Reporter(n_blocks)
    start_bytes = resident_bytes()
    stored_ns = reporter.report_all(stored(all_chains))
    total_bytes = resident_bytes() - start_bytes
    n_stored = reporter.machine.indexed_blocks(MODEL)
    removed_ns = reporter.report_all(removed(all_chains))
    assert reporter.machine.indexed_blocks(MODEL) == n_stored - all_chains.size
    return {
        "blocks": n_stored,
        "stored_per_s": round(1e9 * n_stored / stored_ns),
        "removed_per_s": round(1e9 * all_chains.size / removed_ns),
        "bytes_per_block": round(total_bytes / n_stored),
    }


# --- rows ---

MEASURES: dict[str, Callable[..., dict[str, object]]] = {"decisions": measure_decisions, "reports": measure_reports}


def in_a_process(checkout: Path, measure: str, **arguments: object) -> dict[str, object]:
    """Measure what the daemon of that checkout does."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / ".dev")}
    command = [sys.executable, __file__, "--row", json.dumps([measure, arguments])]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    row: dict[str, object] = json.loads(ran.stdout)
    return row


def plan(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, object]]]:
    """Blocks grow at 8 GPUs, and GPUs at a million blocks."""
    sizes = [(n_blocks, 8) for n_blocks in args.blocks] + [(args.gpus_blocks, n_gpus) for n_gpus in args.gpus]
    for workload in args.workloads:
        for n_blocks, n_gpus in dict.fromkeys(sizes):
            arguments = {"workload": workload, "n_blocks": n_blocks, "n_gpus": n_gpus}
            yield "decisions", {**arguments, "n_requests": args.requests, "profile": args.profile}
    for n_blocks in args.blocks:
        yield "reports", {"n_blocks": n_blocks}


def table(rows: list[dict[str, object]]) -> str:
    """For people, in Markdown."""
    lines: list[str] = []
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        cells = [f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="*", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--gpus", type=int, nargs="*", default=[2, 8, 32, 128, 512])
    parser.add_argument("--gpus-blocks", type=int, default=10**6, help="blocks in the rows in which GPUs grow")
    parser.add_argument("--workloads", nargs="*", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--requests", type=int, default=12_000, help="requests timed in each row")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        measure, arguments = json.loads(args.row)
        print(json.dumps(MEASURES[measure](**arguments)))
        return
    checkouts: dict[str, Path] = {"this": Path(__file__).resolve().parents[1]}
    if args.against:
        checkouts = {"other": args.against.resolve(), **checkouts}
    rows = []
    for measure, arguments in plan(args):
        for name, checkout in checkouts.items():
            row = in_a_process(checkout, measure, **arguments)
            rows.append({"checkout": name, **row} if args.against else row)
            print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
