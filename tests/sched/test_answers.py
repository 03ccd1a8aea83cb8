"""Answers that become longer than expected take room that nothing else is started into."""

from dataclasses import replace

import pytest
from tests.core import BLOCK, CONFIG, LIMITS, Bench

from preble.daemon.flow import events

PROMPT_BLOCKS = 10
EXPECTED_BLOCKS = CONFIG.expected_output_tokens // BLOCK


def decoding(n_sequences=1, max_output_tokens=400, kv_blocks=LIMITS.kv_blocks):
    """One engine whose answers of late came at ten tokens a second, and one that has just begun."""
    bench = Bench("a", limits=replace(LIMITS, kv_blocks=kv_blocks))
    for name in ("b", "c", "d"):  # as long as expected
        decision = bench.arrive(name, name * 100)
        bench(events.FirstToken(attempt_id=decision.attempt_id))
        bench.now_s += 0.3
        bench(events.Finished(attempt_id=decision.attempt_id, output_tokens=4))
    prompt = "l" * (BLOCK * PROMPT_BLOCKS)
    long = bench.arrive("long", prompt, n_sequences=n_sequences, max_output_tokens=max_output_tokens)
    bench(events.FirstToken(attempt_id=long.attempt_id))
    return bench, long


def held_after(seconds, **how):
    """Blocks, when the next answer has begun after so long, and ended at once."""
    bench, _ = decoding(**how)
    bench.now_s += seconds
    bench.finish(bench.arrive("next", "n" * 100), output_tokens=1)
    return bench.view("a").held_blocks


@pytest.mark.parametrize(("seconds", "tokens_late"), [(0.0, 0), (0.3, 0), (0.79, 4), (4.39, 40)])
def test_what_an_answer_holds_grows_with_time_once_it_is_as_long_as_expected(seconds, tokens_late):
    assert held_after(seconds) == PROMPT_BLOCKS + EXPECTED_BLOCKS + tokens_late // BLOCK


def test_every_sequence_of_a_request_grows():
    assert held_after(4.39, n_sequences=3) == PROMPT_BLOCKS + 3 * (EXPECTED_BLOCKS + 40 // BLOCK)


def test_an_answer_that_cannot_be_longer_does_not_grow():
    assert held_after(60.0, max_output_tokens=CONFIG.expected_output_tokens) == PROMPT_BLOCKS + EXPECTED_BLOCKS


def test_an_answer_that_has_ended_or_died_holds_nothing():
    bench, long = decoding()
    bench.now_s += 4.4
    bench.finish(long, output_tokens=45)
    assert bench.view("a").held_blocks == 0
    bench, long = decoding()
    bench.now_s += 4.4
    bench(events.EngineDown(gpu="a"))
    assert bench.view("a").held_blocks == 0


def test_nothing_is_started_into_the_room_of_an_answer_that_is_longer_than_expected():
    def started(after_s):
        bench, _ = decoding(kv_blocks=40)
        bench.now_s += after_s
        bench.finish(bench.arrive("short", "s" * BLOCK), output_tokens=1)
        bench.arrive("next", "n" * (BLOCK * 25))
        return "next" in bench.dispatched()

    assert started(0.4)
    assert not started(3.0)
