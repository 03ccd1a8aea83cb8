"""L, M and P as Algorithm 2 has them, on a machine whose numbers can be checked by hand."""

from dataclasses import replace
from math import exp

import pytest
from tests.core import BLOCK, CONFIG, LIMITS, PAPER, Bench, removed, stored

PREFILL = lambda n: 1.0 + n  # noqa: E731 - the time model of tests.core
DECODE = lambda n: 1.0 * n  # noqa: E731


def by_gpu(decision):
    return {candidate.gpu: candidate for candidate in decision.candidates}


def test_prefill_is_what_is_not_cached_there():
    bench = Bench("a", "b")
    bench.run("r1", "x" * 40)
    after = by_gpu(bench.arrive("r2", "x" * 40 + "y" * 8))
    assert (after["a"].cached_tokens, after["a"].missed_tokens, after["a"].prefill_ms) == (40, 8, PREFILL(8))
    assert (after["b"].cached_tokens, after["b"].missed_tokens, after["b"].prefill_ms) == (0, 48, PREFILL(48))


def test_load_is_prefill_of_the_missed_plus_decode_at_the_mean_output_length():
    bench = Bench("a")
    bench.run("r1", "x" * 40)  # outputs 4 tokens
    bench.finish(bench.arrive("r2", "x" * 40 + "y" * 8), output_tokens=8)
    mean_output = (4 + 8) / 2
    assert bench.view("a").load_ms == pytest.approx(PREFILL(40) + PREFILL(8) + 2 * DECODE(mean_output))


def test_load_is_forgotten_after_the_window_and_not_before():
    bench = Bench("a")
    bench.run("r1", "x" * 40)
    bench.now_s = CONFIG.window_s - 0.001
    assert bench.view("a").load_ms > 0
    bench.now_s = CONFIG.window_s
    assert bench.view("a").load_ms == 0


def test_the_window_passes_in_steps_whoever_looks_in_between():
    bench = Bench("a")
    for number, sent_s in enumerate((1.1, 1.4)):  # of 0.36 s: between the third and the fourth
        bench.now_s = sent_s
        bench.run(f"r{number}", "x" * 40)
    both_ms = bench.view("a").load_ms
    for since_s, load_ms in ((1.2, both_ms), (1.43, both_ms), (1.45, 0)):
        bench.now_s = CONFIG.window_s + since_s
        assert bench.view("a").load_ms == load_ms


def test_the_expected_output_length_is_configured_until_one_is_seen():
    bench = Bench("a")
    bench.arrive("r1", "x" * 40)
    assert bench.view("a").load_ms == PREFILL(40) + DECODE(CONFIG.expected_output_tokens)


def test_the_last_token_is_always_computed():
    bench = Bench("a")
    bench.run("r1", "x" * 40)
    assert bench.arrive("r2", "x" * 40).cached_tokens == 40 - BLOCK


def test_nothing_is_lost_while_free_blocks_last():
    bench = Bench("a")
    bench.run("r1", "x" * 40)
    assert by_gpu(bench.arrive("r2", "y" * 40))["a"].evict_ms == 0


def test_eviction_costs_the_prefill_of_the_victims_times_their_share_of_the_window():
    limits = replace(LIMITS, kv_blocks=25)
    bench = Bench("a", limits=limits, config=PAPER)
    bench.run("r1", "x" * 40)  # 10 blocks, the least recently used
    bench.run("r2", "y" * 40)  # 10 blocks
    bench.run("r3", "y" * 40)
    # 5 blocks are free; 40 + 4 tokens need 11: six blocks of "x" go, which one of three requests used
    assert by_gpu(bench.arrive("r4", "z" * 40))["a"].evict_ms == pytest.approx(PREFILL(6 * BLOCK) / 3)


def test_for_our_e2_eviction_costs_the_prefill_times_the_chance_of_another_use():
    limits = replace(LIMITS, kv_blocks=25)
    bench = Bench("a", limits=limits)
    bench.run("r1", "x" * 40)  # used once, which tells nothing
    bench.run("r2", "y" * 40)
    assert by_gpu(bench.arrive("r3", "z" * 40))["a"].evict_ms == 0
    bench = Bench("a", limits=limits)
    for number in range(3):
        bench.run(f"x{number}", "x" * 40)
    bench.run("r2", "y" * 40)
    a_quarter_of_the_window_idle = exp(-2 * 0.25 / 0.75)
    expected = PREFILL(6 * BLOCK) * (1 - exp(-2)) * a_quarter_of_the_window_idle
    assert by_gpu(bench.arrive("r3", "z" * 40))["a"].evict_ms == pytest.approx(expected)


def test_for_our_e2_evicting_what_was_used_often_and_is_no_longer_loses_little():
    bench = Bench("a", limits=replace(LIMITS, kv_blocks=25))
    for number in range(5):
        bench.run(f"x{number}", "x" * 40)
    lost_ms = []
    for number in range(8):
        bench.run(f"y{number}", "y" * 40)
        lost_ms.append(by_gpu(bench.preview("z", "z" * 40))["a"].evict_ms)
    assert lost_ms == sorted(lost_ms, reverse=True)
    assert lost_ms[-1] < 0.01 * lost_ms[0]


def test_what_a_request_costs_all_requests():
    bench = Bench("a", "b")
    assert bench.arrive("r1", "x" * 100).gpu == "a"
    one = by_gpu(bench.arrive("r2", "y" * 40))
    load_ms = 101 + 4
    assert one["a"].wait_ms == 101
    # it waits for r1, which runs, prefills 40 tokens while half of r1 waits, decodes 4 beside it, slows r1 by 4 ms
    decode_ms = 4 * 2 + 4
    assert one["a"].cost_ms == pytest.approx(101 + 1.5 * 41 + decode_ms + CONFIG.load_weight * load_ms)
    assert one["b"].cost_ms == pytest.approx(41 + 4)


def test_a_request_does_not_evict_its_own_prefix():
    bench = Bench("a", limits=replace(LIMITS, kv_blocks=12), config=PAPER)
    bench.run("r1", "x" * 40)  # least recently used, but the next request wants it
    bench.run("r2", "w" * 4)
    # 1 block is free and 2 are needed
    assert by_gpu(bench.arrive("r3", "x" * 40 + "z" * 4))["a"].evict_ms == pytest.approx(PREFILL(4) / 2)


def test_a_report_wins_over_what_was_believed():
    bench = Bench("a")
    bench.run("r1", "x" * 40)
    bench(removed("a", *("x" * end for end in range(40, 8, -BLOCK))))
    assert bench.arrive("r2", "x" * 40).cached_tokens == 8


def test_what_was_sent_counts_before_it_is_reported():
    bench = Bench("a")
    bench.arrive("r1", "x" * 40)
    assert bench.arrive("r2", "x" * 40 + "y" * 8).cached_tokens == 40


def test_reports_of_an_older_start_are_ignored():
    bench = Bench("a")
    bench(stored("a", "x" * 40, epoch=0))
    assert bench.arrive("r1", "x" * 40).cached_tokens == 0


def test_blocks_are_stored_behind_the_block_they_follow():
    bench = Bench("a")
    bench(stored("a", "x" * 20))
    bench(stored("a", "y" * 20, after="x" * 20))
    assert bench.arrive("r1", "x" * 20 + "y" * 20 + "z").cached_tokens == 40


def test_blocks_behind_an_unknown_block_are_not_placed():
    bench = Bench("a")
    bench(stored("a", "y" * 20, after="never reported"))
    assert bench.machine.indexed_blocks("m") == 0
