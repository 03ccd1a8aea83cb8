"""How long answers are: learnt from those that the same prefix, else the same tenant, else anybody got before."""

from collections.abc import Sequence

from preble.daemon.ids import TenantName
from preble.daemon.sched.index import Node, Stretch
from preble.daemon.sched.mean import Mean

_ENOUGH = 3
"""Answers after which a mean counts for more than the next wider one."""


class OutputLengths:
    """Expected output of one sequence, in tokens, for one model."""

    def __init__(self, expected_tokens: int) -> None:
        """`expected_tokens` is the guess before anything has been seen."""
        self._guess_tokens = expected_tokens
        self._all = Mean()
        self._tenants: dict[TenantName, Mean] = {}

    def expect(self, stretches: Sequence[Stretch], tenant: TenantName) -> float:
        """Of a prompt that matches `stretches`: what its deepest known prefix led to."""
        for node, _ in reversed(stretches):
            if node.outputs is not None and node.outputs.count >= _ENOUGH:
                return node.outputs.value
        for mean in (self._tenants.get(tenant), self._all):
            if mean is not None and mean.count >= _ENOUGH:
                return mean.value
        return float(self._guess_tokens)

    def learn(self, leaf: Node | None, tenant: TenantName, output_tokens: float) -> None:
        """An answer behind this chain was so long."""
        self._all.add(output_tokens)
        self._tenants.setdefault(tenant, Mean()).add(output_tokens)
        for node in leaf.path() if leaf is not None else ():
            if node.outputs is None:
                node.outputs = Mean()
            node.outputs.add(output_tokens)
