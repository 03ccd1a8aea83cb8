"""How often one address may come without a valid key. Requests with a valid one are never counted."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from preble.daemon.tenancy.buckets import Bucket, Rate

_NETWORK_BITS = 64  # whoever has one IPv6 address has as many as these leave open


class FailureLimiter:
    """A bucket per address. Remembers the latest addresses only."""

    def __init__(self, *, per_minute: float, at_once: int, addresses_kept: int) -> None:
        self._rate = Rate(at_once, per_minute / 60)
        self._addresses_kept = addresses_kept
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def count(self, address: str, now_s: float) -> float | None:
        """Take note of a failure: None, or in how many seconds the next is due if this one was too many."""
        network = _network(address)
        bucket = self._buckets.setdefault(network, Bucket())
        self._buckets.move_to_end(network)
        if len(self._buckets) > self._addresses_kept:
            self._buckets.popitem(last=False)
        early_s = bucket.wait_s(1, self._rate, now_s)
        if not early_s:
            bucket.add(1, self._rate, now_s)
        return early_s or None

    def __len__(self) -> int:
        return len(self._buckets)


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
