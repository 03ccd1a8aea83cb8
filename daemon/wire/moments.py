"""Points in time as the wire has them: ISO 8601, UTC, in milliseconds."""

from datetime import UTC, datetime


def iso(at_s: float) -> str:
    """A point in time, in seconds since the epoch."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")


def iso_or_none(at_s: float | None) -> str | None:
    """The same of one that may not have come."""
    return None if at_s is None else iso(at_s)
