"""What a GPU has of a prefix, in a word."""

from preble.daemon.wire.pins import State


def state_of(there: int, whole: int, *, is_warming: bool = False, is_stale: bool = False) -> State:
    """`there` and `whole` are blocks; `is_stale` if what it had before is of no use any more."""
    if whole and there >= whole:
        return "warm"
    if is_warming:
        return "warming"
    if is_stale:
        return "stale"
    return "partial" if there else "cold"
