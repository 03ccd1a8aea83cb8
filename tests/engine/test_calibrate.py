"""The first idea of how fast an engine is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fake_engine import FakeEngine

from preble.daemon.engine.calibrate import calibrate, fit_prefill
from preble.daemon.engine.client import EngineClient
from preble.daemon.sched.types import EngineLimits

LENGTHS = (32, 128, 512, 2048)


@pytest.mark.parametrize("truth", [(4.0, 0.05, 0.0), (0.0, 0.05, 1e-5), (10.0, 0.0, 0.0), (1.0, 0.02, 3e-6)])
def test_an_exact_law_is_found(truth):
    base, linear, square = truth
    measured = [(n, base + linear * n + square * n * n) for n in LENGTHS]
    assert fit_prefill(measured) == pytest.approx(truth, rel=1e-6, abs=1e-9)


def test_a_law_that_would_need_a_negative_term_gets_the_nearest_without():
    base, linear, square = fit_prefill([(100, 1.0), (200, 4.0), (400, 16.0), (800, 70.0)])
    assert min(base, linear, square) >= 0
    assert square > 0


@given(st.lists(st.tuples(st.sampled_from(LENGTHS), st.floats(0.1, 1e4)), min_size=1, max_size=6))
def test_no_measurement_gives_a_negative_coefficient(measured):
    assert min(fit_prefill(measured)) >= 0


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
