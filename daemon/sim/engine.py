"""A modelled vLLM engine: which step does what, what its KV cache holds, and when each answer's tokens are there.

It follows vLLM's V1 scheduler. A step serves the running sequences first, one token each or the next chunk of a prompt
begun, then starts waiting ones, first come, first served, while tokens, sequences and blocks allow; a sequence starts
only if its whole prompt fits. When blocks run out the last started is preempted, and recomputed later. A prompt's
blocks can be hit from the step on that computes them.

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
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import isqrt

from preble.daemon.flow.events import KvChange
from preble.daemon.ids import AttemptId, BlockKey
from preble.daemon.sim.fits import Fit
from preble.daemon.sim.kvcache import Chain, KvCache


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request in the engine. Mutable, and owned by its engine once submitted."""

    attempt_id: AttemptId
    keys: Sequence[BlockKey]
    """Of the full blocks of its prompt and its answer."""
    prompt_tokens: int
    output_tokens: int
    produced: int = 0
    """Tokens of its answer, as of `as_of_step` while it decodes."""
    cached_tokens: int = 0
    """Of its prompt, when it was first started."""
    preemptions: int = 0
    computed: int = 0
    """Tokens in the KV cache, as of `as_of_step` while it decodes."""
    as_of_step: int = 0
    end_step: int | None = None
    """The step that produces its last token, while it decodes."""
    chain: Chain | None = None
    n_blocks: int = 0
    """Blocks that it has, in its chain and beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a run has brought."""

    kv_changes: tuple[KvChange, ...]
    first_tokens: tuple[AttemptId, ...]
    ended: tuple[Job, ...]
    """Complete or aborted."""


@dataclass(slots=True)
class _Run:
    """Steps without a notable moment in between: one with prompt chunks, or some that only decode."""

    start_ps: int
    n_steps: int
    first_ps: int
    """Time of the first step."""
    growth_ps: int
    """By so much each step takes longer than the one before, since all contexts grow."""
    prefilled: tuple[Job, ...]
    """Whose chunks the step computes."""

    def ends_ps(self) -> int:
        n = self.n_steps
        return self.start_ps + n * self.first_ps + self.growth_ps * (n * (n - 1) // 2)

    def step_at(self, now_ps: int) -> int:
        """Which of its steps, from 1, is under way or ends."""
        elapsed = 2 * (now_ps - self.start_ps)
        growth, linear = self.growth_ps, 2 * self.first_ps - self.growth_ps
        if growth == 0:
            return min(self.n_steps, max(1, -(-elapsed // linear)))
        n = (isqrt(linear * linear + 4 * growth * elapsed) - linear) // (2 * growth)
        while n * (n * growth + linear) < elapsed:
            n += 1
        return min(self.n_steps, max(1, n))


class ModelledEngine:
    """One engine. At an instant, first `settle` it if `ends_ps` says so, then submit and abort, then `start` it."""

    def __init__(self, fit: Fit, *, one_by_one: bool = False) -> None:
        """`one_by_one` makes a run of every step: slow, the same times; for tests."""
        self.ends_ps: int | None = None
        """When there will be news; None while it has nothing to do, and before `start` at an instant."""
        self._fit = fit
        self._limits = fit.limits
        self._one_by_one = one_by_one
        self._kv = KvCache(fit.limits.kv_blocks)
        self._waiting: deque[Job] = deque()
        self._running: dict[AttemptId, Job] = {}
        """In the order of their start."""
        self._prefilling: Job | None = None
        """The one whose prompt is computed in part; it was started last."""
        self._run: _Run | None = None
        self._aborted: list[AttemptId] = []
        self._n_decoding = 0
        self._context = 0
        """Sum of the computed tokens of all that decode."""
        self._step = 0
        self._n_growing = [0] * fit.limits.block_size
        """Of those that decode, how many need a new block in step s, at s modulo the block size."""
        self._ends: list[tuple[int, int, Job]] = []
        """A heap of (end step, number, job); entries whose job has another end step by now are void."""
        self._n_entries = 0

    @property
    def kv(self) -> KvCache:
        """Its blocks, as of the start of the run."""
        return self._kv

    @property
    def n_waiting(self) -> int:
        """Submitted and not started, or preempted."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Started and not ended."""
        return len(self._running)

    @property
    def jobs(self) -> list[Job]:
        """Everything submitted and not ended."""
        return [*self._running.values(), *self._waiting]

    def held_blocks(self, now_ps: int) -> int:
        """Blocks that requests hold, in the step under way."""
        held = self._limits.kv_blocks - self._kv.n_available
        if self._run is not None and not self._run.prefilled:
            held += self._blocks_to_decode(self._run.step_at(now_ps)) - self._blocks_to_decode(1)
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
        """End a request after the step under way. It is in that `News`, unless it ends by itself before."""
        self._aborted.append(attempt_id)
        if self._run is None:
            self.ends_ps = now_ps
        else:
            self._cut(now_ps)

    def _cut(self, now_ps: int) -> None:
        """Let the run end with the step that is under way, or that ends now."""
        if self._run is not None and self._run.n_steps > 1:
            self._run.n_steps = self._run.step_at(now_ps)
            self.ends_ps = self._run.ends_ps()

    # --- what comes out ---

    def settle(self, now_ps: int) -> News:
        """End the run that ends now, and take its news."""
        assert now_ps == self.ends_ps, f"the run ends at {self.ends_ps}, not at {now_ps}"
        self.ends_ps = None
        run, self._run = self._run, None
        first_tokens: list[AttemptId] = []
        ended: list[Job] = []
        if run is not None:
            self._pass(run)
            while (job := self._next_to_end()) is not None and job.end_step == self._step:
                self._leave(job)
                ended.append(job)
            for job in run.prefilled:
                if job is self._prefilling:
                    continue
                if not job.produced:
                    first_tokens.append(job.attempt_id)
                job.produced += 1
                if job.produced < job.output_tokens:
                    self._decode(job)
                else:
                    self._leave(job)
                    ended.append(job)
        if self._aborted:
            ended += self._take_aborted()
        kv_changes, self._kv.changes = tuple(self._kv.changes), []
        return News(kv_changes=kv_changes, first_tokens=tuple(first_tokens), ended=tuple(ended))

    def _pass(self, run: _Run) -> None:
        if run.n_steps > 1:
            self._kv.take(self._blocks_to_decode(run.n_steps) - self._blocks_to_decode(1))
        self._step += run.n_steps
        self._context += run.n_steps * self._n_decoding

    def _take_aborted(self) -> list[Job]:
        gone: list[Job] = []
        for attempt_id in self._aborted:
            job = self._running.get(attempt_id)
            if job is not None:
                self._leave(job)
                gone.append(job)
                continue
            waiting = [job for job in self._waiting if job.attempt_id == attempt_id]
            for job in waiting:
                self._waiting.remove(job)
            gone += waiting
        self._aborted.clear()
        return gone

    # --- decoding ---

    def _decode(self, job: Job) -> None:
        job.as_of_step = self._step
        job.end_step = self._step + job.output_tokens - job.produced
        self._n_entries += 1
        heappush(self._ends, (job.end_step, self._n_entries, job))
        self._n_decoding += 1
        self._context += job.computed
        self._n_growing[(job.as_of_step + 1 - job.computed) % self._limits.block_size] += 1

    def _decode_no_more(self, job: Job) -> None:
        n_steps = self._step - job.as_of_step
        self._n_growing[(job.as_of_step + 1 - job.computed) % self._limits.block_size] -= 1
        job.produced += n_steps
        job.computed += n_steps
        job.n_blocks = self._blocks(job.computed)
        job.end_step = None
        self._n_decoding -= 1
        self._context -= job.computed

    def _next_to_end(self) -> Job | None:
        while self._ends and self._ends[0][2].end_step != self._ends[0][0]:
            heappop(self._ends)
        return self._ends[0][2] if self._ends else None

    def _blocks_to_decode(self, n_steps: int) -> int:
        """Blocks that decoding takes in the next steps."""
        block_size = self._limits.block_size
        cycles, rest = divmod(n_steps, block_size)
        first = (self._step + 1) % block_size
        growing = self._n_growing[first : first + rest] + self._n_growing[: max(0, first + rest - block_size)]
        return cycles * self._n_decoding + sum(growing)

    def _steps_within(self, n_blocks: int) -> int:
        """How many decoding steps so many blocks last."""
        cycles, left = divmod(n_blocks, self._n_decoding)
        block_size, n_steps = self._limits.block_size, 0
        while left >= (growing := self._n_growing[(self._step + 1 + n_steps) % block_size]):
            left -= growing
            n_steps += 1
        return cycles * block_size + n_steps

    # --- beginning a step ---

    def start(self, now_ps: int) -> None:
        """Plan the next run, if none is under way and there is something to do."""
        if self.ends_ps is not None or not (self._running or self._waiting):
            return
        preempted = self._make_room()
        growing = self._blocks_to_decode(1)
        self._kv.take(growing)
        chunks = self._chunks(may_start=not preempted)
        n_decoding = self._n_decoding
        assert n_decoding or chunks, "work waits that never fits"
        n_tokens = n_decoding + sum(n for _, n in chunks)
        first_ps = self._fit.batch_ps(n_tokens) + self._fit.context_ps * (self._context + n_decoding)
        first_ps += sum(self._fit.chunk_ps(n, job.computed) for job, n in chunks)
        n_steps = 1 if chunks or self._one_by_one else self._steps_of_run(growing)
        growth_ps = self._fit.context_ps * n_decoding
        self._run = _Run(now_ps, n_steps, first_ps, growth_ps, tuple(job for job, _ in chunks))
        self.ends_ps = self._run.ends_ps()

    def _steps_of_run(self, taken: int) -> int:
        """Until an answer ends or blocks run out; those that the first step needs are `taken` already."""
        first = self._next_to_end()
        assert first is not None
        assert first.end_step is not None
        n_steps = first.end_step - self._step
        available = self._kv.n_available + taken
        if (n_steps // self._limits.block_size + 1) * self._n_decoding > available:
            n_steps = min(n_steps, self._steps_within(available))
        return n_steps

    def _make_room(self) -> bool:
        """Preempt, latest started first, until what runs can go on; whether that was needed."""
        preempted = False
        while self._blocks_to_decode(1) > self._kv.n_available:
            self._preempt()
            preempted = True
        job = self._prefilling
        if job is not None:
            chunk = min(job.prompt_tokens + job.produced - job.computed, self._budget())
            needed = self._blocks(job.computed + chunk) - job.n_blocks
            if self._blocks_to_decode(1) + needed > self._kv.n_available:
                self._preempt()
                preempted = True
        return preempted

    def _budget(self) -> int:
        return self._limits.max_num_batched_tokens - self._n_decoding

    def _preempt(self) -> None:
        job = next(reversed(self._running.values()))
        self._leave(job)
        job.preemptions += 1
        job.computed = 0
        self._waiting.appendleft(job)

    def _chunks(self, *, may_start: bool) -> list[tuple[Job, int]]:
        """What of which prompts the next step computes."""
        chunks: list[tuple[Job, int]] = []
        budget = self._budget()
        job = self._prefilling
        if job is not None:
            chunks.append((job, self._compute(job, budget)))
            budget -= chunks[-1][1]
        while may_start and budget > 0 and self._waiting and len(self._running) < self._limits.max_num_seqs:
            job = self._waiting[0]
            if not self._begin(job):
                break
            self._waiting.popleft()
            chunks.append((job, self._compute(job, budget)))
            budget -= chunks[-1][1]
        return chunks

    def _begin(self, job: Job) -> bool:
        """Start a request with what is cached of it; False if the whole of it would not fit."""
        n_tokens = job.prompt_tokens + job.produced
        n_hit = self._kv.n_hit(job.keys, (n_tokens - 1) // self._limits.block_size)  # the last is always computed
        needed = self._blocks(n_tokens) - n_hit + self._kv.n_unheld_of(job.keys, n_hit)
        if needed > self._kv.n_available:
            return False
        job.chain = self._kv.hold(job.keys, n_hit)
        job.n_blocks = n_hit
        job.computed = n_hit * self._limits.block_size
        if not job.preemptions:
            job.cached_tokens = job.computed
        self._running[job.attempt_id] = job
        return True

    def _compute(self, job: Job, budget: int) -> int:
        """Compute as much of a prompt as the budget allows, and say how much."""
        n_tokens = min(job.prompt_tokens + job.produced - job.computed, budget)
        job.computed += n_tokens
        n_blocks = self._blocks(job.computed)
        self._kv.take(n_blocks - job.n_blocks)
        job.n_blocks = n_blocks
        self._cache(job)
        self._prefilling = job if job.computed < job.prompt_tokens + job.produced else None
        return n_tokens

    def _cache(self, job: Job) -> None:
        """Let others hit its full blocks."""
        n_cached = job.chain.end if job.chain else 0
        n_full = job.computed // self._limits.block_size
        if n_full > n_cached:
            job.chain = self._kv.store(job.chain, job.keys[n_cached:n_full])

    def _leave(self, job: Job) -> None:
        """Take it out of what runs, and its blocks from it."""
        if job.end_step is not None:
            self._decode_no_more(job)
        if job is self._prefilling:
            self._prefilling = None
        del self._running[job.attempt_id]
        self._cache(job)
        self._kv.let_go(job.chain, job.n_blocks - (job.chain.end if job.chain else 0))
        job.chain, job.n_blocks = None, 0

    def _blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._limits.block_size)
