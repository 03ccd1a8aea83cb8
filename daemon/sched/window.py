"""What one GPU was given within the last H seconds: the L of E2, kept incrementally and aged when it is looked at.

Sums are whole microseconds and tokens, so that what was added is removed to the last unit.
"""

from collections import deque
from math import inf

import msgspec

from preble.daemon.sched.node import Node
from preble.daemon.sched.types import TimeModel


class Given(msgspec.Struct, eq=False, gc=False):
    """One request given to the GPU. It counts until the window has passed it, or until it is taken back."""

    at_s: float
    prefill_us: int
    leaf: Node | None
    counts: bool = True


class LoadWindow:
    """Requests given to one GPU, and the output lengths it produced, since the window began."""

    __slots__ = (
        "_batch",
        "_expected_output_tokens",
        "_given",
        "_load",
        "_output_tokens",
        "_outputs",
        "_times",
        "mean_output_tokens",
        "n_requests",
        "oldest_s",
        "prefill_us",
    )

    def __init__(self, expected_output_tokens: int) -> None:
        self._expected_output_tokens = expected_output_tokens
        self.mean_output_tokens = float(expected_output_tokens)
        """Mean output length seen in the window, or the configured guess when none was."""
        self._given: deque[Given] = deque()
        self._outputs: deque[tuple[float, int]] = deque()
        self.prefill_us = 0
        """Prefill time of all requests in the window."""
        self._output_tokens = 0
        self.n_requests = 0
        self.oldest_s = inf
        """Of what it counts; infinite if that is nothing."""
        self._load: tuple[float, float] | None = None
        """Kept until something changes: every decision asks for that of every GPU."""
        self._times: TimeModel | None = None
        self._batch = 1.0

    def load(self, times: TimeModel, batch: float) -> tuple[float, float]:
        """L in ms, prefill and decode time of all its requests, and the share of decoding in it, from 0 to 1.

        Decode time is that at the mean output length, if the GPU decodes `batch` sequences at once.
        """
        if self._load is None or self._times is not times or self._batch != batch:
            decode_ms = self.n_requests * times.decode_ms(self.mean_output_tokens, batch)
            load_ms = self.prefill_us / 1000 + decode_ms
            self._times, self._batch = times, batch
            self._load = load_ms, decode_ms / load_ms if load_ms > 0 else 0.0
        return self._load

    def give(self, now_s: float, prefill_ms: float, leaf: Node | None) -> Given:
        """Count a request that was placed on the GPU."""
        self._load = None
        self.oldest_s = min(self.oldest_s, now_s)
        given = Given(now_s, round(prefill_ms * 1000), leaf)
        self._given.append(given)
        self.prefill_us += given.prefill_us
        self.n_requests += 1
        return given

    def take_back(self, given: Given) -> bool:
        """Uncount a request that will not run here after all; False if it no longer counted."""
        if not given.counts:
            return False
        given.counts = False
        self._load = None
        self.prefill_us -= given.prefill_us
        self.n_requests -= 1
        return True

    def finish(self, now_s: float, output_tokens: int) -> None:
        """Learn how long an answer was."""
        self._load = None
        self.oldest_s = min(self.oldest_s, now_s)
        self._outputs.append((now_s, output_tokens))
        self._output_tokens += output_tokens
        self.mean_output_tokens = self._output_tokens / len(self._outputs)

    def age(self, passed_s: float) -> list[Given]:
        """Drop what is not from after `passed_s`; the requests that counted until now."""
        self._load = None
        outputs, given = self._outputs, self._given
        output_s, given_s = outputs[0][0] if outputs else inf, given[0].at_s if given else inf
        if output_s <= passed_s:
            output_s = self._age_outputs(passed_s)
        dropped = []
        while given_s <= passed_s:
            each = given.popleft()
            if self.take_back(each):
                dropped.append(each)
            given_s = given[0].at_s if given else inf
        self.oldest_s = output_s if output_s < given_s else given_s
        return dropped

    def _age_outputs(self, passed_s: float) -> float:
        """Drop the lengths that are not from after `passed_s`; when the first of the others was seen."""
        outputs = self._outputs
        while outputs and outputs[0][0] <= passed_s:
            self._output_tokens -= outputs.popleft()[1]
        mean_tokens = self._output_tokens / len(outputs) if outputs else self._expected_output_tokens
        self.mean_output_tokens = float(mean_tokens)
        return outputs[0][0] if outputs else inf
