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
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from time import thread_time_ns

import msgspec
import numpy as np

from preble.daemon.config import SchedulerConfig
from preble.daemon.engine.blocknames import BlockNames
from preble.daemon.engine.kvevents import decode
from preble.daemon.flow.effects import Dispatch
from preble.daemon.flow.events import (
    Arrived,
    BlocksRemoved,
    BlocksStored,
    EngineDown,
    EngineUp,
    Event,
    Finished,
    FirstToken,
    KvReported,
)

try:
    from preble.daemon.flow.garbage import collect_rarely
except ImportError:  # a checkout that has none, to compare with
    collect_rarely = None
from preble.daemon.flow.machine import Machine
from preble.daemon.ids import BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.types import EngineLimits, Prompt, RequestSpec, TimeModel

MODEL = ModelName("m")
BLOCK_SIZE = 16
PROMPT_BLOCKS = 512
TURN = 50
"""Requests between two looks at how fast the core is."""
LOOP = 20_000
DISTURBED = 1.15
"""So many times its best the loop takes where the core is shared: it is 1.4 to 1.7 then, and 1.1 else."""
IN_WINDOW = 4000
"""Requests that were sent within the window H, or fewer where their own blocks would be more than all."""
TIMES = TimeModel(prefill_base_ms=5.0, prefill_ms_per_token=0.1, decode_base_ms=8.0, decode_ms_per_sequence=0.1)

Piece = tuple[int, tuple[BlockKey, ...]]
"""Blocks that are stored and evicted together, and a number for them."""
Path_ = list[Piece]


class Keys:
    """Fresh block keys, and numbers for pieces of prompts."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self._numbers = count()

    def piece(self, n_blocks: int) -> Piece:
        keys = self._rng.integers(0, 2**64, n_blocks, dtype=np.uint64).tolist()
        return next(self._numbers), tuple(keys)

    def below(self, n: int) -> int:
        return int(self._rng.integers(n))


def tools(keys: Keys, n_blocks: int) -> Iterator[Path_]:
    """A system prompt that all share, one of many tools' instructions, and a question of its own."""
    system = keys.piece(64)
    known = [keys.piece(384) for _ in range(max(4, n_blocks // 1000))]
    while True:
        yield [system, known[keys.below(len(known))], keys.piece(PROMPT_BLOCKS - 448)]


def documents(keys: Keys, n_blocks: int) -> Iterator[Path_]:
    """One of many documents, and a question of its own."""
    known = [keys.piece(PROMPT_BLOCKS - 8) for _ in range(max(4, n_blocks // 1000))]
    while True:
        yield [known[keys.below(len(known))], keys.piece(8)]


def conversations(keys: Keys, n_blocks: int) -> Iterator[Path_]:
    """Each has its tenant's instructions and grows by 16 blocks a turn up to 512, then begins anew."""
    instructions = [keys.piece(32) for _ in range(20)]
    live: list[Path_] = []
    n_live = max(4, n_blocks // 400)
    while True:
        here = keys.below(n_live)
        if here >= len(live):
            here = len(live)
            live.append([instructions[keys.below(len(instructions))]])
            live[here] += [keys.piece(16) for _ in range(keys.below(30))]
        elif sum(len(piece[1]) for piece in live[here]) >= PROMPT_BLOCKS:
            live[here] = [instructions[keys.below(len(instructions))]]
        live[here] = [*live[here], keys.piece(16)]
        yield live[here]


WORKLOADS: dict[str, Callable[[Keys, int], Iterator[Path_]]] = {
    "tools": tools,
    "documents": documents,
    "conversations": conversations,
}


class Cache:
    """An engine's prefix cache: evicts what was used least recently, children before parents."""

    def __init__(self, n_blocks: int) -> None:
        self._free = n_blocks
        self._pieces: OrderedDict[int, tuple[BlockKey, ...]] = OrderedDict()

    def take(self, path: Path_) -> tuple[BlocksStored | BlocksRemoved, ...]:
        """Use a whole prompt; what the engine reports of that."""
        changes: list[BlocksStored | BlocksRemoved] = []
        parent = None
        for number, keys in path:
            if number not in self._pieces:
                changes.append(BlocksStored(keys=keys, parent=parent))
                self._pieces[number] = keys
                self._free -= len(keys)
            parent = keys[-1]
        for number, _ in reversed(path):
            self._pieces.move_to_end(number)
        evicted: list[BlockKey] = []
        while self._free < 0:
            _, keys = self._pieces.popitem(last=False)
            self._free += len(keys)
            evicted += reversed(keys)
        if evicted:
            changes.append(BlocksRemoved(keys=tuple(evicted)))
        return tuple(changes)


class Load:
    """A machine at work: arrivals, and engines that do what they are told at once."""

    def __init__(self, workload: str, n_blocks: int, n_gpus: int, *, in_flight: int = 8, seqs: int = 256) -> None:
        self.keys = Keys()
        self.machine = Machine(SchedulerConfig())
        self.now_s = 0.0
        self.in_flight = in_flight * n_gpus
        self.in_window = min(IN_WINDOW, n_blocks // 200)
        self.took_ns: dict[str, list[int]] = {"decision": [], "life": []}
        self._prompts = WORKLOADS[workload](self.keys, n_blocks)
        self._names = count()
        self._running: deque[Dispatch] = deque()
        self._paths: dict[RequestId, Path_] = {}
        per_gpu = max(n_blocks // n_gpus, 2 * PROMPT_BLOCKS)
        limits = EngineLimits(
            block_size=BLOCK_SIZE,
            kv_blocks=per_gpu,
            max_num_seqs=seqs,
            max_num_batched_tokens=8192,
            max_model_len=32768,
        )
        self.caches: dict[GpuId, Cache] = {}
        for number in range(n_gpus):
            gpu = GpuId(f"gpu{number:03}")
            self.caches[gpu] = Cache(per_gpu)
            self.step(EngineUp(gpu=gpu, model=MODEL, epoch=1, limits=limits, time_model=TIMES))

    def step(self, event: Event) -> int:
        """How long it took."""
        started_ns = thread_time_ns()
        effects = self.machine.step(event, self.now_s)
        took_ns = thread_time_ns() - started_ns
        self._running += [effect for effect in effects if isinstance(effect, Dispatch)]
        return took_ns

    def prepare(self) -> Arrived:
        """The next arrival. Those that are in flight already make room for it."""
        while self.machine.live_requests >= self.in_flight:
            self.finish_one()
        path = next(self._prompts)
        block_keys = tuple(key for _, keys in path for key in keys)
        spec = RequestSpec(
            request_id=RequestId(f"r{next(self._names)}"),
            model=MODEL,
            tenant=TenantName("t"),
            prompt=Prompt(n_tokens=len(block_keys) * BLOCK_SIZE + 5, block_keys=block_keys),
            max_output_tokens=256,
        )
        self._paths[spec.request_id] = path
        self.now_s += SchedulerConfig().window_s / self.in_window
        return Arrived(request=spec)

    def finish_one(self) -> None:
        """Let the request that has run longest end."""
        dispatch = self._running.popleft()
        path = self._paths.pop(dispatch.request_id)
        changes = self.caches[dispatch.gpu].take(path)
        took_ns = self.step(KvReported(gpu=dispatch.gpu, epoch=1, changes=changes)) if changes else 0
        took_ns += self.step(FirstToken(attempt_id=dispatch.attempt_id))
        took_ns += self.step(Finished(attempt_id=dispatch.attempt_id, output_tokens=40))
        self.took_ns["life"].append(took_ns)

    def arrive(self, n_requests: int) -> None:
        for _ in range(n_requests):
            event = self.prepare()
            self.took_ns["decision"].append(self.step(event))

    def fill(self, n_blocks: int) -> None:
        """Until so many blocks are indexed, or no more are because caches are full; and the window is full."""
        before = -1
        while (indexed := self.machine.indexed_blocks(MODEL)) < 0.95 * n_blocks and indexed > 1.001 * before:
            before = indexed
            self.arrive(max(500, n_blocks // 1000))
        self.arrive(self.in_window)
        for times in self.took_ns.values():
            times.clear()
        gc.collect()


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
            load.took_ns = {"decision": [], "life": []}
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
    row |= percentiles(turns.took_ns("life"), "life")
    row["gpu_dies_ms"] = round(load.step(EngineDown(gpu=next(iter(load.caches)))) / 1e6, 1)
    return row


# --- what engines send ---

CHAIN_BLOCKS = 68
"""Of a request behind what it shares with others: 64 of its prompt, then its answer's, which come one at a time."""


def chains(n_blocks: int) -> np.ndarray:
    """The engine's names of blocks, a request's in each row."""
    return np.random.default_rng(2).integers(0, 2**64, (n_blocks // CHAIN_BLOCKS, CHAIN_BLOCKS), dtype=np.uint64)


def stored(chains: np.ndarray, per_message: int = 8) -> Iterator[bytes]:
    """What vLLM sends as it stores them all, the requests of one message at a time."""
    rng = np.random.default_rng(3)
    shared = list(range(64))
    yield _message([_stored(rng, shared, None)])
    for start in range(0, len(chains), per_message):
        events = []
        for names in chains[start : start + per_message].tolist():
            events.append(_stored(rng, names[:64], shared[-1]))
            events += [_stored(rng, [names[number]], names[number - 1]) for number in range(64, len(names))]
        yield _message(events)


def removed(chains: np.ndarray, per_message: int = 8) -> Iterator[bytes]:
    """What it sends as it evicts them, oldest first, each from its end."""
    for start in range(0, len(chains), per_message):
        rows = chains[start : start + per_message].tolist()
        names = [name for row in rows for name in reversed(row)]
        yield _message([{"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU"} for name in names])


def _stored(rng: np.random.Generator, names: list[int], parent: int | None) -> dict[str, object]:
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": parent,
        "token_ids": rng.integers(0, 150_000, len(names) * BLOCK_SIZE).tolist(),
        "block_size": BLOCK_SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(names),
    }


def _message(events: list[dict[str, object]]) -> bytes:
    return msgspec.msgpack.encode([0.0, events, 0])


class Reporter:
    """One engine that reports, and a machine that hears it."""

    def __init__(self, n_blocks: int) -> None:
        self.gpu = GpuId("gpu0")
        self.machine = Machine(SchedulerConfig())
        self.names = BlockNames(MODEL, BLOCK_SIZE)
        limits = EngineLimits(
            block_size=BLOCK_SIZE,
            kv_blocks=n_blocks,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            max_model_len=32768,
        )
        self.machine.step(EngineUp(gpu=self.gpu, model=MODEL, epoch=1, limits=limits, time_model=TIMES), 0.0)

    def report(self, payload: bytes) -> None:
        changes = tuple(self.names.ours(decode(payload)))
        self.machine.step(KvReported(gpu=self.gpu, epoch=1, changes=changes), 0.0)

    def report_all(self, payloads: Iterator[bytes]) -> int:
        """How long it took."""
        took_ns = 0
        for payload in payloads:
            started_ns = thread_time_ns()
            self.report(payload)
            took_ns += thread_time_ns() - started_ns
        return took_ns


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
