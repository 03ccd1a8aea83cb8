"""What one engine has been sent and has yet to prefill, and how much more it may be sent."""

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import AttemptId, GpuId, TenantName
from preble.daemon.priority import Priority, most_yielding_tokens
from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.fairline import Turns
from preble.daemon.sched.index import PrefixIndex

_LEAST_LEAD_TOKENS = 2048
"""Steps may be shorter, and an engine is to have the next at hand when one ends."""
_LIGHT_LEADS = 3
"""So many times the bound an engine is sent of a tenant that wants little while others wait: with less, its own long
prompt, which takes several steps beside theirs, keeps out its next one."""


class Prefills:
    """Attempts that run and whose prompts have not been computed as far as is known.

    A tenant that wants little hardly waits for what others have there: its engine computes its prompts before theirs,
    also before those it has begun (`Priority`).
    """

    def __init__(self, gpu: GpuId, index: PrefixIndex, turns: Turns, config: SchedulerConfig) -> None:
        self._gpu = gpu
        self._index = index
        self._turns = turns
        self._lead_tokens = config.prefill_lead_tokens
        self._attempts: dict[AttemptId, Attempt] = {}
        self.tokens = 0
        """Prompt tokens that the engine has yet to compute."""

    def add(self, attempt: Attempt) -> None:
        """It starts."""
        self._attempts[attempt.attempt_id] = attempt
        self.tokens += attempt.unprefilled_tokens

    def remove(self, attempt: Attempt) -> bool:
        """It has been prefilled, or has left; False if it was removed before."""
        if self._attempts.pop(attempt.attempt_id, None) is None:
            return False
        self.tokens -= attempt.unprefilled_tokens
        attempt.unprefilled_tokens = 0
        return True

    def may_take(self, lane: TenantName, n_tokens: int, step_tokens: int) -> bool:
        """Whether the engine may be sent so many more tokens to compute: any if it has none, else up to a bound.

        Who wants little is not kept out by what others have there, and has its next request there when its last has
        been computed.
        """
        before_tokens, most_tokens = self.tokens, self._lead_tokens or max(step_tokens, _LEAST_LEAD_TOKENS)
        if before_tokens + n_tokens > most_tokens and self._turns.is_light(lane):
            before_tokens = self._tokens_of(lane)
            if self._turns.priority(lane) == Priority.LIGHT:
                most_tokens *= _LIGHT_LEADS
        return not before_tokens or before_tokens + n_tokens <= most_tokens

    def _tokens_of(self, lane: TenantName) -> int:
        """Of a tenant, what the engine has yet to compute."""
        return sum(attempt.unprefilled_tokens for attempt in self._attempts.values() if attempt.spec.lane == lane)

    def computed(self) -> list[Attempt]:
        """Those whose whole chain has been reported: they have been prefilled, streamed or not."""
        return [
            attempt
            for attempt in self._attempts.values()
            if attempt.leaf is not None and self._index.is_resident(attempt.leaf, self._gpu)
        ]

    def passed_us(self, lane: TenantName, step_tokens: int) -> int:
        """GPU time that a tenant need not wait for whose prompts are computed first: of others' all but the step begun.

        They yield, so the step is short; when somebody comes it is half done in the mean.
        """
        begun_tokens = most_yielding_tokens(step_tokens) // 2
        if self.tokens <= begun_tokens or self._turns.priority(lane) != Priority.LIGHT:
            return 0
        others = self._of_others()
        n_tokens = sum(attempt.unprefilled_tokens for attempt in others)
        if n_tokens <= begun_tokens:
            return 0
        return sum(attempt.prefill_us for attempt in others) * (n_tokens - begun_tokens) // n_tokens

    def holds_up(self, step_tokens: int) -> bool:
        """Whether a prompt of who does not want little takes more than a step."""
        return any(attempt.unprefilled_tokens > step_tokens for attempt in self._of_others())

    def _of_others(self) -> list[Attempt]:
        """Of those that do not want little."""
        return [attempt for attempt in self._attempts.values() if not self._turns.is_light(attempt.spec.lane)]
