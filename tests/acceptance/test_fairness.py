"""Tenants on real engines: shares by weight where both want all there is, and a flood that keeps nobody waiting."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from itertools import chain, count
from statistics import median

import httpx
import pytest
from tests.acceptance.conftest import MODEL, wait_for

pytestmark = pytest.mark.engines
PROMPT_TOKENS = 1000
"""One byte each. Four such prompts are as much as an engine is given at a time: the others wait in the daemon."""


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


async def ask(client: httpx.AsyncClient, tenant: Tenant, number: int) -> Done:
    began_s = time.monotonic()
    prompt = "".join(random.Random(f"{tenant.name} {number}").choices("abcdefgh ", k=PROMPT_TOKENS))
    response = await client.post(
        "/v1/completions",
        json={"model": MODEL, "prompt": prompt, "max_tokens": 8, "ignore_eos": True},
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
    light, heavy = tenant(1), tenant(3)
    async with client_of(daemon) as client:
        began_s, enough = time.monotonic(), asyncio.Event()
        asyncio.get_running_loop().call_later(14, enough.set)
        served = await asyncio.gather(*(keep_asking(client, one, 40, enough) for one in (light, heavy)))
    few, many = (sum(began_s + 4 < done.at_s < began_s + 14 for done in each) for each in served)
    assert many / few == pytest.approx(3, rel=0.25), f"{many} and {few} requests of equal size in ten seconds"


async def test_a_flood_keeps_nobody_else_waiting(daemon, tenant):
    flooder, neighbour = tenant(1), tenant(1)
    async with client_of(daemon) as client:
        enough = asyncio.Event()
        flood = asyncio.create_task(keep_asking(client, flooder, 80, enough))
        await asyncio.sleep(3)
        own = []
        for number in range(10):
            own.append(await ask(client, neighbour, number))
            await asyncio.sleep(0.3)
        enough.set()
        flooded = await flood
    assert median(done.took_s for done in own) < median(done.took_s for done in flooded) / 2
    wait_for(lambda: not any(row["waiting"] or row["running"] for row in daemon.gpus().values()), 30, "idle engines")


def client_of(daemon) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=200)
    return httpx.AsyncClient(base_url=daemon.url, timeout=60, limits=limits)
