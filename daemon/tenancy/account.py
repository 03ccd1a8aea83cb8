"""What one tenant, or one key, has taken of its limits."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from preble.daemon.tenancy.buckets import Bucket, Budget, Rate, day_at, month_at
from preble.daemon.wire.settings import NO_LIMITS, Limits


class Limit(StrEnum):
    """Limits of which something is taken. Their values are the fields of `Limits`."""

    REQUESTS = "requests_per_minute"
    INPUT = "input_tokens_per_minute"
    OUTPUT = "output_tokens_per_minute"
    CONCURRENT = "concurrent_requests"
    QUEUED = "queued_requests"
    DAY = "tokens_per_day"
    MONTH = "tokens_per_month"


RATES = (Limit.REQUESTS, Limit.INPUT, Limit.OUTPUT)
BUDGETS = (Limit.DAY, Limit.MONTH)


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, on both clocks, in seconds: rates must not follow when somebody sets the clock, and days must."""

    steady_s: float
    utc_s: float
    """Since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What a request takes."""

    requests: float = 0
    input_tokens: float = 0
    """As they count for the rate: cached ones may count less."""
    output_tokens: int = 0
    budget_tokens: int = 0

    def of(self, limit: Limit) -> float:
        """What it takes of a rate or a budget."""
        match limit:
            case Limit.REQUESTS:
                return self.requests
            case Limit.INPUT:
                return self.input_tokens
            case Limit.OUTPUT:
                return self.output_tokens
        return self.budget_tokens


NOTHING = Amounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How a limit stands."""

    limit: Limit
    of: str
    """Whose it is, in words."""
    allowed: int
    spent: float
    wanted: float
    wait_s: float
    """Until what is wanted fits: 0 if it does, infinite if it never will."""
    reset_s: float
    """Until all of it is there again."""

    @property
    def remaining(self) -> int:
        """What is left, in whole ones."""
        return max(int(self.allowed - self.spent), 0)


class Account:
    """Counts for whoever has the limits; those are as they were when they were last looked up."""

    def __init__(self, of: str, since_s: float) -> None:
        self.of = of
        self.since_s = since_s
        """When the tenant or key came to be: another of the same name has an account of its own."""
        self.limits: Limits = NO_LIMITS
        self.running = 0
        self.queued = 0
        self._buckets = {limit: Bucket() for limit in RATES}
        self._budgets = {Limit.DAY: Budget(day_at), Limit.MONTH: Budget(month_at)}

    def allowed(self, limit: Limit) -> int | None:
        """None: as much as one likes."""
        found: int | None = getattr(self.limits, limit)
        return found

    def hold(self, held: dict[Limit, float], amounts: Amounts, at: Moment, now: Moment) -> None:
        """Have a request that came in `at` take so much in all. `held` says what it has taken, and is kept true.

        Rates that are not set are not counted. Budgets are, so that one that is set later knows what was spent.
        """
        for limit, bucket in self._buckets.items():
            allowed = self.allowed(limit)
            if allowed is not None:
                bucket.add(amounts.of(limit) - held.get(limit, 0), Rate.per_minute(allowed), now.steady_s)
                held[limit] = amounts.of(limit)
        for limit, budget in self._budgets.items():
            budget.add(amounts.budget_tokens - int(held.get(limit, 0)), at.utc_s)
            held[limit] = amounts.budget_tokens

    def remember(self, limit: Limit, tokens: int, at_s: float) -> None:
        """Count in a budget what was spent before the daemon was started, at that time since the epoch."""
        self._budgets[limit].add(tokens, at_s)

    def levels(self, wanted: Amounts, now: Moment) -> Iterator[Level]:
        """How the rates and budgets that are set stand towards what is wanted."""
        for limit in RATES:
            allowed = self.allowed(limit)
            if allowed is not None:
                yield self._rate_level(limit, allowed, wanted.of(limit), now.steady_s)
        for limit in BUDGETS:
            allowed = self.allowed(limit)
            if allowed is not None:
                yield self._budget_level(limit, allowed, wanted.of(limit), now.utc_s)

    def _rate_level(self, limit: Limit, allowed: int, wanted: float, now_s: float) -> Level:
        bucket, rate = self._buckets[limit], Rate.per_minute(allowed)
        spent = bucket.spent(rate, now_s)
        wait_s = bucket.wait_s(wanted, rate, now_s) if wanted else 0.0
        return Level(
            limit=limit,
            of=self.of,
            allowed=allowed,
            spent=spent,
            wanted=wanted,
            wait_s=wait_s,
            reset_s=spent / rate.per_s,
        )

    def _budget_level(self, limit: Limit, allowed: int, wanted: float, now_s: float) -> Level:
        budget = self._budgets[limit]
        spent, reset_s = budget.spent(now_s), budget.period(now_s).end_s - now_s
        wait_s = 0.0 if spent + wanted <= allowed else reset_s if wanted <= allowed else inf
        return Level(
            limit=limit, of=self.of, allowed=allowed, spent=spent, wanted=wanted, wait_s=wait_s, reset_s=reset_s
        )
