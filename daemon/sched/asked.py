"""What engines are asked of a request that is to be placed."""

from collections.abc import Set
from typing import NamedTuple

from preble.daemon.ids import TenantName
from preble.daemon.sched.index import Node


class Asked(NamedTuple):
    """Of a request that is to be placed, what every engine goes by: worked out once."""

    n_tokens: int
    n_sequences: int
    output_tokens: int
    """Expected, of all its sequences."""
    lane: TenantName
    path: Set[Node]
    """The nodes that the prompt goes through, which it would not evict. A set keeps their hashes for all engines."""
