"""GPU time that attempts take: what tenants' turns are reckoned by, and what the ledger says."""

from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.types import TimeModel


class Service:
    """By one engine's time model. All times in ms of GPU time, unless their names say seconds."""

    def __init__(self, cached_charge: float) -> None:
        """A cached prompt token costs `cached_charge` (0 to 1) of a computed one: it keeps its place in the cache."""
        self._cached_charge = cached_charge

    def whole_ms(self, attempt: Attempt, output_tokens: int, model: TimeModel) -> float:
        """Prefill, its share of the decoding steps, and a little for what it keeps in the cache."""
        return self._prompt_ms(attempt, model) + model.decode_ms(output_tokens, attempt.batch)

    def spent_ms(self, attempt: Attempt, output_tokens: int | None, model: TimeModel, now_s: float) -> float:
        """Of an attempt that is over now. None: nobody knows how much it has put out.

        What was cut off may not even have been prefilled: it took no more than the time since it started.
        """
        if output_tokens is None:
            return self._used_ms(attempt, model, now_s)
        whole_ms = self.whole_ms(attempt, output_tokens, model)
        return min(whole_ms, _elapsed_ms(attempt, now_s)) if attempt.cancelled else whole_ms

    def _used_ms(self, attempt: Attempt, model: TimeModel, now_s: float) -> float:
        """Prefill, then its share of the time since, up to the longest answer it can have."""
        prompt_ms, spec = self._prompt_ms(attempt, model), attempt.spec
        elapsed_ms = _elapsed_ms(attempt, now_s)
        if elapsed_ms <= prompt_ms:
            return elapsed_ms
        most_ms = model.decode_ms(spec.max_output_tokens * spec.n_sequences, attempt.batch)
        return prompt_ms + min((elapsed_ms - prompt_ms) * spec.n_sequences / attempt.batch, most_ms)

    def _prompt_ms(self, attempt: Attempt, model: TimeModel) -> float:
        cached_tokens = attempt.spec.prompt.n_tokens - attempt.computed_tokens
        cached_ms = self._cached_charge * model.prefill_ms_per_token * cached_tokens
        return model.prefill_ms(attempt.computed_tokens) + cached_ms


def _elapsed_ms(attempt: Attempt, now_s: float) -> float:
    return 1000 * (now_s - attempt.started_s)
