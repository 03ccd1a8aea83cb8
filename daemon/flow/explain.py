"""Decisions for people, of requests that have ended and of those that nobody sent."""

from datetime import UTC, datetime

from preble.daemon.flow.request import Settled
from preble.daemon.sched.types import Candidate, Decision
from preble.daemon.wire.admin import Actual, CandidateRow, Explanation


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
    return _explanation(decision, settled.received_at_s, settled.attempts, actual)


def foretell(decision: Decision, decided_at_s: float) -> Explanation:
    """The same of a request that was not run. `decided_at_s` is in seconds since the epoch."""
    return _explanation(decision, decided_at_s, 0, None)


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
        decided_at=datetime.fromtimestamp(decided_at_s, UTC).isoformat(timespec="milliseconds"),
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
