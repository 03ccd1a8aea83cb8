"""How often one address may come without a valid key. Requests with a valid one are never counted."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

_NETWORK_BITS = 64  # whoever has one IPv6 address has as many as these leave open


class FailureLimiter:
    """A token bucket per address, kept as the time at which it is full again. Remembers the latest addresses only."""

    def __init__(self, *, per_minute: float, at_once: int, addresses_kept: int) -> None:
        self._interval_s = 60 / per_minute
        self._burst_s = (at_once - 1) * self._interval_s
        self._addresses_kept = addresses_kept
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def count(self, address: str, now_s: float) -> float | None:
        """Take note of a failure: None, or in how many seconds the next is due if this one was too many."""
        network = _network(address)
        full_at_s = max(self._full_at_s.get(network, now_s), now_s)
        early_s = full_at_s - self._burst_s - now_s
        self._full_at_s[network] = full_at_s + (self._interval_s if early_s <= 0 else 0)
        self._full_at_s.move_to_end(network)
        if len(self._full_at_s) > self._addresses_kept:
            self._full_at_s.popitem(last=False)
        return early_s if early_s > 0 else None

    def __len__(self) -> int:
        return len(self._full_at_s)


def _network(address: str) -> str:
    """What an address is counted as: itself, or its network where addresses are plenty."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(int(found) >> _NETWORK_BITS)
