"""The answers that one engine puts out, and what they hold of its KV cache beyond what was expected of them.

What still runs is what takes long: where lengths differ much, the sum of what was expected of running answers falls far
short of what they hold. An engine gives each sequence a token in each step, so how long an answer is follows from the
steps since its first token, streamed or not; and how fast steps are, from the answers that have ended.
"""

from heapq import heappop, heappush
from math import ceil

from preble.daemon.ids import AttemptId
from preble.daemon.sched.attempt import Attempt

_FADING = 0.98
"""Weight that is left of an answer's speed when the next one has ended: about fifty count."""


class Answers:
    """Attempts that decode. All times are the caller's."""

    def __init__(self, block_size: int) -> None:
        """`block_size` is in tokens."""
        self._block_size = block_size
        self._begun_s: dict[AttemptId, float] = {}
        self._due: list[tuple[float, AttemptId, int]] = []
        """A heap: by which step an answer is as long as expected, and its sequences; also of some that have ended."""
        self._late: dict[AttemptId, tuple[float, int]] = {}
        """The same of those that are longer by now."""
        self._late_sequences = 0
        self._late_from = 0.0
        """Sum over late sequences of the step by which they were as long as expected."""
        self._steps = 0.0
        """That the engine has done while answers were told of."""
        self._now_s = 0.0
        self._tokens = 0.0
        """Of single sequences that have ended, faded, but for the first of each."""
        self._seconds = 0.0
        """In which these were put out."""

    def begin(self, attempt: Attempt, now_s: float) -> None:
        """Its prompt has been computed, and its first token comes."""
        self._pass(now_s)
        self._begun_s[attempt.attempt_id] = now_s
        expected_tokens, sequences = attempt.decision.expected_output_tokens, attempt.spec.n_sequences
        if expected_tokens < sequences * attempt.spec.max_output_tokens:  # else it cannot be longer
            heappush(self._due, (self._steps + expected_tokens / sequences, attempt.attempt_id, sequences))

    def end(self, attempt: Attempt, now_s: float, output_tokens: int | None = None) -> None:
        """It has left the engine, with so many tokens if that is known; it need not have begun."""
        begun_s = self._begun_s.pop(attempt.attempt_id, None)
        if begun_s is None:
            return
        self._pass(now_s)
        due, sequences = self._late.pop(attempt.attempt_id, (0.0, 0))
        self._late_sequences -= sequences
        self._late_from = self._late_from - sequences * due if self._late else 0.0
        if output_tokens is not None and output_tokens > 1 and attempt.spec.n_sequences == 1:
            self._tokens = _FADING * self._tokens + output_tokens - 1
            self._seconds = _FADING * self._seconds + now_s - begun_s

    @property
    def late_blocks(self) -> int:
        """KV blocks that answers hold beyond what was expected of them, as of the last begin or end."""
        return ceil((self._late_sequences * self._steps - self._late_from) / self._block_size) if self._late else 0

    def _pass(self, now_s: float) -> None:
        if self._seconds > 0:
            self._steps += (now_s - self._now_s) * self._tokens / self._seconds
        self._now_s = now_s
        while self._due and self._due[0][0] <= self._steps:
            due, attempt_id, sequences = heappop(self._due)
            if attempt_id in self._begun_s:
                self._late[attempt_id] = due, sequences
                self._late_sequences += sequences
                self._late_from += sequences * due
