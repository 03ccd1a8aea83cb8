"""A decision that was made, taken again by the policy's own rule as if some GPUs had not been there."""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from preble.daemon.config import SchedulerConfig
from preble.daemon.sched.policies import Choice, make_policy
from preble.daemon.sched.scheduler import have_nearly_most
from preble.daemon.sched.types import Candidate


def choose_without(
    config: SchedulerConfig, candidates: Sequence[Candidate], without: Collection[str]
) -> tuple[Choice, list[Candidate]]:
    """The choice among those of the candidates that are left, and these. Some must be.

    What the policy remembered then, such as whose turn it was, is not known any more: it chooses as if for the first
    time.
    """
    policy = make_policy(config)
    left = [candidate for candidate in candidates if candidate.gpu not in without]
    assert left, "nobody is left to choose from"
    if policy.traits.exploits_longest or not any(candidate.holds_prefix for candidate in left):
        holds = have_nearly_most([candidate.cached_tokens for candidate in left])
        left = [replace(each, holds_prefix=holder) for each, holder in zip(left, holds, strict=True)]
    return policy.choose(left, 0.0), left
