"""Tenants on real engines: shares by weight where both want all there is, and a flood that keeps nobody waiting."""

import asyncio
import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, count
from statistics import median

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.acceptance.conftest import MODEL, wait_for

pytestmark = pytest.mark.engines
PROMPT_TOKENS = 1000
"""One byte each. Four such prompts are as much as an engine is given at a time: the others wait in the daemon."""
MOST_GAP_S = 2 * (1.0 + 0.25)
"""Of GPU time by weight: of the quantum, and of the largest charge, which is about half of that."""


@dataclass(frozen=True)
class Tenant:
    """One with a key, whose requests never find anything cached."""

    name: str
    key: str


@dataclass(frozen=True)
class Done:
    """When a request was answered, and after how long."""

    at_s: float
    took_s: float


@pytest.fixture
def tenant(daemon):
    """Makes tenants that are gone afterwards: names that others know stay as they are."""
    numbers = count()
    made = []

    def make(weight: float) -> Tenant:
        name = f"fair-{next(numbers)}-{time.time_ns()}"
        daemon.cli("tenant", "create", name, "--weight", str(weight))
        made.append(name)
        return Tenant(name, json.loads(daemon.cli("key", "create", name, "--json").stdout)["key"])

    yield make
    for name in made:
        daemon.cli("tenant", "delete", name, "--revoke-keys")


async def ask(client: httpx.AsyncClient, tenant: Tenant, number: int, output_tokens: int = 8) -> Done:
    began_s = time.monotonic()
    prompt = "".join(random.Random(f"{tenant.name} {number}").choices("abcdefgh ", k=PROMPT_TOKENS))
    response = await client.post(
        "/v1/completions",
        json={"model": MODEL, "prompt": prompt, "max_tokens": output_tokens, "ignore_eos": True},
        headers={"authorization": f"Bearer {tenant.key}"},
    )
    response.raise_for_status()
    return Done(time.monotonic(), time.monotonic() - began_s)


async def keep_asking(client: httpx.AsyncClient, tenant: Tenant, at_once: int, enough: asyncio.Event) -> list[Done]:
    """So many requests at any time until then."""
    numbers = count()

    async def one_after_another() -> list[Done]:
        done = []
        while not enough.is_set():
            done.append(await ask(client, tenant, next(numbers)))
        return done

    return list(chain.from_iterable(await asyncio.gather(*(one_after_another() for _ in range(at_once)))))


async def test_two_tenants_that_always_wait_are_served_by_their_weights(daemon, tenant):
    """By requests of equal size, and by GPU time within the bound. Then who is alone has what both had."""
    light, heavy = tenant(1), tenant(3)
    async with client_of(daemon) as client:
        began_s, both_ask, one_asks = time.monotonic(), asyncio.Event(), asyncio.Event()
        first, second = (
            asyncio.create_task(keep_asking(client, one, 40, until))
            for one, until in ((light, one_asks), (heavy, both_ask))
        )
        await asyncio.sleep(4)
        before_s = await service_s(client)
        await asyncio.sleep(10)
        after_s = await service_s(client)
        both_ask.set()
        many_done = await second
        alone_s = time.monotonic()
        await asyncio.sleep(8)
        one_asks.set()
        few_done = await first
    few, many = (between(done, began_s + 4, began_s + 14) for done in (few_done, many_done))
    assert many / few == pytest.approx(3, rel=0.25), f"{many} and {few} requests of equal size in ten seconds"
    had_s = {one.name: after_s[one.name] - before_s[one.name] for one in (light, heavy)}
    assert abs(had_s[light.name] - had_s[heavy.name] / 3) < MOST_GAP_S, had_s
    alone = between(few_done, alone_s, alone_s + 8)
    assert alone / 8 > 0.75 * (few + many) / 10, f"{alone} requests in eight seconds, and {few + many} of both in ten"


async def test_a_flood_keeps_nobody_else_waiting(daemon, tenant):
    """Who asks now and then waits a few times as long as alone, and who floods many times as long."""
    flooder, neighbour = tenant(1), tenant(1)
    async with client_of(daemon) as client:
        alone = await ask_now_and_then(client, neighbour, range(15))
        enough = asyncio.Event()
        flood = asyncio.create_task(keep_asking(client, flooder, 80, enough))
        await asyncio.sleep(3)
        own = await ask_now_and_then(client, neighbour, range(15, 30))
        enough.set()
        flooded = await flood
    alone_s, own_s, flooded_s = (median(done.took_s for done in each) for each in (alone, own, flooded))
    assert own_s < 4 * alone_s, f"{own_s:.3f} s, and {alone_s:.3f} alone"
    assert own_s < flooded_s / 5
    wait_for(lambda: not any(row["waiting"] or row["running"] for row in daemon.gpus().values()), 30, "idle engines")


async def ask_now_and_then(client: httpx.AsyncClient, tenant: Tenant, numbers: Iterable[int]) -> list[Done]:
    """How long it takes is the time to the first token: there is no other."""
    done = []
    for number in numbers:
        done.append(await ask(client, tenant, number, output_tokens=1))
        await asyncio.sleep(0.3)
    return done


async def service_s(client: httpx.AsyncClient) -> dict[str, float]:
    """GPU time of each tenant's requests that have ended."""
    page = (await client.get("/metrics")).raise_for_status().text
    return {
        sample.labels["tenant"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "preble_tenant_service_seconds_total"
    }


def between(done: list[Done], after_s: float, before_s: float) -> int:
    return sum(after_s < one.at_s < before_s for one in done)


def client_of(daemon) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=200)
    return httpx.AsyncClient(base_url=daemon.url, timeout=60, limits=limits)
