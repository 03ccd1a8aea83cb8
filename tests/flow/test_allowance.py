"""What requests take of their limits, whatever becomes of them."""

import asyncio
from dataclasses import replace

import pytest
from tests.core import LIMITS, up
from tests.flow.house import PROMPT, open_house, read, until

from preble.daemon.errors import RateLimited, Unavailable
from preble.daemon.flow.events import EngineDown
from preble.daemon.flow.runtime import Cancelled

OTHER_PROMPT = "y" * len(PROMPT)
"""Which is not waited for where the first is being computed."""


@pytest.fixture
async def house():
    async with open_house() as opened:
        yield opened


async def test_a_request_that_runs_again_is_charged_once_and_may_wait_again(house):
    house.limit(tokens_per_day=1000, queued_requests=0)
    house.engines["a"].ms_per_prompt_token = house.engines["b"].ms_per_prompt_token = 10
    first = asyncio.create_task(house.life("r1").answer())
    second = asyncio.create_task(house.life("r2", prompt=OTHER_PROMPT).answer())
    await until(lambda: len(house.busy) == 2)
    house.runtime.post(EngineDown(gpu="a"))
    await house.engines["a"].die()
    await read(await first)
    await read(await second)
    assert sorted(one.attempts for one in house.settled) == [1, 2]
    assert house.spent_tokens() == 90


async def test_what_may_not_wait_is_refused_and_withdrawn(house):
    house.limit(tokens_per_day=1000, queued_requests=0)
    for engine in house.engines.values():
        engine.ms_per_token = 20
    lives = [house.life("r1"), house.life("r2", prompt=OTHER_PROMPT)]
    running = [asyncio.create_task(life.answer()) for life in lives]
    await until(lambda: len(house.busy) == 2)
    with pytest.raises(RateLimited) as refused:
        await house.life("r3").answer()
    assert refused.value.limit == "queued_requests"
    assert house.runtime.live_requests == 2
    for answering in running:
        await read(await answering)
    assert house.spent_tokens() == 90


async def test_what_no_engine_ever_had_costs_no_tokens(house):
    house.limit(requests_per_minute=1)
    for gpu in house.engines:
        house.runtime.post(EngineDown(gpu=gpu))
    for name in ("r0", "r1"):
        with pytest.raises(Unavailable):
            await house.life(name).answer()
    house.limit(tokens_per_day=1000)
    assert house.spent_tokens() == 0
    for gpu in house.engines:
        house.runtime.post(up(gpu, epoch=2, limits=replace(LIMITS, max_num_seqs=1)))
        house.engines[gpu].ms_per_prompt_token = 10
    lives = [house.life("r2"), house.life("r3", prompt=OTHER_PROMPT), house.life("r4")]
    answers = [asyncio.create_task(life.answer()) for life in lives]
    await until(lambda: len(house.busy) == 2)
    lives[2].abandon(Cancelled())
    with pytest.raises(Cancelled):
        await answers[2]
    for answer in answers[:2]:
        await read(await answer)
    assert house.spent_tokens() == 90
