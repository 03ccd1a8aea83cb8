"""The first idea of how fast an engine is."""

import pytest
from tests.fake_engine import FakeEngine

from preble.daemon.engine.calibrate import calibrate
from preble.daemon.engine.client import EngineClient
from preble.daemon.sched.types import EngineLimits


async def test_an_engine_is_measured(tmp_path):
    async with FakeEngine(tmp_path / "e.sock", ms_per_token=4, ms_per_prompt_token=0.05) as engine:
        client = EngineClient(engine.socket_path)
        limits = EngineLimits(
            block_size=32, kv_blocks=999, max_num_seqs=8, max_num_batched_tokens=512, max_model_len=2_100
        )
        fit = await calibrate(client, "fake", limits)
        await client.close()
    assert fit.prefill_ms(2_000) == pytest.approx(0.05 * 2_000, rel=0.3)
    assert fit.decode_ms(1) == pytest.approx(4, rel=0.6)
    assert len({body["cache_salt"] for body in engine.bodies}) == len(engine.bodies)
    assert max(len(body["prompt"]) for body in engine.bodies) == 2_048


async def test_a_tiny_engine_is_measured_within_its_limits(tmp_path):
    async with FakeEngine(tmp_path / "e.sock") as engine:
        client = EngineClient(engine.socket_path)
        limits = EngineLimits(block_size=16, kv_blocks=3, max_num_seqs=1, max_num_batched_tokens=16, max_model_len=48)
        await calibrate(client, "fake", limits)
        await client.close()
    assert max(len(body["prompt"]) for body in engine.bodies) <= 16
