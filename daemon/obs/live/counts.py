"""What is counted for all requests, for each tenant and for each GPU, as things happen."""

from collections.abc import Iterable

from preble.daemon.obs.live.facts import End
from preble.daemon.obs.live.windows import Recent

_WAITS = ("waiting",)
_RUNS = ("running", "streaming")


class Line:
    """Counts for one tenant, or for all: what was, of late, and what is now."""

    __slots__ = ("recent", "running", "waiting")

    def __init__(self, n_slots: int) -> None:
        self.recent = Recent(n_slots)
        self.waiting = 0
        self.running = 0

    def moved(self, before: str | None, after: str | None) -> None:
        """A request went from one state to another."""
        self.waiting += (after in _WAITS) - (before in _WAITS)
        self.running += (after in _RUNS) - (before in _RUNS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing was, and nothing is."""
        return not (self.waiting or self.running or self.recent)


class Counts:
    """All counts of late. Tenants and GPUs of which there is nothing to count are forgotten."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self.all = Line(n_slots)
        self.tenants: dict[str, Line] = {}
        self.gpus: dict[str, Recent] = {}

    def tenant(self, name: str) -> Line:
        """The tenant's."""
        line = self.tenants.get(name)
        if line is None:
            line = self.tenants[name] = Line(self._n_slots)
        return line

    def gpu(self, name: str) -> Recent:
        """The GPU's."""
        recent = self.gpus.get(name)
        if recent is None:
            recent = self.gpus[name] = Recent(self._n_slots)
        return recent

    def roll(self) -> None:
        """A slot has passed."""
        for recent in [self.all.recent, *(line.recent for line in self.tenants.values()), *self.gpus.values()]:
            recent.roll()
        self.tenants = {name: line for name, line in self.tenants.items() if not line.is_idle}
        self.gpus = {name: recent for name, recent in self.gpus.items() if recent}

    def moved(self, tenant: str, before: str | None, after: str | None) -> None:
        """One of the tenant's requests went from one state to another."""
        for line in (self.all, self.tenant(tenant)):
            line.moved(before, after)

    def placed(self, mode: str) -> None:
        """A rule has placed a request."""
        self.all.recent.add("placed")
        self.all.recent.add(f"mode:{mode}")

    def arrived(self, tenant: str) -> None:
        """A request came, whatever became of it."""
        self.all.recent.add("arrived")
        self.tenant(tenant).recent.add("arrived")

    def ended(self, end: End) -> None:
        """A request has ended."""
        theirs = self.tenant(end.tenant).recent
        both = (self.all.recent, theirs)
        if end.state == "refused":
            for recent in both:
                recent.add("refused")
            theirs.add(f"refused:{end.refused_by or 'refused'}")
            return
        lines = [*both, self.gpu(end.gpu)] if end.gpu is not None else both
        for recent in lines:
            recent.add("ended")
            if end.state == "failed":
                recent.add("failed")
        self._count_tokens(end, lines)
        self._count_times(end, lines)

    def _count_tokens(self, end: End, lines: Iterable[Recent]) -> None:
        for recent in lines:
            recent.add("prompt_tokens", end.prompt_tokens)
            recent.add("output_tokens", end.output_tokens)
            if end.cached_tokens is not None:
                recent.add("cached_tokens", end.cached_tokens)
                recent.add("looked_up_tokens", end.prompt_tokens)
        if end.cached_tokens is not None and end.predicted_cached_tokens is not None:
            self.all.recent.add("misjudged_tokens", abs(end.cached_tokens - end.predicted_cached_tokens))
            self.all.recent.add("judged_tokens", end.prompt_tokens)

    def _count_times(self, end: End, lines: Iterable[Recent]) -> None:
        for recent in lines:
            if end.queue_ms is not None:
                recent.took("queue", end.queue_ms)
            if end.ttft_ms is not None:
                recent.took("ttft", end.ttft_ms)
        self.all.recent.took("latency", end.latency_ms)
        if end.ttft_ms is not None and end.output_tokens > 1:
            self.all.recent.took("tpot", (end.latency_ms - end.ttft_ms) / (end.output_tokens - 1))
