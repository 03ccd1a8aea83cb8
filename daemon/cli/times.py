"""Points in time and spans of it, as operators write them."""

from datetime import UTC, datetime, timedelta

import click

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def since(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """`2026-11-21`, `2026-11-21T14:02+01:00`, `90m`, `24h`, `7d`. Without an offset it is local time."""
    if value is None:
        return None
    try:
        if value[-1:] in _UNITS_S:
            return datetime.now(UTC) - timedelta(seconds=_span_s(value))
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{value!r} is neither a time such as 2026-11-21T14:02 nor an age such as 90m, 24h, 7d"
        raise click.BadParameter(message) from None


def span_s(_: click.Context, __: click.Parameter, value: str) -> float:
    """`0`, `90s`, `30m`, `1h`, `7d`, in seconds."""
    try:
        found = 0.0 if value == "0" else _span_s(value)
    except (ValueError, KeyError):
        found = -1.0
    if not 0 <= found < float("inf"):
        raise click.BadParameter(f"{value!r} is no span of time such as 30m, 24h, 7d")
    return found


def _span_s(text: str) -> float:
    return float(text[:-1]) * _UNITS_S[text[-1:]]
