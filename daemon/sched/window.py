"""What one GPU was given within the last H seconds: the L of E2, kept incrementally and aged when it is looked at.

Sums are whole microseconds and tokens, so that what was added is removed to the last unit.
"""

from collections import deque
from collections.abc import Iterator

from preble.daemon.sched.node import Node


class Given:
    """One request given to the GPU. It counts until the window has passed it, or until it is taken back."""

    __slots__ = ("at_s", "counts", "leaf", "prefill_us")

    def __init__(self, at_s: float, prefill_us: int, leaf: Node | None) -> None:
        self.at_s = at_s
        self.prefill_us = prefill_us
        self.leaf = leaf
        self.counts = True


class LoadWindow:
    """Requests given to one GPU, and the output lengths it produced, over `window_s` seconds."""

    def __init__(self, window_s: float, expected_output_tokens: int) -> None:
        self._window_s = window_s
        self._expected_output_tokens = expected_output_tokens
        self._given: deque[Given] = deque()
        self._outputs: deque[tuple[float, int]] = deque()
        self._prefill_us = 0
        self._output_tokens = 0
        self.n_requests = 0

    def give(self, now_s: float, prefill_ms: float, leaf: Node | None) -> Given:
        """Count a request that was placed on the GPU."""
        given = Given(now_s, round(prefill_ms * 1000), leaf)
        self._given.append(given)
        self._prefill_us += given.prefill_us
        self.n_requests += 1
        return given

    def take_back(self, given: Given) -> bool:
        """Uncount a request that will not run here after all; False if it no longer counted."""
        if not given.counts:
            return False
        given.counts = False
        self._prefill_us -= given.prefill_us
        self.n_requests -= 1
        return True

    def finish(self, now_s: float, output_tokens: int) -> None:
        """Learn how long an answer was."""
        self._outputs.append((now_s, output_tokens))
        self._output_tokens += output_tokens

    def age(self, now_s: float) -> Iterator[Given]:
        """Drop what is older than the window, and yield the requests that counted until now."""
        oldest_s = now_s - self._window_s
        while self._outputs and self._outputs[0][0] <= oldest_s:
            self._output_tokens -= self._outputs.popleft()[1]
        while self._given and self._given[0].at_s <= oldest_s:
            given = self._given.popleft()
            if self.take_back(given):
                yield given

    @property
    def prefill_ms(self) -> float:
        """Prefill time of all requests in the window."""
        return self._prefill_us / 1000

    @property
    def mean_output_tokens(self) -> float:
        """Mean output length seen in the window, or the configured guess when none was."""
        if not self._outputs:
            return float(self._expected_output_tokens)
        return self._output_tokens / len(self._outputs)
