"""Who changed what: the material of the audit."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from preble.daemon.ids import RequestId, TenantName

T = TypeVar("T")

LOCAL = "local"
"""The author of what the daemon does by itself when it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who asks for a change, and when."""

    name: str
    """The id of an operator's key, or `LOCAL`."""
    at_s: float
    """Seconds since the epoch."""
    request_id: RequestId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One administrative change, as it is remembered. Holds no secrets."""

    action: str
    target: str
    """The tenant, key or GPU that is changed."""
    tenant: TenantName | None
    """Whose it is."""
    before: dict[str, Any] | None
    """None: there was none."""
    after: dict[str, Any] | None
    """None: there is none any more."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a change led to, or would have."""

    value: T
    change: Change
    """What was changed; nothing, if `before` and `after` are the same."""

    @property
    def is_new(self) -> bool:
        """Whether the value was not there before."""
        return self.change.before is None
