"""Fits an engine's time model to what is seen of it, a little with each observation.

Least squares of the *relative* error, so that short prompts count as much as long ones, no coefficient negative. What
was believed at the start counts as a few observations; all fade as newer ones come, so the fit follows a GPU that is
throttled or shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from preble.daemon.sched.types import TimeModel

_FADING = 0.99
"""Weight that is left of an observation when the next one has come: about a hundred count."""
_PRIOR_WEIGHT = 4.0
_PRIOR_TOKENS = (64, 256, 1024, 4096, 16384)
_PRIOR_BATCHES = (1, 4, 16, 64)
_REFIT_EVERY = 8
_ERROR_WEIGHT = 0.05
_LEAST_MS = 0.001
"""What is shorter is no observation of a GPU."""
_LEAST_OWN = 0.1
"""Of what was observed, when others are thought to have taken nearly all of it: work is never for nothing."""
_OUTLIER = 5.0
"""An observation so many times off is taken for a pause of the machine, unless most are."""

Coefficients = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitError:
    """How far predictions were from what was then observed."""

    prefill_ratio: float | None
    """Mean of |predicted - observed| / observed; None before any observation."""
    decode_ratio: float | None
    observations: int


class TimeFit:
    """One engine's time model, and its error."""

    def __init__(self, start: TimeModel) -> None:
        self.model = start
        self._prefill = _Regression(3)
        self._decode = _Regression(2)
        for n_tokens in _PRIOR_TOKENS:
            self._prefill.add(_prefill_terms(n_tokens), start.prefill_ms(n_tokens), _PRIOR_WEIGHT)
        for batch in _PRIOR_BATCHES:
            self._decode.add(_decode_terms(batch), start.decode_base_ms + start.decode_ms_per_sequence * batch)

    @property
    def error(self) -> FitError:
        """Of late."""
        observations = self._prefill.observations + self._decode.observations
        return FitError(self._prefill.error_ratio, self._decode.error_ratio, observations)

    def prefilled(self, n_tokens: int, took_ms: float, others_ms: float = 0.0) -> None:
        """The engine computed so many uncached tokens in that time, of which about `others_ms` went to what decodes."""
        expected_ms = self.model.prefill_ms(n_tokens) + others_ms
        if self._prefill.observe(_prefill_terms(n_tokens), took_ms, expected_ms, others_ms):
            self._refit()

    def decoded(self, batch: float, step_ms: float) -> None:
        """Steps that decoded a token for each of `batch` sequences, and prefilled nothing, took so long each."""
        expected_ms = self.model.decode_base_ms + self.model.decode_ms_per_sequence * batch
        if self._decode.observe(_decode_terms(batch), step_ms, expected_ms):
            self._refit()

    def _refit(self) -> None:
        base_ms, per_token, per_token2 = self._prefill.solve()
        step_ms, per_sequence = self._decode.solve()
        self.model = TimeModel(
            prefill_base_ms=base_ms,
            prefill_ms_per_token=per_token,
            prefill_ms_per_token2=per_token2,
            decode_base_ms=step_ms,
            decode_ms_per_sequence=per_sequence,
        )


def fit_prefill(measured: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """Fit ms = a + b n + c n^2 to (tokens, ms) pairs."""
    regression = _Regression(3)
    for n_tokens, took_ms in measured:
        regression.add(_prefill_terms(n_tokens), took_ms)
    base_ms, per_token, per_token2 = regression.solve()
    return base_ms, per_token, per_token2


class _Regression:
    """Non-negative least squares of the relative error, on faded sums."""

    def __init__(self, n_terms: int) -> None:
        self._squares = np.zeros((n_terms, n_terms))
        self._products = np.zeros(n_terms)
        self.observations = 0
        self.error_ratio: float | None = None

    def add(self, terms: Coefficients, value_ms: float, weight: float = 1.0, scale_ms: float | None = None) -> None:
        """The terms come to this value; the error is relative to it, or to what is given."""
        scale_ms = scale_ms or value_ms
        if scale_ms >= _LEAST_MS:
            scaled = terms / scale_ms
            self._squares += weight * np.outer(scaled, scaled)
            self._products += weight * scaled * (value_ms / scale_ms)

    def observe(self, terms: Coefficients, value_ms: float, expected_ms: float, others_ms: float = 0.0) -> bool:
        """Learn from an observation, with what is not of the terms in it; whether it is time to solve again."""
        if value_ms < _LEAST_MS:
            return False
        ratio = abs(expected_ms - value_ms) / value_ms
        before = self.error_ratio
        self.error_ratio = ratio if before is None else before + _ERROR_WEIGHT * (ratio - before)
        self.observations += 1
        if value_ms > _OUTLIER * expected_ms and before is not None and before < 0.5:
            return False
        self._squares *= _FADING
        self._products *= _FADING
        # What is not of the terms varies: relative to what was observed, the shortest would count most.
        own_ms = max(value_ms - others_ms, _LEAST_OWN * value_ms)
        self.add(terms, own_ms, scale_ms=expected_ms if others_ms else None)
        return self.observations % _REFIT_EVERY == 0

    def solve(self) -> list[float]:
        """Exact: the best non-negative fit is the best of the plain ones over subsets of terms that come out so."""
        n_terms = len(self._products)
        best, best_gain = np.zeros(n_terms), 0.0
        for chosen in (list(some) for size in range(1, n_terms + 1) for some in combinations(range(n_terms), size)):
            coefficients = np.linalg.lstsq(self._squares[np.ix_(chosen, chosen)], self._products[chosen], rcond=None)[0]
            gain = float(self._products[chosen] @ coefficients)
            if coefficients.min() >= 0 and gain > best_gain:
                best, best_gain = np.zeros(n_terms), gain
                best[chosen] = coefficients
        return [float(value) for value in best]


def _prefill_terms(n_tokens: int) -> Coefficients:
    return np.array([1.0, n_tokens, float(n_tokens) ** 2])


def _decode_terms(batch: float) -> Coefficients:
    return np.array([1.0, batch])
