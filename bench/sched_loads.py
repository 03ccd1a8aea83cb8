"""Loads for a machine: prompts of three workloads, engines that do what they are told at once, and what these report.

`bench/sched.py` and the benchmarks beside it time how a machine takes them.
"""

import gc
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import count
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
    EngineUp,
    Event,
    Finished,
    FirstToken,
    KvReported,
)
from preble.daemon.flow.machine import Machine
from preble.daemon.ids import BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.types import EngineLimits, Prompt, RequestSpec, TimeModel

try:
    from preble.daemon.flow.garbage import collect_early
except ImportError:  # a checkout to compare with, which leaves all that to the arrival
    collect_early = None

MODEL = ModelName("m")
BLOCK_SIZE = 16
PROMPT_BLOCKS = 512
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
        self.took_ns: dict[str, list[int]] = {"upkeep": [], "decision": [], "life": []}
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
        """The next arrival. Those that are in flight already make room for it, and time passes."""
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
        started_ns = thread_time_ns()
        if collect_early is not None:
            self.machine.age(self.now_s)
            collect_early()
        self.took_ns["upkeep"].append(thread_time_ns() - started_ns)
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
