"""In which order an engine serves requests, and who stands back there: the daemon says it, the engine does it.

`daemon/engine/vllm_scheduler.py` does it in vLLM, `daemon/sim/engine.py` in the simulator.
"""

from enum import IntEnum

_SATURATING_TOKENS = 512
"""So many of prompts a step computes about as fast as more; with fewer it mostly loads weights, and decodes."""
_MOST_STEPS_ALONE = 4
"""So many steps in a row are for light prompts alone, before what yields decodes in one again."""


class Priority(IntEnum):
    """The lowest is started first, and preempted last. Any other number is as the usual one."""

    LIGHT = 0
    """Of a tenant that wants little, while others wait: as long as its prompt is computed, others' are not."""
    USUAL = 1
    YIELDING = 2
    """Of one that wants more, when others that want little have come of late."""
    BATCH = 3
    YIELDING_BATCH = 4

    @classmethod
    def _missing_(cls, value: object) -> "Priority":
        return cls.USUAL

    @property
    def yields(self) -> bool:
        """Whether its prompts take no more than a part of a step, and it does not decode beside a light prompt."""
        return self in (Priority.YIELDING, Priority.YIELDING_BATCH)

    def stands_back(self, *, prefills: bool, after: int) -> bool:
        """Whether a request has no part in a step for light prompts, `after` so many steps without what yields.

        `prefills` is whether its prompt has yet to be computed.
        """
        return self != Priority.LIGHT if prefills else self.yields and after < _MOST_STEPS_ALONE


def most_yielding_tokens(step_tokens: int) -> int:
    """Tokens of prompts in a step of at most `step_tokens`, where all prompts that are there yield.

    Whoever comes waits for the step under way, so it is a quarter; of small steps more, but no more than half.
    """
    return max(step_tokens // 4, min(_SATURATING_TOKENS, step_tokens // 2))
