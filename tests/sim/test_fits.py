"""Shipped calibrations against what was published, and what a calibration file may hold."""

from itertools import pairwise

import pytest

from preble.daemon.errors import ConfigError
from preble.daemon.sim.fits import PS_PER_MS, fit_names, load_fit

GOOD = """
source = "here"
date = "2026"
[engine]
block_size = 4
kv_blocks = 100
max_num_seqs = 4
max_num_batched_tokens = 16
max_model_len = 100
[step]
base_ms = 10
ms_per_token = 1
ms_per_context_token = 0.5
"""


def published_ms(fit, n_tokens):
    """One step that computes a whole prompt, however long."""
    return (fit.batch_ps(n_tokens) + fit.chunk_ps(n_tokens, n_tokens)) / PS_PER_MS


def test_the_named_calibrations_are_there():
    assert fit_names() == ("a6000-mistral-7b", "cpu-demo", "h100-tp2-llama-3-70b")


@pytest.mark.parametrize(
    ("n_tokens", "ms"),
    [(512, 66.7), (1024, 128.4), (2048, 268.8), (4096, 553.1), (8192, 1183.0), (16384, 2687.7), (32768, 6676.9)],
)
def test_mistral_on_an_a6000_is_as_published(n_tokens, ms):
    assert published_ms(load_fit("a6000-mistral-7b"), n_tokens) == pytest.approx(ms, rel=0.005)


@pytest.mark.parametrize(("n_tokens", "ms"), [(1024, 104.0), (8192, 745.0), (32768, 3523.4)])
def test_llama_on_two_h100_is_as_published(n_tokens, ms):
    assert published_ms(load_fit("h100-tp2-llama-3-70b"), n_tokens) == pytest.approx(ms, rel=0.001)


def test_the_a6000_holds_what_was_published():
    limits = load_fit("a6000-mistral-7b").limits
    assert 198_516 - limits.block_size < limits.kv_blocks * limits.block_size <= 198_516


def test_the_h100s_hold_what_the_file_derives():
    vram, weights, extra = 2 * 81_559 * 0.92, 134_570, 2 * 1_500  # MiB
    limits = load_fit("h100-tp2-llama-3-70b").limits
    assert limits.kv_blocks == int((vram - weights - extra) * 2**20 / 327_680) // limits.block_size


@pytest.mark.parametrize("name", fit_names())
def test_more_work_never_takes_less_time(name):
    fit = load_fit(name)
    steps = [fit.batch_ps(n) + fit.chunk_ps(n, n) for n in range(1, 4000)]
    assert steps[0] > 0
    assert all(less <= more for less, more in pairwise(steps))
    contexts = [fit.chunk_ps(64, c) for c in range(64, 30_000, 61)]
    assert all(less <= more for less, more in pairwise(contexts))
    assert fit.context_ps > 0


def test_each_token_of_a_chunk_attends_to_those_before_it_and_to_itself(tmp_path):
    file = tmp_path / "fit.toml"
    file.write_text(GOOD + "[prefill]\nms_per_attended_token = 0.5")
    assert load_fit(file).chunk_ps(3, 10) / PS_PER_MS == 0.5 * (8 + 9 + 10)


@pytest.mark.parametrize("name", fit_names())
def test_the_schedulers_time_model_is_near_the_calibration(name):
    fit = load_fit(name)
    model = fit.time_model()
    for n_tokens in (256, 1000, 2000, 5000, 8000):
        assert model.prefill_ms(n_tokens) == pytest.approx(fit.prefill_ms(n_tokens), rel=0.25)
    for batch in (1, 8, 32):
        step_ms = model.decode_base_ms + batch * model.decode_ms_per_sequence
        assert step_ms == pytest.approx(fit.decode_step_ms(batch, 1024), rel=0.05)


def test_a_prompt_over_the_budget_takes_several_steps(tmp_path):
    (tmp_path / "own.toml").write_text(GOOD)
    fit = load_fit(tmp_path / "own.toml")
    assert fit.prefill_ms(16) == 26
    assert fit.prefill_ms(20) == 26 + 14
    assert fit.prefill_ms(0) == 0


def test_a_lone_prompt_takes_what_each_request_takes_once(tmp_path):
    (tmp_path / "own.toml").write_text(GOOD + "ms_per_request = 3\n")
    fit = load_fit(tmp_path / "own.toml")
    assert (fit.prefill_ms(0), fit.prefill_ms(20)) == (0, 3 + 26 + 14)
    assert fit.decode_step_ms(1, 0) == 11


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("kv_blocks = 100", "kv_blocks = 24", "engine.kv_blocks"),
        ("max_num_seqs = 4", "max_num_seqs = 17", "engine.max_num_batched_tokens"),
        ("base_ms = 10", "base_ms = -1", "step.base_ms: Expected `float` >= 0"),
        ("base_ms = 10", "", "step: Object missing required field `base_ms`"),
        ("base_ms = 10", "base_msec = 10", "step: Object contains unknown field `base_msec`"),
        ("base_ms = 10\nms_per_token = 1", "base_ms = 0\nms_per_token = 0", "no step may take no time"),
        ("block_size = 4", "block_size = 'four'", "engine.block_size: Expected `int`, got `str`"),
        ("base_ms = 10", "base_ms = inf", "step.base_ms"),
        ("base_ms = 10", "base_ms = 10\nms_per_shared_context_token = 0.6", "step.ms_per_shared_context_token"),
        ("base_ms = 10", "base_ms = 10\nms_per_request = -1", "step.ms_per_request: Expected `float` >= 0"),
        ("source =", "sauce =", "unknown field `sauce`"),
        ("[engine]", "[engine", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(tmp_path, before, after, complaint):
    path = tmp_path / "own.toml"
    path.write_text(GOOD.replace(before, after))
    with pytest.raises(ConfigError) as error:
        load_fit(path)
    assert str(error.value).startswith(f"{path}: ")
    assert complaint in str(error.value)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="b100: neither a file nor a calibration that is shipped: a6000-mistral-7b"):
        load_fit("b100")


def test_a_folder_is_no_calibration(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_fit(tmp_path)
