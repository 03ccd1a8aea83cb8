"""A modelled vLLM engine: which step does what, what its KV cache holds, and when each answer's tokens are there.

It follows vLLM's V1 scheduler. A step serves the running sequences first, one token each or the next chunk of a prompt
begun, then starts waiting ones, first come, first served, while tokens, sequences and blocks allow; a sequence starts
only if its whole prompt fits. When blocks run out the last started is preempted, and recomputed later. A prompt's
blocks can be hit from the step on that computes them. A test holds it to vLLM's own scheduler.

Steps that only decode are not gone through one by one: from one notable moment to the next they are a *run*, whose
length is a closed formula. Times are whole picoseconds, so that a run ends to the last unit where its steps would.

What is not as in vLLM:
* the blocks of an answer are cached, and reported, when it ends or is preempted, rather than one by one;
* blocks evicted by decoding are reported at the end of the run, which any arrival at this engine, first token or end
  of an answer makes, rather than after the step;
* a block computed twice is kept once;
* nothing overlaps: a step's tokens are known when it ends, and what the CPU does between steps is part of the fit.
"""

from collections import deque
from dataclasses import dataclass

from preble.daemon.flow.events import KvChange
from preble.daemon.ids import AttemptId
from preble.daemon.sim.fits import Fit
from preble.daemon.sim.kvcache import KvCache
from preble.daemon.sim.steps import Decoding, Job, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a run has brought."""

    kv_changes: tuple[KvChange, ...]
    first_tokens: tuple[AttemptId, ...]
    ended: tuple[Job, ...]
    """Complete or aborted."""


class ModelledEngine:
    """One engine. At an instant, first `settle` it if `ends_ps` says so, then submit and abort, then `start` it."""

    def __init__(self, fit: Fit, *, one_by_one: bool = False) -> None:
        """`one_by_one` makes a run of every step: slow, and to the same effect; for tests."""
        self.ends_ps: int | None = None
        """When there will be news; None while it has nothing to do, and before `start` at an instant."""
        self.kv = KvCache(fit.limits.kv_blocks)
        self._fit = fit
        self._limits = fit.limits
        self._one_by_one = one_by_one
        self._waiting: deque[Job] = deque()
        self._running: dict[AttemptId, Job] = {}
        """In the order of their start."""
        self._prefilling: Job | None = None
        """The one whose prompt is computed in part; it was started last."""
        self._decoding = Decoding(fit.limits.block_size)
        """The other running ones, except for those whose prompt's last chunk is in the run."""
        self._run: Run | None = None
        self._aborted: list[AttemptId] = []

    @property
    def n_waiting(self) -> int:
        """Submitted and not started, or preempted."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Started and not ended."""
        return len(self._running)

    def stop(self, now_ps: int) -> list[Job]:
        """It dies; returns everything submitted and not ended."""
        if self._run is not None:
            self._decoding.pass_steps(self._run.step_at(now_ps) - 1)
        for job in self._running.values():
            if job.end_step is not None:
                self._decoding.remove(job)
        return [*self._running.values(), *self._waiting]

    def held_blocks(self, now_ps: int) -> int:
        """Blocks that requests hold in the step under way."""
        held = self._limits.kv_blocks - self.kv.n_available
        if self._run is not None and not self._run.prefilled:
            held += self._decoding.blocks_for(self._run.step_at(now_ps)) - self._decoding.blocks_for(1)
        return held

    # --- what comes in ---

    def submit(self, job: Job, now_ps: int) -> None:
        """Let a request wait for the next step."""
        assert job.output_tokens > 0, job
        assert job.prompt_tokens + job.output_tokens <= self._limits.max_model_len, job
        self._waiting.append(job)
        if len(self._running) < self._limits.max_num_seqs:
            self._cut(now_ps)

    def abort(self, attempt_id: AttemptId, now_ps: int) -> None:
        """End a request after the step under way. It is in that `News`, unless it ended by itself before."""
        self._aborted.append(attempt_id)
        if self._run is None:
            self.ends_ps = now_ps
        else:
            self._cut(now_ps)

    def _cut(self, now_ps: int) -> None:
        """Let the run end with the step that is under way, or that ends now."""
        if self._run is not None and self._run.n_steps > 1:
            self._run.n_steps = self._run.step_at(now_ps)
            self.ends_ps = self._run.ends_ps

    # --- what comes out ---

    def settle(self, now_ps: int) -> News:
        """End the run that ends now, and take its news."""
        assert now_ps == self.ends_ps, f"the run ends at {self.ends_ps}, not at {now_ps}"
        self.ends_ps = None
        first_tokens: list[AttemptId] = []
        ended: list[Job] = []
        if self._run is not None:
            run, self._run = self._run, None
            self._pass(run)
            ended += self._end_decoding()
            for job in run.prefilled:
                if job is self._prefilling:
                    continue
                if not job.produced:
                    first_tokens.append(job.attempt_id)
                job.produced += 1
                if job.produced < job.output_tokens:
                    self._decoding.add(job)
                else:
                    self._leave(job)
                    ended.append(job)
        if self._aborted:
            ended += self._end_aborted()
        kv_changes, self.kv.changes = tuple(self.kv.changes), []
        return News(kv_changes=kv_changes, first_tokens=tuple(first_tokens), ended=tuple(ended))

    def _pass(self, run: Run) -> None:
        if run.n_steps > 1:
            self.kv.take(self._decoding.blocks_for(run.n_steps) - self._decoding.blocks_for(1))
        self._decoding.pass_steps(run.n_steps)

    def _end_decoding(self) -> list[Job]:
        ended: list[Job] = []
        while (job := self._decoding.first_to_end()) is not None and job.end_step == self._decoding.step:
            self._leave(job)
            ended.append(job)
        return ended

    def _end_aborted(self) -> list[Job]:
        ended: list[Job] = []
        for attempt_id in self._aborted:
            job = self._running.get(attempt_id)
            if job is not None:
                self._leave(job)
            else:
                job = next((each for each in self._waiting if each.attempt_id == attempt_id), None)
                if job is None:
                    continue
                self._waiting.remove(job)
            ended.append(job)
        self._aborted.clear()
        return ended

    # --- beginning a run ---

    def start(self, now_ps: int) -> None:
        """Plan the next run, if none is under way and there is something to do."""
        if self.ends_ps is not None or not (self._running or self._waiting):
            return
        self._make_room()
        growing = self._decoding.blocks_for(1)
        self.kv.take(growing)
        chunks = self._chunks()
        n_decoding = self._decoding.n
        assert n_decoding or chunks, "work waits that never fits"
        first_ps = self._fit.batch_ps(n_decoding + sum(n for _, n in chunks))
        first_ps += self._fit.context_ps * (self._decoding.context + n_decoding)
        first_ps -= (self._fit.context_ps - self._fit.shared_context_ps) * self._shared_context()
        first_ps += sum(self._fit.chunk_ps(n, job.computed) for job, n in chunks)
        self._run = Run(
            start_ps=now_ps,
            n_steps=1 if chunks or self._one_by_one else self._steps_of_run(growing),
            first_ps=first_ps,
            growth_ps=self._fit.context_ps * n_decoding,
            prefilled=tuple(job for job, _ in chunks),
        )
        self.ends_ps = self._run.ends_ps

    def _shared_context(self) -> int:
        """Tokens in blocks that more than one decoding sequence has, but for the first; a prompt's own blocks hide some."""
        return self._limits.block_size * max(0, self._decoding.cached_blocks - self.kv.n_held)

    def _steps_of_run(self, taken: int) -> int:
        """Until an answer ends or blocks run out; those that the first step needs are `taken` already."""
        n_steps = self._decoding.first_end_step - self._decoding.step
        n_blocks = self.kv.n_available + taken
        at_most = (n_steps // self._limits.block_size + 1) * self._decoding.n
        return n_steps if at_most <= n_blocks else min(n_steps, self._decoding.steps_within(n_blocks))

    def _make_room(self) -> None:
        """Preempt, latest started first, until what runs can go on.

        What was preempted waits first in line and does not fit, so nothing starts in the same step.
        """
        while self._decoding.blocks_for(1) > self.kv.n_available:
            self._preempt()
        job = self._prefilling
        if job is not None:
            n_computed = min(job.n_known, job.computed + self._budget())
            needed = self._blocks(n_computed) - job.n_blocks
            if self._decoding.blocks_for(1) + needed > self.kv.n_available:
                self._preempt()

    def _budget(self) -> int:
        return self._limits.max_num_batched_tokens - self._decoding.n

    def _preempt(self) -> None:
        job = next(reversed(self._running.values()))
        self._leave(job)
        job.preemptions += 1
        self._waiting.appendleft(job)

    def _chunks(self) -> list[tuple[Job, int]]:
        """Compute of prompts what the next step can."""
        chunks: list[tuple[Job, int]] = []
        budget = self._budget()
        if self._prefilling is not None:
            job = self._prefilling
            chunks.append((job, self._compute(job, budget)))
            budget -= chunks[-1][1]
        while budget > 0 and self._waiting and len(self._running) < self._limits.max_num_seqs:
            job = self._waiting[0]
            if not self._begin(job):
                break
            self._waiting.popleft()
            chunks.append((job, self._compute(job, budget)))
            budget -= chunks[-1][1]
        return chunks

    def _begin(self, job: Job) -> bool:
        """Start a request with what is cached of it; False if the whole of it would not fit."""
        n_hit = self.kv.n_hit(job.keys, (job.n_known - 1) // self._limits.block_size)  # the last token is computed
        needed = self._blocks(job.n_known) - n_hit + self.kv.n_unheld_of(job.keys, n_hit)
        if needed > self.kv.n_available:
            return False
        job.chain = self.kv.hold(job.keys, n_hit)
        job.n_blocks = n_hit
        job.computed = n_hit * self._limits.block_size
        if not job.preemptions:
            job.cached_tokens = job.computed
        self._running[job.attempt_id] = job
        return True

    def _compute(self, job: Job, budget: int) -> int:
        """Compute as much of a prompt as the budget allows, and say how much."""
        n_tokens = min(job.n_known - job.computed, budget)
        job.computed += n_tokens
        n_blocks = self._blocks(job.computed)
        self.kv.take(n_blocks - job.n_blocks)
        job.n_blocks = n_blocks
        self._cache(job)
        self._prefilling = job if job.computed < job.n_known else None
        return n_tokens

    def _cache(self, job: Job) -> None:
        """Let others hit its full blocks."""
        n_full = job.computed // self._limits.block_size
        if n_full > job.n_cached:
            job.chain = self.kv.store(job.chain, job.keys[job.n_cached : n_full])

    def _leave(self, job: Job) -> None:
        """Take it out of what runs, and its blocks from it."""
        if job.end_step is not None:
            self._decoding.remove(job)
        if job is self._prefilling:
            self._prefilling = None
        del self._running[job.attempt_id]
        self._cache(job)
        self.kv.let_go(job.chain, job.n_blocks - job.n_cached)
        job.chain, job.n_blocks = None, 0

    def _blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._limits.block_size)
