"""Decisions for people, of requests that have ended and of those that nobody sent."""

from collections.abc import Collection

from msgspec.structs import asdict, replace

from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import InvalidRequest
from preble.daemon.flow.call import Settled
from preble.daemon.ids import GpuId
from preble.daemon.sched.types import Candidate, Decision
from preble.daemon.sched.whatif import choose_without
from preble.daemon.wire.admin import Actual, CandidateRow, Explanation
from preble.daemon.wire.moments import iso


def explain(settled: Settled, decision: Decision) -> Explanation:
    """The decision, every candidate, and what then really happened."""
    actual = Actual(
        cached_tokens=settled.cached_tokens,
        ttft_ms=settled.ttft_ms,
        queue_ms=settled.queue_ms,
        latency_ms=settled.latency_ms,
        output_tokens=settled.output_tokens,
        status=settled.status,
    )
    known = _explanation(decision, settled.received_at_s, settled.attempts, actual)
    return replace(known, tenant=settled.call.tenant)


def foretell(decision: Decision, decided_at_s: float) -> Explanation:
    """The same of a request that was not run. `decided_at_s` is in seconds since the epoch."""
    return _explanation(decision, decided_at_s, 0, None)


def suppose(known: Explanation, without: Collection[str], config: SchedulerConfig) -> Explanation:
    """A decision as it would have been without these GPUs. Raises `InvalidRequest` if that cannot be told."""
    there = {row.gpu for row in known.candidates}
    if unknown := sorted(set(without) - there):
        raise InvalidRequest(f"{unknown[0]!r} was none of {', '.join(sorted(there))}.", param="without")
    if there <= set(without):
        raise InvalidRequest("Without all of them there is nothing to decide.", param="without")
    candidates = [Candidate(**{**asdict(row), "gpu": GpuId(row.gpu)}) for row in known.candidates]
    choice, left = choose_without(config, candidates, without)
    return replace(
        known,
        gpu=choice.chosen.gpu,
        mode=choice.mode.value,
        reason=choice.reason,
        predicted_cached_tokens=choice.chosen.cached_tokens,
        candidates=[_candidate_row(candidate) for candidate in left],
        attempts=0,
        actual=None,
    )


def _explanation(decision: Decision, decided_at_s: float, attempts: int, actual: Actual | None) -> Explanation:
    return Explanation(
        request_id=decision.request_id,
        model=decision.model,
        gpu=decision.gpu,
        mode=decision.mode.value,
        reason=decision.reason,
        prompt_tokens=decision.prompt_tokens,
        predicted_cached_tokens=decision.cached_tokens,
        predicted_output_tokens=decision.expected_output_tokens,
        candidates=[_candidate_row(candidate) for candidate in decision.candidates],
        attempts=attempts,
        decided_at=iso(decided_at_s),
        actual=actual,
    )


def _candidate_row(candidate: Candidate) -> CandidateRow:
    return CandidateRow(
        gpu=candidate.gpu,
        cached_tokens=candidate.cached_tokens,
        missed_tokens=candidate.missed_tokens,
        load_ms=candidate.load_ms,
        evict_ms=candidate.evict_ms,
        prefill_ms=candidate.prefill_ms,
        wait_ms=candidate.wait_ms,
        decode_ms=candidate.decode_ms,
        requests=candidate.requests,
        cost_ms=candidate.cost_ms,
        holds_prefix=candidate.holds_prefix,
        decode_ratio=candidate.decode_ratio,
    )
