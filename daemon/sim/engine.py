"""A modelled vLLM engine: which step does what, what its KV cache holds, and when each answer's tokens are there.

It follows vLLM's V1 scheduler with priorities. A step serves the running sequences first, in the order of their start,
one token each or the next chunk of a prompt begun, then starts waiting ones, by priority and arrival, while tokens,
sequences and blocks allow; a sequence starts only if its whole prompt fits. When blocks run out the last in line is
preempted, and recomputed later. A prompt's blocks can be hit from the step on that computes them. Light prompts are
computed alone, and steps are short where all prompts yield (`daemon/engine/vllm_scheduler.py`). A test holds it to
vLLM's own scheduler with that.

Steps that only decode are not gone through one by one: from one notable moment to the next they are a *run*, whose
length is a closed formula. Times are whole picoseconds, so that a run ends to the last unit where its steps would.

What is not as in vLLM:
* the blocks of an answer are cached, and reported, when it ends or is preempted, rather than one by one;
* blocks evicted by decoding are reported at the end of the run, which any arrival at this engine, first token or end
  of an answer makes, rather than after the step;
* a block computed twice is kept once;
* nothing overlaps: a step's tokens are known when it ends, and what the CPU does between steps is part of the fit.
"""

from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager

from preble.daemon.ids import AttemptId
from preble.daemon.priority import Priority, most_yielding_tokens
from preble.daemon.sim.fits import Fit
from preble.daemon.sim.kvcache import KvCache
from preble.daemon.sim.steps import Decoding, Job, News, Run


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
        self._waiting: list[Job] = []
        """In line."""
        self._n_submitted = 0
        self._running: dict[AttemptId, Job] = {}
        """In the order of their start."""
        self._prefilling: dict[AttemptId, Job] = {}
        """Those whose prompts are computed in part, in the order of their start."""
        self._decoding = Decoding(fit.limits.block_size)
        """The other running ones, except for those whose prompt's last chunk is in the run, or that it passes over."""
        self._passed_over: list[Job] = []
        """They decode, but not in the run: for prompts begun before them, a lack of blocks, or a light prompt."""
        self._n_aside = 0
        """Of those that run, how many stand back while a step is planned."""
        self._steps_alone = 0
        """In a row, in which nothing that yields decoded."""
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
        self._n_submitted += 1
        job.number = self._n_submitted
        self._wait(job)
        if len(self._running) < self._limits.max_num_seqs:
            self._cut(now_ps)

    def _wait(self, job: Job) -> None:
        insort(self._waiting, job, key=lambda waiting: waiting.place)

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
            self._resume()
            ended += self._end_decoding()
            for job in run.prefilled:
                if job.attempt_id in self._prefilling:
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

    def _resume(self) -> None:
        for job in self._passed_over:
            self._decoding.add(job)
        self._passed_over.clear()

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
        with self._others_aside():
            is_of_nothing = not self._plan(now_ps)
        if is_of_nothing:
            self._resume()
            self.start(now_ps)

    @contextmanager
    def _others_aside(self) -> Iterator[None]:
        """While a light prompt is computed, or can be begun, others are not, and what yields decodes in between."""
        if not self._has_light_prompt():
            self._steps_alone = 0
            yield
            return
        before, after = self._running, self._steps_alone
        running = {
            name: job
            for name, job in before.items()
            if job.priority.stands_back(prefills=job.end_step is None, after=after)
        }
        prefilling = {name: job for name, job in self._prefilling.items() if name in running}
        waiting = [job for job in self._waiting if job.priority != Priority.LIGHT]
        decoding = [job for job in running.values() if job.end_step is not None]
        self._steps_alone = self._steps_alone + 1 if decoding else 0
        for job in decoding:
            self._decoding.remove(job)
        self._passed_over += decoding
        self._running = {name: job for name, job in before.items() if name not in running}
        self._prefilling = {name: job for name, job in self._prefilling.items() if name not in running}
        self._waiting = self._waiting[: len(self._waiting) - len(waiting)]
        self._n_aside = len(running)
        yield
        kept = {name: job for name, job in before.items() if name in running or name in self._running}
        self._running = kept | self._running
        prefilling |= self._prefilling
        self._prefilling = {name: job for name, job in self._running.items() if name in prefilling}
        for job in waiting:
            self._wait(job)
        self._n_aside = 0

    def _has_light_prompt(self) -> bool:
        """Whether one has been begun, or the first in line is one and there is room for it."""
        if any(job.priority == Priority.LIGHT for job in self._prefilling.values()):
            return True
        if not self._waiting or self._waiting[0].priority != Priority.LIGHT:
            return False
        has_room = self._blocks(self._waiting[0].n_known) <= self.kv.n_available
        return has_room and len(self._running) < self._limits.max_num_seqs

    def _plan(self, now_ps: int) -> bool:
        """Begin a run; False if whoever was first to be served was preempted, and nobody else can be."""
        most, budget = self._bounds()
        n_preempted, growing = 0, self._decoding.blocks_for(1)
        chunks = self._next_chunks(most, budget)
        n_tokens = self._decoding.n + sum(n for _, n in chunks)
        if n_tokens <= budget and self._fits(chunks, growing):
            self.kv.take(growing)
            for job, n in chunks:
                self._compute(job, n)
        else:
            chunks, n_preempted = self._serve_one_by_one(most, budget)
        if not n_preempted:
            self._begin_waiting(chunks, most, budget - self._decoding.n - sum(n for _, n in chunks))
        elif not chunks and not self._decoding.n:
            return False
        is_one_step = bool(chunks or n_preempted or self._n_aside or self._one_by_one)
        self._begin_run(now_ps, chunks, growing, is_one_step=is_one_step)
        return True

    def _begin_run(self, now_ps: int, chunks: list[tuple[Job, int]], growing: int, *, is_one_step: bool) -> None:
        n_decoding = self._decoding.n
        assert n_decoding or chunks, "work waits that never fits"
        first_ps = self._fit.batch_ps(n_decoding + sum(n for _, n in chunks))
        first_ps += self._fit.context_ps * (self._decoding.context + n_decoding)
        first_ps -= (self._fit.context_ps - self._fit.shared_context_ps) * self._shared_context()
        first_ps += sum(self._fit.chunk_ps(n, job.computed) for job, n in chunks)
        first_ps += self._fit.request_ps * sum(job.has_begun_with(n) for job, n in chunks)
        self._run = Run(
            start_ps=now_ps,
            n_steps=1 if is_one_step else self._steps_of_run(growing),
            first_ps=first_ps,
            growth_ps=self._fit.context_ps * n_decoding,
            prefilled=tuple(job for job, _ in chunks),
        )
        self.ends_ps = self._run.ends_ps

    def _shared_context(self) -> int:
        """Tokens in blocks that decoding sequences have, and another of them too. Blocks of prompts hide some."""
        return self._limits.block_size * max(0, self._decoding.cached_blocks - self.kv.n_held)

    def _steps_of_run(self, taken: int) -> int:
        """Until an answer ends or blocks run out; those that the first step needs are `taken` already."""
        n_steps = self._decoding.first_end_step - self._decoding.step
        n_blocks = self.kv.n_available + taken
        at_most = (n_steps // self._limits.block_size + 1) * self._decoding.n
        return n_steps if at_most <= n_blocks else min(n_steps, self._decoding.steps_within(n_blocks))

    def _bounds(self) -> tuple[int, int]:
        """Tokens of one prompt that a step may compute, and of all that it does: fewer where all prompts yield."""
        budget = self._limits.max_num_batched_tokens
        is_alone = len(self._running) + len(self._waiting) == 1
        most = budget if is_alone else self._fit.engine.long_prefill_token_threshold or budget
        prompts = [*self._prefilling.values(), *self._waiting]
        if not prompts or not all(job.priority.yields for job in prompts):
            return most, budget
        of_prompts = most_yielding_tokens(budget)
        return min(most, of_prompts), min(budget, self._decoding.n + of_prompts)

    def _next_chunks(self, most: int, budget: int) -> list[tuple[Job, int]]:
        """Of the prompts begun, what the next step computes after what decodes, if that leaves enough for all."""
        if len(self._prefilling) == 1 and next(reversed(self._running)) in self._prefilling:
            most = min(most, budget - self._decoding.n)
        return [(job, min(job.n_known - job.computed, most)) for job in self._prefilling.values()]

    def _fits(self, chunks: list[tuple[Job, int]], growing: int) -> bool:
        """Whether there are blocks for these, and for those that decode."""
        needed = sum(self._blocks(job.computed + n) - job.n_blocks for job, n in chunks)
        return growing + needed <= self.kv.n_available

    def _serve_one_by_one(self, most: int, budget: int) -> tuple[list[tuple[Job, int]], int]:
        """Serve what runs in the order of its start, and preempt the last in line as long as one lacks blocks.

        Returns the chunks of prompts, and how many were preempted. Whoever is preempted for its own lack ends the step
        for those behind it.
        """
        n_preempted = 0
        served: dict[AttemptId, tuple[Job, int, int]] = {}
        """Jobs with their tokens, and blocks taken beyond those they know of."""
        for job in list(self._running.values()):
            if job.attempt_id not in self._running:
                continue
            if budget == 0:
                break
            is_decoding = job.end_step is not None
            n_tokens = 1 if is_decoding else min(job.n_known - job.computed, most, budget)
            needed = self._decoding.growth(job) if is_decoding else self._blocks(job.computed + n_tokens) - job.n_blocks
            while needed > self.kv.n_available and job.attempt_id in self._running:
                victim = max(self._running.values(), key=lambda running: running.place)
                _, regained, blocks = served.pop(victim.attempt_id, (victim, 0, 0))
                budget += regained
                self.kv.let_go(None, blocks)
                self._preempt(victim)
                n_preempted += 1
            if job.attempt_id not in self._running:
                break
            self.kv.take(needed)
            served[job.attempt_id] = job, n_tokens, needed
            budget -= n_tokens
        for job in self._running.values():
            if job.end_step is not None and job.attempt_id not in served:
                self._decoding.remove(job)
                self._passed_over.append(job)
        chunks = [(job, n) for job, n, _ in served.values() if job.end_step is None]
        for job, n in chunks:
            self.kv.let_go(None, self._blocks(job.computed + n) - job.n_blocks)
            self._compute(job, n)
        return chunks, n_preempted

    def _preempt(self, job: Job) -> None:
        self._leave(job)
        job.preemptions += 1
        self._wait(job)

    def _begin_waiting(self, chunks: list[tuple[Job, int]], most: int, budget: int) -> None:
        """Start what the step has room for, and add its chunks."""
        while budget > 0 and self._waiting and len(self._running) + self._n_aside < self._limits.max_num_seqs:
            job = self._waiting[0]
            if not self._begin(job):
                break
            del self._waiting[0]
            chunks.append((job, min(job.n_known - job.computed, most, budget)))
            self._compute(*chunks[-1])
            budget -= chunks[-1][1]

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

    def _compute(self, job: Job, n_tokens: int) -> None:
        """Compute so much more of a prompt."""
        job.computed += n_tokens
        n_blocks = self._blocks(job.computed)
        self.kv.take(n_blocks - job.n_blocks)
        job.n_blocks = n_blocks
        self._cache(job)
        if job.computed < job.n_known:
            self._prefilling[job.attempt_id] = job
        else:
            self._prefilling.pop(job.attempt_id, None)

    def _cache(self, job: Job) -> None:
        """Let others hit its full blocks."""
        n_full = job.computed // self._limits.block_size
        if n_full > job.n_cached:
            job.chain = self.kv.store(job.chain, job.keys[job.n_cached : n_full])

    def _leave(self, job: Job) -> None:
        """Take it out of what runs, and its blocks from it."""
        if job.end_step is not None:
            self._decoding.remove(job)
        self._prefilling.pop(job.attempt_id, None)
        del self._running[job.attempt_id]
        self._cache(job)
        self.kv.let_go(job.chain, job.n_blocks - job.n_cached)
        job.chain, job.n_blocks = None, 0

    def _blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._limits.block_size)
