"""Small modelled engines for tests, and a hand to drive one."""

from dataclasses import dataclass, field

from preble.daemon.ids import AttemptId, ModelName, RequestId, TenantName
from preble.daemon.priority import Priority
from preble.daemon.sim.engine import ModelledEngine
from preble.daemon.sim.fits import Engine, Fit, Step
from preble.daemon.sim.prompts import BlockKeys
from preble.daemon.sim.steps import Job
from preble.daemon.sim.types import Piece, SimRequest

MS = 10**9
"""Picoseconds."""
BLOCK = 4
KEYS = BlockKeys(BLOCK, ModelName("m"))


def fit(
    *,
    kv_blocks=100,
    max_num_seqs=4,
    budget=16,
    max_model_len=100,
    threshold=0,
    ms_per_context_token=0.0,
    shared=None,
    ms_per_request=0.0,
) -> Fit:
    """10 ms a step and 1 ms a token, unless contexts or requests count too."""
    engine = Engine(
        block_size=BLOCK,
        kv_blocks=kv_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        long_prefill_token_threshold=threshold,
    )
    step = Step(
        base_ms=10.0,
        ms_per_token=1.0,
        ms_per_context_token=ms_per_context_token,
        ms_per_shared_context_token=shared,
        ms_per_request=ms_per_request,
    )
    return Fit(source="test", date="2026", engine=engine, step=step)


def keys(*pieces: tuple[int, int]):
    return KEYS.keys([Piece(content, n_tokens) for content, n_tokens in pieces])


def job(number: int, *pieces: tuple[int, int], output: int = 1, priority: int = Priority.USUAL) -> Job:
    """A request whose prompt has these (content, tokens); its answer is content 1000 and its number."""
    return Job(
        attempt_id=AttemptId(number),
        keys=keys(*pieces, (1000 + number, output)),
        prompt_tokens=sum(n for _, n in pieces),
        output_tokens=output,
        priority=Priority(priority),
    )


def request(name: str, at_ms: float, *pieces: tuple[int, int], output: int = 1, answer: int = 0, **more) -> SimRequest:
    return SimRequest(
        request_id=RequestId(name),
        tenant=TenantName("t"),
        at_s=at_ms / 1000,
        prompt=tuple(Piece(*piece) for piece in pieces),
        output_tokens=output,
        output_content=answer or 10**6 + sum(map(ord, name)),
        max_output_tokens=more.pop("max_output_tokens", 1000),
        **more,
    )


@dataclass
class Bench:
    """Drives one engine: requests and aborts at given milliseconds, and notes all its news."""

    engine: ModelledEngine
    first_ms: dict[int, float] = field(default_factory=dict)
    end_ms: dict[int, float] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    changes: list[tuple[float, object]] = field(default_factory=list)
    cached: set[int] = field(default_factory=set)
    n_settled: int = 0

    def play(self, *plan: tuple[float, Job | int], watch=lambda bench: None) -> "Bench":
        """`plan` has (ms, request) and (ms, number of the one to abort), in order. `watch` looks on between runs."""
        todo = [(round(ms * MS), what) for ms, what in plan]
        while todo or self.engine.ends_ps is not None:
            times = [todo[0][0]] if todo else []
            now_ps = min(times if self.engine.ends_ps is None else [*times, self.engine.ends_ps])
            while todo and todo[0][0] == now_ps:
                what = todo.pop(0)[1]
                if isinstance(what, int):
                    self.engine.abort(AttemptId(what), now_ps)
                else:
                    self.jobs[what.attempt_id] = what
                    self.engine.submit(what, now_ps)
            while self.engine.ends_ps == now_ps:
                self._note(self.engine.settle(now_ps), now_ps / MS)
                watch(self)
            self.engine.start(now_ps)
        return self

    def _note(self, news, now_ms: float) -> None:
        self.n_settled += 1
        for number in news.first_tokens:
            assert number not in self.first_ms
            self.first_ms[number] = now_ms
        for ended in news.ended:
            assert ended.attempt_id not in self.end_ms
            self.end_ms[ended.attempt_id] = now_ms
        for change in news.kv_changes:
            self.changes.append((now_ms, change))
            if hasattr(change, "parent"):
                assert not self.cached & set(change.keys), "stored twice"
                assert change.parent is None or change.parent in self.cached
                self.cached |= set(change.keys)
            else:
                assert set(change.keys) <= self.cached, "removed and not there"
                self.cached -= set(change.keys)


def bench(*, one_by_one: bool = False, **limits) -> Bench:
    return Bench(ModelledEngine(fit(**limits), one_by_one=one_by_one))
