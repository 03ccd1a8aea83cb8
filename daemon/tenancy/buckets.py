"""What of an allowance is used up: buckets that empty continuously, and budgets of calendar days and months in UTC."""

from calendar import timegm
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

_DAY_S = 86_400.0
_MEAN_MONTH_S = 365.2425 / 12 * _DAY_S
_NOTHING_S = 1e-6  # what floats lose must not turn away somebody who has waited as long as told


@dataclass(frozen=True, slots=True)
class Rate:
    """An allowance that comes back continuously."""

    at_once: float
    """What an empty bucket takes."""
    per_s: float

    @classmethod
    def per_minute(cls, allowance: float) -> "Rate":
        """A minute's worth may come at once."""
        return cls(allowance, allowance / 60)


class Bucket:
    """What was spent and has not come back yet. The rate is told each time, so that a new one counts at once."""

    __slots__ = ("_at_s", "_spent")

    def __init__(self) -> None:
        self._spent = 0.0
        self._at_s = 0.0

    def spent(self, rate: Rate, now_s: float) -> float:
        """What is taken now."""
        return max(self._spent - max(now_s - self._at_s, 0.0) * rate.per_s, 0.0)

    def add(self, amount: float, rate: Rate, now_s: float) -> None:
        """Take, even beyond what there is; or, if negative, give back."""
        self._spent = max(self.spent(rate, now_s) + amount, 0.0)
        self._at_s = now_s

    def wait_s(self, amount: float, rate: Rate, now_s: float) -> float:
        """In how many seconds so much can be taken: 0 if now, infinite if it never fits."""
        if amount > rate.at_once:
            return inf
        early_s = (self.spent(rate, now_s) + amount - rate.at_once) / rate.per_s
        return early_s if early_s > _NOTHING_S else 0.0


@dataclass(frozen=True, slots=True)
class Period:
    """From one second since the epoch until before another."""

    start_s: float
    end_s: float


def day_at(utc_s: float) -> Period:
    """The UTC day around these seconds since the epoch."""
    start_s = utc_s // _DAY_S * _DAY_S
    return Period(start_s, start_s + _DAY_S)


def month_at(utc_s: float) -> Period:
    """The calendar month around them, in UTC."""
    number = int(utc_s // _MEAN_MONTH_S)
    while _month_start_s(number) > utc_s:
        number -= 1
    while _month_start_s(number + 1) <= utc_s:
        number += 1
    return Period(_month_start_s(number), _month_start_s(number + 1))


def _month_start_s(number: int) -> float:
    """Months are counted from January 1970."""
    return float(timegm((1970 + number // 12, number % 12 + 1, 1, 0, 0, 0)))


class Budget:
    """Tokens of the latest period. What belongs to an earlier one has no say any more."""

    __slots__ = ("_period", "_period_at", "_spent")

    def __init__(self, period_at: Callable[[float], Period]) -> None:
        self._period_at = period_at
        self._period = Period(0.0, 0.0)
        self._spent = 0

    def period(self, now_s: float) -> Period:
        """The one that counts now, in seconds since the epoch."""
        if now_s >= self._period.end_s:
            self._period = self._period_at(now_s)
            self._spent = 0
        return self._period

    def spent(self, now_s: float) -> int:
        """In the period that counts now."""
        self.period(now_s)
        return self._spent

    def add(self, tokens: int, at_s: float) -> None:
        """Count tokens that were asked for at that time; if negative, give them back."""
        if at_s >= self.period(at_s).start_s:
            self._spent = max(self._spent + tokens, 0)
