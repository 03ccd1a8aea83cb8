"""One finding of `preble doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    status: Literal["ok", "warn", "fail"]
    """`fail`: the daemon cannot start or serve like this. `warn`: it can, but worse or less safely than it might."""
    name: str
    detail: str
    mend: str = ""


def ok(name: str, detail: str) -> Check:
    """All is well."""
    return Check(status="ok", name=name, detail=detail)


def warn(name: str, detail: str, mend: str) -> Check:
    """It works, but not as well as it might."""
    return Check(status="warn", name=name, detail=detail, mend=mend)


def fail(name: str, detail: str, mend: str) -> Check:
    """It does not work."""
    return Check(status="fail", name=name, detail=detail, mend=mend)
