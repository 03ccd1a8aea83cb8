"""What a request comes to in the ledger: as engines count it, and with the GPU time of all its attempts."""

import asyncio

import pytest
from tests.flow.house import PROMPT, open_house, read, until

from preble.daemon.errors import InvalidRequest
from preble.daemon.flow.events import EngineDown
from preble.daemon.flow.runtime import Cancelled

PREFILL_MS = 1.0 + len(PROMPT)


@pytest.fixture
async def house():
    async with open_house() as opened:
        yield opened


async def test_what_ends_well_has_its_gpu_time(house):
    await read(await house.life(max_tokens=5).answer())
    (settled,) = house.settled
    assert (settled.prompt_tokens, settled.output_tokens, settled.cached_tokens) == (len(PROMPT), 5, 0)
    assert settled.gpu_ms == pytest.approx(PREFILL_MS + 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_counts_with_its_first_token(house, stream):
    house.limit(tokens_per_day=1000)
    house.engines["a"].ms_per_token = 20_000  # before the first one, too
    life = house.life(stream=stream)
    answering = asyncio.create_task(life.answer())
    await until(lambda: house.busy)
    await asyncio.sleep(0.02)
    life.abandon(Cancelled())
    with pytest.raises(Cancelled):
        await answering
    await house.at_rest()
    (settled,) = house.settled
    assert (settled.prompt_tokens, settled.cached_tokens, settled.output_tokens) == (0, None, 0)
    assert 0 < settled.gpu_ms <= PREFILL_MS
    assert house.spent_tokens() == len(PROMPT), "else prompts that are cut off in time were free"


async def test_what_an_engine_refuses_has_used_no_tokens(house):
    with pytest.raises(InvalidRequest):
        await house.life(n=0).answer()
    (settled,) = house.settled
    assert (settled.attempts, settled.prompt_tokens, settled.output_tokens) == (1, 0, 0)


async def test_the_gpu_time_of_an_attempt_that_died_counts_too(house):
    house.engines["a"].ms_per_prompt_token = 1000
    answering = asyncio.create_task(house.life(max_tokens=5).answer())
    await until(lambda: house.engines["a"].running)
    await asyncio.sleep(0.02)
    house.runtime.post(EngineDown(gpu="a"))
    await house.engines["a"].die()
    await read(await answering)
    (settled,) = house.settled
    assert (settled.attempts, settled.prompt_tokens) == (2, len(PROMPT))
    assert settled.gpu_ms > PREFILL_MS + 5
