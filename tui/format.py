"""Numbers, times and text as the console shows them: fixed width, `–` for what is not known.

Below 10 000 they are exact to the unit, from there on they have three significant digits.

Units stand in the column's header or beside the number, never in here, unless a function's name says so.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from preble.daemon.wire import percents

UNKNOWN = "–"
BLOCKS = "▁▂▃▄▅▆▇"  # not the full block, so that rows stay apart
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_ASCII = str.maketrans(
    "–…·●◐○✕▲▼▶◀▸▾←→│─█▓▒░×≠✓■□«»≈━╸▁▂▃▄▅▆▇⏎µ",
    '-~.*oOx^v><>v<>|-##=.x!+#.""~==_..-=+*;u',
)


def number(value: float | None) -> str:
    """In at most five characters, from 10 000 on with a suffix: `0.42`, `37`, `3 982`, `41.2k`."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size < 9_999.5:
        return _exact(value)
    scale, suffix = next(pair for pair in _SUFFIXES if size >= pair[0] * 0.9995)
    return _three_digits(value / scale) + suffix


def count(value: int | None) -> str:
    """Likewise of what is counted."""
    return UNKNOWN if value is None else number(value)


def things(number: int, name: str) -> str:
    """So many of what is called that: `1 row`, `2 rows`."""
    return f"{number} {name}{'s' * (number != 1)}"


def percent(ratio: float | None) -> str:
    """A ratio of 0 to 1 as whole percents, without the sign."""
    return UNKNOWN if ratio is None else f"{100 * ratio:.0f}"


def share(ratio: float | None) -> str:
    """Likewise with the sign, for sentences: `47 %`."""
    return UNKNOWN if ratio is None else percents.percent(ratio)


def milliseconds(value_ms: float | None) -> str:
    """With thousands apart, in at most six characters: `3 982`, `41 200`; from 100 s on `412k`."""
    if value_ms is None:
        return UNKNOWN
    if value_ms >= 99_950:
        return number(value_ms)
    return _exact(value_ms if value_ms < 9_999.5 else round(value_ms, -2))


def duration(value_ms: float | None) -> str:
    """With its unit, for sentences: `90 ms`, `4.2 s`, `3 min`."""
    if value_ms is None:
        return UNKNOWN
    if value_ms < 999.5:
        return f"{_three_digits(value_ms)} ms"
    if value_ms < 119_500:
        return f"{_three_digits(value_ms / 1000)} s"
    return f"{value_ms / 60_000:.0f} min"


def age(value_s: float | None) -> str:
    """How long ago, with its unit: `0.4s`, `31s`, `4m`, `2h`, `3d`."""
    if value_s is None:
        return UNKNOWN
    value_s = max(value_s, 0.0)
    if value_s < 9.95:
        return f"{value_s:.1f}s"
    for limit_s, scale_s, unit in ((99.5, 1, "s"), (5970, 60, "m"), (172_000, 3600, "h")):
        if value_s < limit_s:
            return f"{value_s / scale_s:.0f}{unit}"
    return f"{value_s / 86_400:.0f}d"


def clock(at: str | None, *, tenths: bool = False) -> str:
    """The time of day (UTC) of an ISO 8601 time."""
    moment = point(at)
    if moment is None:
        return UNKNOWN
    return f"{moment:%H:%M:%S}" + (f".{moment.microsecond // 100_000}" if tenths else "")


def point(at: str | None) -> datetime | None:
    """An ISO 8601 time; None for what is none."""
    try:
        moment = datetime.fromisoformat(at) if at else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """From one ISO 8601 time to another."""
    start, end = point(earlier), point(later)
    return None if start is None or end is None else (end - start).total_seconds()


def bar(ratio: float | None, width: int) -> tuple[str, str]:
    """A bar of `width` characters that is full at 1: its full and its empty part."""
    if ratio is None:
        return "", " " * width
    halves = round(min(max(ratio, 0.0), 1.0) * width * 2)
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return full, "─" * (width - len(full))


def spark(values: Sequence[float | None], width: int, top: float | None = None) -> str:
    """The last `width` values as one row of blocks from zero to `top`, else to their greatest; a gap where unknown."""
    latest = list(values)[-width:] if width else []
    known = [value for value in latest if value is not None]
    scale = top if top is not None else max(known, default=0.0)
    return "".join(_block(value, scale) for value in latest).rjust(width)


def resample(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most `width` values, each the mean of those known among its share of them."""
    if len(values) <= width:
        return list(values)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [_mean(values[start:end]) for start, end in pairwise(edges)]


def clean(text: str) -> str:
    """Text without terminal escapes and control characters, on one line."""
    return _CONTROL.sub("·", _ESCAPE.sub("", text).replace("\t", " ").replace("\n", "⏎"))


def shorten(text: str, width: int) -> str:
    """Cut to `width` characters, the last of them `…` if something is missing."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"[:width]


def to_ascii(text: str) -> str:
    """What terminals without Unicode can show of it."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def _exact(value: float) -> str:
    return _three_digits(value) if abs(value) < 999.5 else f"{value:,.0f}".replace(",", " ")


def _three_digits(value: float) -> str:
    size = abs(value)
    if size >= 99.95 or value == int(value):
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}".rstrip("0").rstrip(".") if size >= 0.005 else "0"


def _block(value: float | None, top: float) -> str:
    if value is None:
        return " "
    level = 0.0 if top <= 0 else min(max(value / top, 0.0), 1.0)
    return BLOCKS[min(int(level * len(BLOCKS)), len(BLOCKS) - 1)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
