"""The oracle: what one cache that forgets nothing would hit, and nothing more."""

from collections import OrderedDict

import hypothesis.strategies as st
import pytest
from hypothesis import given

from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.oracle import capacity_hit_ratio, oracle_hit_ratio
from preble.daemon.sim.types import Piece, SimRequest


def request(number, *prompt, at_s=0.0, session=None, output_tokens=10):
    return SimRequest(
        request_id=RequestId(f"r{number}"),
        tenant=TenantName("default"),
        at_s=at_s,
        prompt=tuple(Piece(*piece) for piece in prompt),
        output_tokens=output_tokens,
        output_content=1000 + number,
        max_output_tokens=64,
        session=session,
    )


def test_pieces_are_shared_up_to_the_shorter_and_what_follows_only_after_equal_ones():
    def cached_tokens(*prompt):
        requests = [request(1, (1, 96), (2, 48)), request(2, *prompt)]
        n_tokens = 144 + requests[1].prompt_tokens
        return oracle_hit_ratio(iter(requests), block_size=16) * n_tokens

    assert cached_tokens((1, 96), (2, 64)) == pytest.approx(144)
    assert cached_tokens((1, 64), (2, 48)) == pytest.approx(64)
    assert cached_tokens((1, 320), (2, 48)) == pytest.approx(96)
    assert (
        cached_tokens(
            (2, 48),
        )
        == 0
    )


def test_only_whole_blocks_count_and_the_last_token_is_always_computed():
    twice = [request(1, (1, 64)), request(2, (1, 64))]
    assert oracle_hit_ratio(iter(twice), block_size=16) == 48 / 128
    tail = [request(1, (1, 70), (2, 5)), request(2, (1, 70), (3, 5))]
    assert oracle_hit_ratio(iter(tail), block_size=16) == 64 / 150
    assert oracle_hit_ratio(iter(tail), block_size=1) == 70 / 150


def test_a_session_finds_its_own_answers():
    later = request(2, (1, 20), (1001, 10), (7, 2))
    assert oracle_hit_ratio(iter([request(1, (1, 20), session=iter([later]))]), block_size=1) == 30 / 52


def test_a_prompt_that_no_engine_takes_is_left_out():
    requests = [request(1, (1, 64)), request(2, (2, 640)), request(3, (1, 64))]
    assert oracle_hit_ratio(iter(requests), block_size=16, max_model_len=640) == 48 / 128
    assert oracle_hit_ratio(iter(requests), block_size=16, max_model_len=641) == 48 / 768


def test_no_request_means_no_hits():
    assert oracle_hit_ratio(iter(()), block_size=16) == pytest.approx(0.0)


# --- with a cache that holds only so much ---


def lru_hit_ratio(numbers, kv_blocks):
    """Of prompts of one block each, and a token."""
    cache, n_hits = OrderedDict(), 0
    for number in numbers:
        n_hits += number in cache
        cache[number] = cache.pop(number, None)
        if len(cache) > kv_blocks:
            cache.popitem(last=False)
    return n_hits * 16 / (17 * len(numbers))


def prompts(numbers):
    """One block of that content, and a token of their own; answers are too short for a block."""
    return iter([request(at, (number, 16), (100 + at, 1), output_tokens=2) for at, number in enumerate(numbers)])


def test_a_cache_that_knows_what_comes_keeps_what_is_wanted_soonest():
    turns = [1, 2, 3] * 4
    assert lru_hit_ratio(turns, 2) == 0  # what it evicts comes next
    # the same two are kept all the time, and found in three turns
    assert capacity_hit_ratio(prompts(turns), 16, 2) == pytest.approx(16 * 6 / (17 * 12))
    assert capacity_hit_ratio(prompts(turns), 16, 0) == 0
    assert capacity_hit_ratio(prompts(turns), 16, 3) == oracle_hit_ratio(prompts(turns), 16)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(0, 6))
def test_it_is_no_worse_than_a_real_cache_and_no_better_than_a_larger_one(numbers, kv_blocks):
    hits = [capacity_hit_ratio(prompts(numbers), 16, n) for n in range(kv_blocks, 8)]
    assert hits == sorted(hits)
    assert hits[-1] == pytest.approx(oracle_hit_ratio(prompts(numbers), 16))
    assert hits[0] >= lru_hit_ratio(numbers, kv_blocks) - 1e-9
