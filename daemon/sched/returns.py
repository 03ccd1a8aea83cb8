"""Sessions that will come back: an answer that ends in tool calls is followed by its own prompt, it and the result.

An engine takes such an answer for the end of a request, and the prefix for one that was used once (InferCept, Abhyankar
et al. 2024). So the return is expected here, for as long as the tenant's tools usually take, and until it comes, or
should have come long ago, it counts as a use of its prefix: what evicting it would cost then includes it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from preble.daemon.ids import GpuId, TenantName
from preble.daemon.sched.index import Node, PrefixIndex, Stretch
from preble.daemon.sched.mean import Mean

_PATIENCE = 4.0
"""So many times the usual time a return is waited for."""
_FIRST_GUESS_S = 20.0
"""The usual time before any return was seen: InferCept's tools take from 0.1 ms to 30 s."""
_LEAST_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class ReturnCounts:
    """What became of expected returns."""

    expected: int
    """Still."""
    returned: int
    found: int
    """Of those returned, the ones whose whole prefix was cached where they were sent."""
    expired: int
    """Given up."""

    @property
    def found_ratio(self) -> float | None:
        """Share of those returned that found their prefix; None before the first."""
        return self.found / self.returned if self.returned else None


@dataclass(frozen=True, slots=True)
class Expected:
    """A session that will come back."""

    leaf: Node
    """Where the prompt ended that was answered."""
    prefix_blocks: int
    """Up to there."""
    gpu: GpuId
    tenant: TenantName
    since_s: float
    until_s: float


class Returns:
    """Expected returns to the engines of one model. All times are the caller's."""

    def __init__(self, index: PrefixIndex, longest_s: float) -> None:
        """No return is waited for longer than `longest_s`."""
        self._index = index
        self._longest_s = longest_s
        self._expected: OrderedDict[Node, Expected] = OrderedDict()
        """The latest for each prompt, in the order in which they were first expected."""
        self._times: dict[TenantName, Mean] = {}
        self._returned = self._found = self._expired = 0

    @property
    def counts(self) -> ReturnCounts:
        """So far."""
        return ReturnCounts(len(self._expected), self._returned, self._found, self._expired)

    def expect(self, leaf: Node, gpu: GpuId, tenant: TenantName, now_s: float) -> None:
        """An answer behind this chain ended in tool calls."""
        self.age(now_s)
        before = self._expected.pop(leaf, None)
        if before is not None:
            self._index.disuse(leaf, before.gpu)
        usual_s = self._times[tenant].value if tenant in self._times else _FIRST_GUESS_S
        until_s = now_s + min(self._longest_s, max(_LEAST_PATIENCE_S, _PATIENCE * usual_s))
        self._index.use(leaf, gpu)
        self._expected[leaf] = Expected(leaf, leaf.end, gpu, tenant, now_s, until_s)

    def arrived(self, stretches: Sequence[Stretch], now_s: float) -> Expected | None:
        """A prompt came that matches `stretches`; the expected return that it is, if it is one."""
        self.age(now_s)
        for node, n_blocks in reversed(stretches) if self._expected else ():
            if node in self._expected and n_blocks == node.n_blocks:
                expected = self._expected.pop(node)
                self._times.setdefault(expected.tenant, Mean()).add(now_s - expected.since_s)
                self._returned += 1
                self._index.disuse(node, expected.gpu)
                return expected
        return None

    def found(self) -> None:
        """The return just seen is sent to where its whole prefix is cached."""
        self._found += 1

    def age(self, now_s: float) -> None:
        """Give up those that should have come long ago; those of more patient tenants wait for the ones before them."""
        while self._expected and (oldest := next(iter(self._expected.values()))).until_s <= now_s:
            del self._expected[oldest.leaf]
            self._expired += 1
            self._index.disuse(oldest.leaf, oldest.gpu)
