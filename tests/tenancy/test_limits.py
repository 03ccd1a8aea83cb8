"""Limits of tenants and keys: who is let in, who is told what, and that the counts come out right however it ends."""

from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.config import LimitsConfig
from preble.daemon.errors import InvalidRequest, QuotaExhausted, RateLimited
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.tenancy.account import NOTHING, Limit, Moment
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.limits import NO_TOKENS, Limiter, Tokens
from preble.daemon.tenancy.model import TENANT_SCOPES, ApiKey, Tenant
from preble.daemon.wire.settings import Limits, TenantSettings

ACME, KEY = TenantName("acme"), KeyId("k1")
NOON_S = 1_795_262_400.0  # 2026-11-21
CONFIG = LimitsConfig(cached_token_ratio=0.25, assumed_output_tokens=50, bytes_per_token=2, busy_retry_s=1.5)
USED = Tokens(prompt=100, cached=40, output=7)


def moment(steady_s: float = 0.0) -> Moment:
    return Moment(steady_s, NOON_S + steady_s)


def tenant(**limits) -> Tenant:
    return Tenant(name=ACME, settings=TenantSettings(limits=Limits(**limits)), salt_epoch=0, version=1, created_at_s=0)


def key(key_id=KEY, **limits) -> ApiKey:
    return ApiKey(
        id=key_id, tenant=ACME, name="", digest=b"", last4="", scopes=TENANT_SCOPES, created_at_s=0,
        expires_at_s=None, revoked_at_s=None, limits=Limits(**limits),
    )  # fmt: skip


@dataclass
class House:
    directory: Directory
    limiter: Limiter

    def enter(self, steady_s=0.0, key_id=KEY, body_bytes=100):
        return self.limiter.enter(ACME, key_id, body_bytes, moment(steady_s))

    def run(self, steady_s=0.0, prompt=100, output=10, key_id=KEY, bounded=True):
        held = self.enter(steady_s, key_id)
        held.charge(prompt, output, bounded=bounded, now=moment(steady_s))
        return held

    def spent(self, limit: Limit, steady_s=0.0):
        """Of the tenant."""
        account, _ = self.limiter.accounts(ACME, KEY)
        return {level.limit: level.spent for level in account.levels(NOTHING, moment(steady_s))}[limit]

    def at_rest(self):
        return all((one.running, one.queued) == (0, 0) for one in self.limiter.accounts(ACME, KEY))


def house(of_key=None, **limits) -> House:
    directory = Directory([tenant(**limits)], [key(**(of_key or {}))])
    return House(directory, Limiter(directory, CONFIG))


# --- who is let in ---


CASES = {
    "requests": ({"requests_per_minute": 30}, 30),
    "input": ({"input_tokens_per_minute": 1000}, 10),
    "output": ({"output_tokens_per_minute": 100}, 10),
}


@pytest.mark.parametrize("whose", ["tenant", "key"])
@pytest.mark.parametrize(("limits", "at_once"), CASES.values(), ids=CASES)
def test_who_comes_back_when_told_gets_in_and_not_before(limits, at_once, whose):
    here = house(**limits) if whose == "tenant" else house(of_key=limits)
    for _ in range(at_once):
        here.run()
    for _ in range(50):
        with pytest.raises(RateLimited) as refused:
            here.run()
    wait_s = refused.value.retry_after_s
    assert (refused.value.code, refused.value.limit) == ("rate_limit_exceeded", next(iter(limits)))
    assert f"{limits[refused.value.limit]} allowed" in refused.value.message
    assert ACME in refused.value.message if whose == "tenant" else KEY in refused.value.message
    with pytest.raises(RateLimited):
        here.run(wait_s - 0.001)
    here.run(wait_s)
    with pytest.raises(RateLimited):
        here.run(wait_s)


def test_all_limits_must_pass_and_the_longest_wait_is_told():
    here = house(of_key={"input_tokens_per_minute": 100}, requests_per_minute=60, output_tokens_per_minute=20)
    here.run(prompt=100, output=20)
    with pytest.raises(RateLimited) as refused:
        here.run(prompt=50, output=20)
    assert refused.value.limit == "output_tokens_per_minute"
    assert refused.value.retry_after_s == pytest.approx(60)
    here.run(60.0, prompt=50, output=20)


def test_nothing_is_taken_from_anything_by_who_is_refused():
    here = house(
        of_key={"output_tokens_per_minute": 10},
        requests_per_minute=60, input_tokens_per_minute=6000, tokens_per_day=10_000, concurrent_requests=1,
    )  # fmt: skip
    for _ in range(3):
        with pytest.raises(RateLimited):
            here.run(output=11)
    assert [here.spent(limit) for limit in (Limit.REQUESTS, Limit.INPUT, Limit.DAY)] == [0, 0, 0]
    assert here.at_rest()


def test_a_request_refused_unread_is_told_a_time_that_fits_its_prompt_too():
    here = house(requests_per_minute=60, input_tokens_per_minute=600)
    for _ in range(60):
        here.run(prompt=10)
    with pytest.raises(RateLimited) as refused:
        here.enter(body_bytes=200)
    assert refused.value.limit == "requests_per_minute"
    assert refused.value.retry_after_s == pytest.approx(10), "100 tokens at 10 a second"
    here.run(10.0, prompt=100)


def test_what_can_never_pass_is_not_told_to_come_back():
    here = house(input_tokens_per_minute=100)
    with pytest.raises(RateLimited) as refused:
        here.run(prompt=101)
    assert refused.value.retry_after_s is None
    assert refused.value.headers["x-should-retry"] == "false"
    assert here.at_rest()


def test_concurrent_and_waiting_requests_are_counted_from_beginning_to_end():
    here = house(concurrent_requests=2, of_key={"queued_requests": 1})
    one, two = here.run(), here.run()
    with pytest.raises(RateLimited) as refused:
        here.enter()
    assert (refused.value.limit, refused.value.retry_after_s) == ("concurrent_requests", 1.5)
    one.wait(moment(), again=False)
    with pytest.raises(RateLimited) as refused:
        two.wait(moment(), again=False)
    assert refused.value.limit == "queued_requests"
    two.refuse(moment())
    one.start()
    here.run().wait(moment(), again=False)
    one.wait(moment(), again=True)
    one.end(USED, moment())
    here.enter()


def test_one_request_may_have_so_many_tokens():
    held = house(max_prompt_tokens=100, of_key={"max_output_tokens": 30}).enter()
    assert held.longest_answer(100, 30, 1, asked=True) == 30
    assert held.longest_answer(100, 4000, 1, asked=False) == 30
    assert held.longest_answer(100, 4000, 4, asked=False) == 7
    for prompt, output, sequences, asked in ((101, 1, 1, True), (1, 31, 1, True), (1, 16, 2, True), (1, 1, 31, False)):
        with pytest.raises(InvalidRequest):
            held.longest_answer(prompt, output, sequences, asked=asked)


# --- budgets ---


@pytest.mark.parametrize(("field", "wait_s"), [("tokens_per_day", 43_200), ("tokens_per_month", 9.5 * 86_400)])
def test_a_spent_budget_is_an_insufficient_quota_until_the_period_ends(field, wait_s):
    here = house(**{field: 250})
    here.run(prompt=100, output=10).end(USED, moment(3600.0))
    here.run(prompt=100, output=43)
    with pytest.raises(QuotaExhausted) as refused:
        here.enter()
    assert (refused.value.code, refused.value.headers["x-should-retry"]) == ("insufficient_quota", "false")
    assert refused.value.retry_after_s == wait_s
    with pytest.raises(QuotaExhausted):
        here.run(wait_s - 1)
    here.run(wait_s)


def test_budgets_set_later_know_what_was_spent_before():
    here = house()
    here.run().end(USED, moment())
    here.limiter.remember(Limit.DAY, ACME, KEY, 1000, NOON_S)
    here.directory.put_tenant(tenant(tokens_per_day=1107))
    with pytest.raises(QuotaExhausted):
        here.enter()
    here.directory.put_tenant(tenant(tokens_per_day=1108))
    here.enter()


# --- what changes ---


def test_an_operators_change_counts_at_once():
    here = house(requests_per_minute=60, concurrent_requests=1)
    held = here.run()
    here.directory.put_tenant(tenant(requests_per_minute=1))
    with pytest.raises(RateLimited) as refused:
        here.run()
    assert (refused.value.limit, refused.value.retry_after_s) == ("requests_per_minute", pytest.approx(60))
    here.directory.put_tenant(tenant())
    here.run()
    here.directory.put_tenant(tenant(concurrent_requests=2))
    with pytest.raises(RateLimited):
        here.run()
    held.end(USED, moment())
    here.run()


def test_a_rate_set_while_a_request_runs_gets_nothing_back_that_was_not_taken_of_it():
    here = house()
    early = here.run(prompt=1000)
    here.directory.put_tenant(tenant(input_tokens_per_minute=1000))
    here.run(prompt=500)
    early.end(Tokens(prompt=300, cached=0, output=0), moment())
    assert here.spent(Limit.INPUT) == 800


def test_a_tenant_that_gets_a_name_again_has_spent_nothing():
    here = house(tokens_per_day=100)
    held = here.run(prompt=80)
    here.directory.put_tenant(replace(tenant(tokens_per_day=100), created_at_s=NOON_S))
    assert here.spent(Limit.DAY) == 0
    held.end(USED, moment())
    assert here.spent(Limit.DAY) == 0
    assert len(here.limiter._tenants) == 1


# --- what is charged ---


def test_cached_tokens_count_less_once_they_are_known():
    here = house(input_tokens_per_minute=1000, output_tokens_per_minute=1000, tokens_per_day=1000)
    held = here.run(prompt=100, output=10)
    assert [here.spent(limit) for limit in (Limit.INPUT, Limit.OUTPUT, Limit.DAY)] == [100, 10, 110]
    held.end(USED, moment())
    assert [here.spent(limit) for limit in (Limit.INPUT, Limit.OUTPUT, Limit.DAY)] == [70, 7, 107]


def test_an_answer_of_unknown_length_pays_as_it_exceeds_what_was_assumed():
    here = house(output_tokens_per_minute=1000)
    held = here.run(output=4000, bounded=False)
    assert here.spent(Limit.OUTPUT) == 50
    held.produced(50, moment())
    held.produced(80, moment())
    assert here.spent(Limit.OUTPUT) == 80
    held.end(Tokens(prompt=1, cached=0, output=90), moment())
    assert here.spent(Limit.OUTPUT) == 90


def test_an_answer_of_unknown_length_takes_no_more_than_can_be_taken():
    here = house(output_tokens_per_minute=30)
    held = here.run(output=4000, bounded=False)
    assert here.spent(Limit.OUTPUT) == 30
    held.end(USED, moment())
    house(tokens_per_day=120).run(prompt=100, output=4000, bounded=False)
    with pytest.raises(RateLimited):
        house(output_tokens_per_minute=30).run(output=31)


# --- headers ---


def test_headers_tell_of_requests_and_of_the_tokens_of_which_fewest_are_left():
    here = house(of_key={"requests_per_minute": 4, "output_tokens_per_minute": 120}, requests_per_minute=60,
                 input_tokens_per_minute=60_000)  # fmt: skip
    held = here.run(prompt=100, output=30)
    assert held.headers(moment(0.0)) == {
        "x-ratelimit-limit-requests": "4",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "15s",
        "x-ratelimit-limit-tokens": "120",
        "x-ratelimit-remaining-tokens": "90",
        "x-ratelimit-reset-tokens": "15s",
    }
    assert held.headers(moment(14.75))["x-ratelimit-reset-requests"] in ("250ms", "251ms")
    assert house(concurrent_requests=1).run().headers(moment()) == {}
    assert house(tokens_per_day=500).run().headers(moment())["x-ratelimit-reset-tokens"] == "12h0m0s"


# --- however it ends ---


class Traffic:
    """Requests that run, and what those that have ended used."""

    def __init__(self, here):
        self.here = here
        self.running = []
        self.used = []
        self.requests = 0

    def begin(self, how, prompt, output, *, bounded):
        held = self.here.enter()
        if how in ("leaves at once", "refused at once"):
            self.finish(held, NO_TOKENS if how == "leaves at once" else None)
            return
        held.charge(prompt, output, bounded=bounded, now=moment())
        used = Tokens(prompt=prompt, cached=prompt // 3, output=output // 2)
        self.running.append((held, None if how == "refused later" else used))
        if how in ("waits", "runs again"):
            held.wait(moment(), again=how == "runs again")
        elif how == "produces":
            held.produced(2 * output, moment())

    def finish(self, held, used):
        if used is None:
            held.refuse(moment())
            return
        held.end(used, moment())
        self.used.append(used)
        self.requests += 1


WAYS = st.sampled_from(
    ["leaves at once", "refused at once", "refused later", "waits", "runs again", "produces", "runs"]
)  # fmt: skip


@given(st.lists(st.tuples(WAYS, st.integers(0, 300), st.integers(1, 60), st.booleans()), max_size=40))
def test_counts_come_out_right_however_requests_end(ways):
    """At one moment nothing comes back, so all that is counted at the end is what ended requests really used."""
    here = house(
        of_key={"concurrent_requests": 3, "tokens_per_month": 100_000},
        requests_per_minute=30, input_tokens_per_minute=5000, output_tokens_per_minute=900, queued_requests=2,
        tokens_per_day=6000,
    )  # fmt: skip
    traffic = Traffic(here)
    for how, prompt, output, bounded in ways:
        with suppress(RateLimited):
            traffic.begin(how, prompt, output, bounded=bounded)
        if len(traffic.running) == 3:
            traffic.finish(*traffic.running.pop(0))
    for held, used in traffic.running:
        traffic.finish(held, used)
    used = traffic.used
    assert here.at_rest()
    assert here.spent(Limit.REQUESTS) == traffic.requests
    assert here.spent(Limit.INPUT) == pytest.approx(sum(one.prompt - 0.75 * one.cached for one in used))
    assert here.spent(Limit.OUTPUT) == sum(one.output for one in used)
    assert here.spent(Limit.DAY) == sum(one.prompt + one.output for one in used)


def test_as_many_accounts_as_tenants_and_keys():
    here = house()
    for _ in range(100):
        here.run().end(USED, moment())
    assert (len(here.limiter._tenants), len(here.limiter._keys)) == (1, 1)
