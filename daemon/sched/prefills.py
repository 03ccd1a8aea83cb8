"""What one engine has been sent and has yet to prefill, and what of that gives way to tenants that want little."""

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import AttemptId, GpuId, TenantName
from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.fairline import Turns
from preble.daemon.sched.index import PrefixIndex
from preble.daemon.sched.types import EngineLimits

_LEAST_LEAD_TOKENS = 2048
"""Steps may be shorter, and an engine is to have the next at hand when one ends."""
_LIGHT_LEADS = 3
"""So many times the bound an engine is sent of a tenant that wants little while others wait: with less, its own long
prompt, which takes several steps beside theirs, keeps out its next one."""
_UNSEEN = 8
"""So often a request gives way though nothing has been reported of what was computed of it: a step may be under way."""


class Prefills:
    """Attempts that run and whose prompts have not been computed as far as is known.

    An engine finishes a prompt that it has begun before it begins another, whatever their priorities. So a prompt that
    takes many steps keeps out a tenant that wants little, unless it gives way: it is taken out of the engine, where
    what has been computed of it stays cached, and runs again. After some times it does so only once more of it has been
    computed, so it comes to its end.
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
            if self._turns.priority(lane) == 0:
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

    def passed_us(self, lane: TenantName, limits: EngineLimits) -> int:
        """GPU time that a tenant need not wait for if it wants little: of what gives way all but a step."""
        if not self._turns.is_light(lane):
            return 0
        step_tokens = limits.max_num_batched_tokens
        return sum(
            attempt.prefill_us * (attempt.unprefilled_tokens - step_tokens) // attempt.unprefilled_tokens
            for attempt in self._attempts.values()
            if self._may_give_way(attempt, step_tokens)
        )

    def giving_way(self, limits: EngineLimits) -> list[Attempt]:
        """Those that are to give way to a tenant that wants little: a step would not finish them."""
        step_tokens = limits.max_num_batched_tokens
        if self.tokens <= step_tokens:
            return []
        return [
            attempt
            for attempt in self._attempts.values()
            if self._may_give_way(attempt, step_tokens) and self._is_long(attempt, step_tokens, limits.block_size)
        ]

    def _may_give_way(self, attempt: Attempt, step_tokens: int) -> bool:
        is_asked = attempt.gives_way or attempt.cancelled
        return attempt.unprefilled_tokens > step_tokens and not is_asked and not self._turns.is_light(attempt.spec.lane)

    def _is_long(self, attempt: Attempt, step_tokens: int, block_size: int) -> bool:
        """Whether much is left of it, and some was done if it gave way often."""
        computed_tokens = block_size * self._index.resident_end(attempt.leaf, self._gpu) if attempt.leaf else 0
        left_tokens = min(attempt.unprefilled_tokens, attempt.spec.prompt.n_tokens - computed_tokens)
        return left_tokens > step_tokens and (left_tokens < attempt.unprefilled_tokens or attempt.gave_way < _UNSEEN)
