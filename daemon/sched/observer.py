"""Takes the times of what an engine does, and tells its fit what can be learnt from them.

A request's time in an engine is that of many things at once. Observed is only what is nearly alone: a prefill that was
begun when no other was under way, and that none went before since, and a decoding during which next to nothing was
prefilled. Where a prompt yields its steps are short: only one that fits into a step tells how long whole ones take.
"""

from dataclasses import dataclass
from math import ceil

from preble.daemon.ids import AttemptId
from preble.daemon.priority import Priority, most_yielding_tokens
from preble.daemon.sched.timefit import TimeFit

_LEAST_STEPS = 8
"""Fewer steps of decoding tell less than the noise of their beginning and end."""
_MOST_PREFILL = 0.1
"""Share of a decoding's time during which something was prefilled."""


@dataclass(slots=True)
class _Seen:
    launched_s: float
    prefill_tokens: int
    """0 if its prefill was not alone, or tells nothing."""
    others: int
    """Sequences that decoded beside its prefill."""
    first_token_s: float | None = None
    sequence_s: float = 0.0
    prefill_s: float = 0.0
    """Of the engine, by then."""


class Observer:
    """Follows one start of an engine. All times are the caller's."""

    def __init__(self, fit: TimeFit, max_num_batched_tokens: int) -> None:
        self._fit = fit
        self._step_tokens = max_num_batched_tokens
        self._seen: dict[AttemptId, _Seen] = {}
        self._passable: _Seen | None = None
        """The last whose prefill was begun when no other was under way, if prompts of who wants little go before it."""
        self._changed_s = 0.0
        self._sequences = 0
        self._prefills = False
        self._sequence_s = 0.0
        """Sum over time of the sequences that ran."""
        self._prefill_s = 0.0
        """Time during which something was being prefilled."""

    def now(self, now_s: float, sequences: int, prefills: bool) -> None:
        """From now on so many sequences run, and something is being prefilled or nothing is."""
        passed_s = now_s - self._changed_s
        self._sequence_s += passed_s * self._sequences
        self._prefill_s += passed_s * self._prefills
        self._changed_s, self._sequences, self._prefills = now_s, sequences, prefills

    def launched(self, attempt: AttemptId, now_s: float, prefill_tokens: int, priority: Priority) -> None:
        """It was sent to the engine, to prefill so many tokens; to be told before `now` tells of it."""
        is_short = priority.yields and prefill_tokens > most_yielding_tokens(self._step_tokens)
        seen = _Seen(now_s, 0 if self._prefills or is_short else prefill_tokens, self._sequences)
        self._seen[attempt] = seen
        if priority != Priority.LIGHT:
            self._passable = self._passable if self._prefills else seen
        elif self._passable is not None:
            self._passable.prefill_tokens = 0

    def first_token(self, attempt: AttemptId, now_s: float) -> None:
        """Its prompt has been computed."""
        seen = self._seen.get(attempt)
        if seen is None or seen.first_token_s is not None:
            return
        self.now(now_s, self._sequences, self._prefills)
        seen.first_token_s, seen.sequence_s, seen.prefill_s = now_s, self._sequence_s, self._prefill_s
        if seen.prefill_tokens:
            self._fit.prefilled(seen.prefill_tokens, 1000 * (now_s - seen.launched_s), self._others_ms(seen))

    def _others_ms(self, seen: _Seen) -> float:
        """Of its TTFT: half of the step that was under way when it came, in the mean, and others' part in its own."""
        if not seen.others:
            return 0.0
        model, steps = self._fit.model, ceil(seen.prefill_tokens / self._step_tokens)
        step_ms = model.decode_base_ms + seen.others * model.decode_ms_per_sequence
        return step_ms / 2 + steps * seen.others * model.decode_ms_per_sequence

    def mean_batch(self, attempt: AttemptId, now_s: float) -> float | None:
        """Sequences that ran at once, its own among them, since its first token. None if there was no time for that."""
        seen = self._seen.get(attempt)
        if seen is None or seen.first_token_s is None or now_s <= seen.first_token_s:
            return None
        self.now(now_s, self._sequences, self._prefills)
        return (self._sequence_s - seen.sequence_s) / (now_s - seen.first_token_s)

    def ended(self, attempt: AttemptId, now_s: float, output_tokens: int = 0) -> None:
        """It left the engine; `output_tokens` are those of its one sequence, or 0 if there is nothing to learn."""
        batch = self.mean_batch(attempt, now_s)
        seen = self._seen.pop(attempt, None)
        if seen is None or seen.first_token_s is None or batch is None or output_tokens <= _LEAST_STEPS:
            return
        took_s = now_s - seen.first_token_s
        if self._prefill_s - seen.prefill_s <= _MOST_PREFILL * took_s:
            self._fit.decoded(batch, 1000 * took_s / (output_tokens - 1))
