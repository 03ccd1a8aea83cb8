"""The arithmetic by which many steps are passed at once: how long they take, what ends, which blocks they need."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import isqrt

from preble.daemon.flow.events import KvChange
from preble.daemon.ids import AttemptId, BlockKey
from preble.daemon.priority import Priority
from preble.daemon.sim.kvcache import Chain


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request in an engine. Mutable, and owned by its engine once submitted."""

    attempt_id: AttemptId
    keys: Sequence[BlockKey]
    """Of the full blocks of its prompt and its answer."""
    prompt_tokens: int
    output_tokens: int
    priority: Priority = Priority.USUAL
    number: int = 0
    """Of equal priority, the lowest is started first; its engine counts."""
    produced: int = 0
    """Tokens of its answer; while it decodes, as of `as_of_step`."""
    cached_tokens: int = 0
    """Of its prompt, when it was first started."""
    preemptions: int = 0
    computed: int = 0
    """Tokens in the KV cache; while it decodes, as of `as_of_step`."""
    as_of_step: int = 0
    end_step: int | None = None
    """The step that produces its last token, while it decodes."""
    chain: Chain | None = None
    n_blocks: int = 0
    """Blocks that it has, in its chain and beyond; while it decodes, as of `as_of_step`."""

    @property
    def n_known(self) -> int:
        """Tokens of prompt and answer there are, and which must be computed before the next is produced."""
        return self.prompt_tokens + self.produced

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the line."""
        return self.priority, self.number

    @property
    def n_cached(self) -> int:
        """Its blocks that others can hit; it alone has the rest."""
        return self.chain.end if self.chain else 0

    def has_begun_with(self, n_tokens: int) -> bool:
        """Whether the last so many that were computed are the first of all."""
        return not self.preemptions and self.computed - n_tokens == self.cached_tokens


@dataclass(slots=True, kw_only=True)
class Run:
    """Steps without a notable moment in between: one with prompt chunks, or any number that only decode."""

    start_ps: int
    n_steps: int
    first_ps: int
    """Time of the first step."""
    growth_ps: int
    """By so much each step takes longer than the one before, since all contexts grow."""
    prefilled: tuple[Job, ...]
    """Those whose chunks the step computes."""

    @property
    def ends_ps(self) -> int:
        """When its last step ends."""
        n = self.n_steps
        return self.start_ps + n * self.first_ps + self.growth_ps * (n * (n - 1) // 2)

    def step_at(self, now_ps: int) -> int:
        """Which of its steps, from 1, is under way or ends."""
        elapsed = 2 * (now_ps - self.start_ps)
        growth, linear = self.growth_ps, 2 * self.first_ps - self.growth_ps
        if growth == 0:
            n = -(-elapsed // linear)
        else:  # the least n with n (n growth + linear) >= elapsed; the root is rounded down, so it may be one more
            n = (isqrt(linear * linear + 4 * growth * elapsed) - linear) // (2 * growth)
            while n * (n * growth + linear) < elapsed:
                n += 1
        return min(self.n_steps, max(1, n))


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a run has brought."""

    kv_changes: tuple[KvChange, ...]
    first_tokens: tuple[AttemptId, ...]
    ended: tuple[Job, ...]
    """Complete or aborted."""


class Decoding:
    """All sequences of one engine that decode, one token each in every step."""

    def __init__(self, block_size: int) -> None:
        self.n = 0
        self.context = 0
        """Sum of their computed tokens."""
        self.cached_blocks = 0
        """Sum of their blocks that others can hit."""
        self.step = 0
        """Steps that the engine has done."""
        self._block_size = block_size
        self._n_growing = [0] * block_size
        """How many need a new block in step s, at s modulo the block size."""
        self._ends: list[tuple[int, int, Job]] = []
        """A heap of (end step, number, job); entries whose job has another end step by now are void."""
        self._n_entries = 0

    def add(self, job: Job) -> None:
        """It has produced a token in the step that was just done, and goes on."""
        job.as_of_step = self.step
        job.end_step = self.step + job.output_tokens - job.produced
        self._n_entries += 1
        heappush(self._ends, (job.end_step, self._n_entries, job))
        self.n += 1
        self.context += job.computed
        self.cached_blocks += job.n_cached
        self._n_growing[self._phase(job)] += 1

    def remove(self, job: Job) -> None:
        """It ends or is preempted; bring it up to date."""
        n_steps = self.step - job.as_of_step
        self._n_growing[self._phase(job)] -= 1
        job.produced += n_steps
        job.computed += n_steps
        job.n_blocks = -(-job.computed // self._block_size)
        job.end_step = None
        self.n -= 1
        self.context -= job.computed
        self.cached_blocks -= job.n_cached

    def growth(self, job: Job) -> int:
        """Blocks that one of them takes in the next step."""
        return int((self.step + 1) % self._block_size == self._phase(job))

    def _phase(self, job: Job) -> int:
        return (job.as_of_step + 1 - job.computed) % self._block_size

    def pass_steps(self, n_steps: int) -> None:
        """So many steps have been done."""
        self.step += n_steps
        self.context += n_steps * self.n

    def first_to_end(self) -> Job | None:
        """The one with the least left to produce; of equal ones the first that was added."""
        while self._ends and self._ends[0][2].end_step != self._ends[0][0]:
            heappop(self._ends)
        return self._ends[0][2] if self._ends else None

    @property
    def first_end_step(self) -> int:
        """The step that ends the first of them."""
        job = self.first_to_end()
        assert job is not None, "nothing decodes"
        assert job.end_step is not None
        return job.end_step

    def blocks_for(self, n_steps: int) -> int:
        """Blocks that the next steps take."""
        cycles, rest = divmod(n_steps, self._block_size)
        first = (self.step + 1) % self._block_size
        growing = self._n_growing[first : first + rest] + self._n_growing[: max(0, first + rest - self._block_size)]
        return cycles * self.n + sum(growing)

    def steps_within(self, n_blocks: int) -> int:
        """How many steps so many blocks last."""
        cycles, left = divmod(n_blocks, self.n)
        n_steps = 0
        while left >= (growing := self._n_growing[(self.step + 1 + n_steps) % self._block_size]):
            left -= growing
            n_steps += 1
        return cycles * self._block_size + n_steps
