"""The oracle: what one cache that forgets nothing would hit, and nothing more."""

import pytest

from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.oracle import oracle_hit_ratio
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
