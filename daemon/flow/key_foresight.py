"""What revoking a key would do, on what there is now; nothing is changed."""

from collections.abc import Iterator
from dataclasses import dataclass

from preble.daemon.tenancy.model import ApiKey
from preble.daemon.wire.moments import iso


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyForesight:
    """Of one key that is not revoked."""

    key: ApiKey
    last_used_s: float | None
    """Seconds since the epoch, of the ledger; None: there is no use of it."""
    running: int
    waiting: int
    """Its requests that are with an engine, and those that are not yet."""
    others: int
    """Keys of its owner that work beside it."""
    is_asking: bool
    """Whether it is the very key of who asks."""


def revoked(seen: KeyForesight) -> list[str]:
    """What revoking it would do, in sentences."""
    return [*_whose(seen), _used(seen), _requests(seen), *_left(seen)]


def _whose(seen: KeyForesight) -> Iterator[str]:
    key = seen.key
    owner = "an operator's key" if key.tenant is None else f"a key of {key.tenant}"
    name = f" named {key.name!r}" if key.name else ""
    yield f"It is {owner}{name}: {_shown(key)}, made {_minute(key.created_at_s)}."
    yield f"Its scopes are {', '.join(sorted(key.scopes))}."


def _used(seen: KeyForesight) -> str:
    if seen.key.tenant is None:
        return "What was changed with it is in the audit."
    if seen.last_used_s is None:
        return "No use of it is on record."
    return f"It was last used {_minute(seen.last_used_s)}."


def _requests(seen: KeyForesight) -> str:
    if not seen.running and not seen.waiting:
        return "None of its requests runs or waits; whatever comes with it from then on is refused (401)."
    run, wait = "runs" if seen.running == 1 else "run", "waits" if seen.waiting == 1 else "wait"
    return (
        f"Of its requests {seen.running} {run} and {seen.waiting} {wait}: they go on to their end; "
        "whatever comes with it from then on is refused (401)."
    )


def _left(seen: KeyForesight) -> Iterator[str]:
    if not seen.others:
        yield f"{seen.key.tenant or 'The operator'} has no other key that works."
    if seen.is_asking:
        yield "It is the key that this is asked with."


def _shown(key: ApiKey) -> str:
    """As its owner knows it, without its secret."""
    return f"preble_{'op' if key.tenant is None else 'live'}_{key.id}_…{key.last4}"


def _minute(at_s: float) -> str:
    return f"{iso(at_s)[:16].replace('T', ' ')} (UTC)"
