"""How often Python looks for cycles: rarely, in a process that keeps millions of objects which are in none.

With Python's own thresholds, a full collection held everything up for a quarter of a second at a million indexed
blocks, and younger ones took a fifth of the time that decisions took (docs/performance.md).
"""

import gc

_YOUNG = 20_000
"""New objects, less those that are gone, before the young ones are looked at."""
_MIDDLE, _OLD = 20, 1_000
"""Collections of the generation before."""


def collect_rarely() -> None:
    """Take what is there out of later collections, and look for cycles less often from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def collect_early() -> None:
    """Look for cycles at half the usual number of new objects: for a host, at a moment at which no request waits."""
    young, middle, old = gc.get_count()
    if young >= _YOUNG // 2:
        gc.collect(2 if old >= _OLD else 1 if middle >= _MIDDLE else 0)
