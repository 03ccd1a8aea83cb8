"""Holds requests to the limits of their tenant and their key: all must pass, and nothing is taken unless all do.

A request enters as one per minute, takes a place among the concurrent ones, and needs a budget that is not spent. Once
its prompt is read it takes the prompt's tokens and the most that it may answer, and at its end gives back what it did
not need: whoever was told when to come back never finds the room taken by answers that are longer than foreseen. Where
nobody says how long an answer may be, `assumed_output_tokens` are taken, and what exceeds them when it is produced.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil, isinf
from typing import TypeVar

from preble.daemon.config import LimitsConfig
from preble.daemon.errors import InvalidRequest, QuotaExhausted, RateLimited
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.tenancy.account import BUDGETS, NOTHING, Account, Amounts, Level, Limit, Moment
from preble.daemon.tenancy.directory import Directory
from preble.daemon.wire.settings import NO_LIMITS, Limits

_Name = TypeVar("_Name", TenantName, KeyId)
_WORDS = {
    Limit.REQUESTS: "requests per minute",
    Limit.INPUT: "input tokens per minute",
    Limit.OUTPUT: "output tokens per minute",
    Limit.CONCURRENT: "concurrent requests",
    Limit.QUEUED: "waiting requests",
    Limit.DAY: "tokens per day (UTC)",
    Limit.MONTH: "tokens per month (UTC)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a request really used. Cached ones are among those of the prompt."""

    prompt: int
    cached: int
    output: int


NO_TOKENS = Tokens(prompt=0, cached=0, output=0)


class Limiter:
    """Knows what every tenant and key has taken. As many accounts as there are of these, at most."""

    def __init__(self, directory: Directory, config: LimitsConfig) -> None:
        self._directory = directory
        self._config = config
        self._tenants: dict[TenantName, Account] = {}
        self._keys: dict[KeyId, Account] = {}

    def limits(self, tenant: TenantName, key_id: KeyId) -> tuple[Limits, Limits]:
        """Those of the tenant and of the key, as they are now."""
        found, key = self._directory.find(tenant), self._directory.key(key_id)
        return found.settings.limits if found else NO_LIMITS, key.limits if key else NO_LIMITS

    def accounts(self, tenant: TenantName, key_id: KeyId) -> tuple[Account, Account]:
        """Theirs, with the limits as they are now."""
        found, key = self._directory.remembered(tenant), self._directory.key(key_id)
        theirs = _account(self._tenants, tenant, f"tenant {tenant!r}", found.created_at_s if found else 0.0)
        its = _account(self._keys, key_id, f"key {key_id!r}", key.created_at_s if key else 0.0)
        theirs.limits, its.limits = self.limits(tenant, key_id)
        return theirs, its

    def remember(self, limit: Limit, tenant: TenantName, key_id: KeyId, tokens: int, at_s: float) -> None:
        """Count in the budget of a day or a month what was spent before the daemon was started."""
        for account in self.accounts(tenant, key_id):
            account.remember(limit, tokens, at_s)

    def budget_used(self, tenant: TenantName, limits: Limits, now: Moment) -> float | None:
        """Of a tenant's budget of the day or the month, whichever is nearer its end, the share that is used.

        None if its `limits` set neither.
        """
        account = self._tenants.get(tenant) or Account("", 0.0)
        account.limits = limits
        budgets = [level for level in account.levels(NOTHING, now) if level.limit in BUDGETS]
        return max((level.spent / level.allowed for level in budgets), default=None)

    def enter(self, tenant: TenantName, key_id: KeyId, body_bytes: int, now: Moment) -> "Pass":
        """Let a request in whose prompt nobody has read yet. Raises `RateLimited`.

        When it may come back is told for a prompt as long as such a body has as a rule.
        """
        accounts = self.accounts(tenant, key_id)
        if short := _short(accounts, Amounts(requests=1, budget_tokens=1), now):
            guess = Amounts(input_tokens=body_bytes / self._config.bytes_per_token)
            later = [level for level in _short(accounts, guess, now) if not isinf(level.wait_s)]
            raise _refusal(short, accounts, now, later=later)
        for account in accounts:
            self._refuse_full(account, Limit.CONCURRENT, account.running, accounts, now)
        return Pass(self, tenant, key_id, accounts, now)

    def refuse_waiting(self, accounts: tuple[Account, Account], now: Moment) -> None:
        """Raise `RateLimited` if one more may not wait."""
        for account in accounts:
            self._refuse_full(account, Limit.QUEUED, account.queued, accounts, now)

    def _refuse_full(
        self, account: Account, limit: Limit, there: int, accounts: tuple[Account, Account], now: Moment
    ) -> None:
        allowed = account.allowed(limit)
        if allowed is not None and there >= allowed:
            raise RateLimited(
                f"Limit of {_WORDS[limit]} reached for {account.of}: {allowed} allowed, {there} there.",
                retry_after_s=self._config.busy_retry_s,
                limit=limit,
                headers=_headers(accounts, now),
            )

    def foreseen(
        self, accounts: Iterable[Account], prompt_tokens: int, output_tokens: int, *, bounded: bool
    ) -> Amounts:
        """What a request takes whose prompt is known, and which may answer with so much.

        `bounded` if somebody wanted that, and it is not just what the model leaves. Else no more is taken than can be.
        """
        output = output_tokens
        if not bounded:
            output = min(output, self._config.assumed_output_tokens, *_fitting(accounts, prompt_tokens))
        return Amounts(
            requests=1, input_tokens=prompt_tokens, output_tokens=output, budget_tokens=prompt_tokens + output
        )

    def used(self, tokens: Tokens) -> Amounts:
        """What a request takes that used so much."""
        uncached = tokens.prompt - tokens.cached
        return Amounts(
            requests=1,
            input_tokens=uncached + self._config.cached_token_ratio * tokens.cached,
            output_tokens=tokens.output,
            budget_tokens=tokens.prompt + tokens.output,
        )


class Pass:
    """One request's hold on the limits, from when it enters until it ends, once."""

    def __init__(
        self, limiter: Limiter, tenant: TenantName, key_id: KeyId, accounts: tuple[Account, Account], now: Moment
    ) -> None:
        self._limiter = limiter
        self._tenant = tenant
        self._key_id = key_id
        self._accounts = accounts
        self._entered = now
        self._taken = NOTHING
        self._held: tuple[dict[Limit, float], ...] = tuple({} for _ in accounts)
        self._bounded = False
        self._waits = False
        self._ended = False
        for account in accounts:
            account.running += 1
        self._take(Amounts(requests=1), now)

    def longest_answer(self, prompt_tokens: int, output_tokens: int, n_sequences: int, *, asked: bool) -> int:
        """Tokens that each of its sequences may answer with, if without limits it were `output_tokens`.

        `asked` if its client wants as many. Raises `InvalidRequest` for more than one request may have.
        """
        self._refresh()
        for account in self._accounts:
            most = account.limits.max_prompt_tokens
            if most is not None and prompt_tokens > most:
                raise _too_long("prompt", prompt_tokens, most, account)
            most = account.limits.max_output_tokens
            if most is not None and output_tokens * n_sequences > most:
                if asked or most < n_sequences:
                    raise _too_long("answer", output_tokens * n_sequences if asked else n_sequences, most, account)
                output_tokens = most // n_sequences
        return output_tokens

    def charge(self, prompt_tokens: int, output_tokens: int, *, bounded: bool, now: Moment) -> None:
        """Take the tokens. Raises `RateLimited`, and then nothing is taken: not even what it entered with.

        `output_tokens` is the most that may be answered; `bounded` if its client or an operator wanted it so.
        """
        self._refresh()
        foreseen = self._limiter.foreseen(self._accounts, prompt_tokens, output_tokens, bounded=bounded)
        if short := _short(self._accounts, replace(foreseen, requests=0), now):
            self.refuse(now)
            raise _refusal(short, self._accounts, now)
        self._bounded = bounded
        self._take(foreseen, now)

    def wait(self, now: Moment, *, again: bool) -> None:
        """It has to wait for an engine. Raises `RateLimited` if it may not; it may `again`, when its engine failed."""
        if not again:
            self._refresh()
            self._limiter.refuse_waiting(self._accounts, now)
        self._count_waiting(waits=True)

    def start(self) -> None:
        """It has been sent to an engine, or will never be."""
        self._count_waiting(waits=False)

    def produced(self, output_tokens: int, now: Moment) -> None:
        """It has answered with about so much until now."""
        taken = self._taken
        more = output_tokens - taken.output_tokens
        if more > 0 and not self._bounded:
            self._take(replace(taken, output_tokens=output_tokens, budget_tokens=taken.budget_tokens + more), now)

    def end(self, tokens: Tokens, now: Moment) -> None:
        """It is over, and used so much. It counts as a request."""
        self._end(self._limiter.used(tokens), now)

    def refuse(self, now: Moment) -> None:
        """It was refused, and counts for nothing."""
        self._end(NOTHING, now)

    @property
    def ended(self) -> bool:
        """Whether all is given back that it does not keep."""
        return self._ended

    def headers(self, now: Moment) -> dict[str, str]:
        """What its client is told of the limits."""
        self._refresh()
        return _headers(self._accounts, now)

    def _end(self, amounts: Amounts, now: Moment) -> None:
        assert not self._ended, "a request ends once"
        self._ended = True
        self.start()
        for account in self._accounts:
            account.running -= 1
        self._take(amounts, now)

    def _take(self, amounts: Amounts, now: Moment) -> None:
        self._taken = amounts
        for account, held in zip(self._accounts, self._held, strict=True):
            account.hold(held, amounts, self._entered, now)

    def _count_waiting(self, *, waits: bool) -> None:
        for account in self._accounts:
            account.queued += waits - self._waits
        self._waits = waits

    def _refresh(self) -> None:
        for account, limits in zip(self._accounts, self._limiter.limits(self._tenant, self._key_id), strict=True):
            account.limits = limits


def _account(accounts: dict[_Name, Account], name: _Name, of: str, since_s: float) -> Account:
    account = accounts.get(name)
    if account is None or account.since_s != since_s:
        account = accounts[name] = Account(of, since_s)
    return account


def _too_long(what: str, tokens: int, most: int, account: Account) -> InvalidRequest:
    message = f"The {what} would have {tokens} tokens; {account.of} may have {most} in one request."
    return InvalidRequest(message, code=f"{what}_too_long")


def _fitting(accounts: Iterable[Account], prompt_tokens: int) -> Iterator[int]:
    """The longest answers that the limits could ever let through, at least one token."""
    for account in accounts:
        for limit in (Limit.OUTPUT, *BUDGETS):
            allowed = account.allowed(limit)
            if allowed is not None:
                yield max(allowed - (prompt_tokens if limit in BUDGETS else 0), 1)


def _short(accounts: Iterable[Account], wanted: Amounts, now: Moment) -> list[Level]:
    return [level for account in accounts for level in account.levels(wanted, now) if level.wait_s > 0]


def _refusal(
    short: list[Level], accounts: tuple[Account, Account], now: Moment, *, later: Iterable[Level] = ()
) -> RateLimited:
    """For the limit that keeps the request out for longest; `later` may do so for longer still."""
    worst = max(short, key=lambda level: level.wait_s)
    kind = QuotaExhausted if worst.limit in BUDGETS else RateLimited
    wait_s = None if isinf(worst.wait_s) else max(level.wait_s for level in (worst, *later))
    headers = _headers(accounts, now)
    if wait_s is None or kind is QuotaExhausted:
        headers["x-should-retry"] = "false"
    return kind(_message(worst, wait_s), retry_after_s=wait_s, limit=worst.limit, headers=headers)


def _message(level: Level, wait_s: float | None) -> str:
    numbers = f"{level.allowed} allowed, {ceil(level.spent)} used, {ceil(level.wanted)} wanted"
    if wait_s is None:
        return f"Request too large for the limit of {_WORDS[level.limit]} of {level.of}: {numbers}."
    return f"Limit of {_WORDS[level.limit]} reached for {level.of}: {numbers}. Try again in {_duration(wait_s)}."


def _headers(accounts: tuple[Account, Account], now: Moment) -> dict[str, str]:
    """Of the rate of requests, and of all limits on tokens, the one of which the fewest are left."""
    headers: dict[str, str] = {}
    levels = [level for account in accounts for level in account.levels(NOTHING, now)]
    for kind, counts_requests in (("requests", True), ("tokens", False)):
        counted = [level for level in levels if (level.limit is Limit.REQUESTS) is counts_requests]
        if counted:
            tightest = min(counted, key=lambda level: level.remaining)
            headers[f"x-ratelimit-limit-{kind}"] = str(tightest.allowed)
            headers[f"x-ratelimit-remaining-{kind}"] = str(tightest.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = _duration(tightest.reset_s)
    return headers


def _duration(seconds: float) -> str:
    """As OpenAI writes it, not too short: 250ms, 1.5s, 6m0s, 23h59m59s."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
