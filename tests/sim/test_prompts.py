"""Blocks are the same where, and only where, their tokens and all before are; and tokens are the same for ever."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from preble.daemon.ids import ModelName
from preble.daemon.sched.blocks import BlockHasher, root_key
from preble.daemon.sim.prompts import LEAST_TOKEN_ID, N_TOKEN_IDS, BlockKeys, token_ids
from preble.daemon.sim.types import Piece

MODEL = ModelName("m")
PIECES = st.lists(st.builds(Piece, st.integers(0, 5), st.integers(0, 40)), max_size=5)


def keys(*pieces, block_size=16, **more):
    return BlockKeys(block_size, MODEL, **more).keys([Piece(content, n) for content, n in pieces])


@given(st.lists(PIECES, min_size=1, max_size=8), st.sampled_from([1, 4, 16]), st.sampled_from([0, 60, 10**6]))
def test_keys_are_the_daemons_own_of_the_tokens_whatever_is_remembered(prompts, block_size, max_kept_blocks):
    known = BlockKeys(block_size, MODEL, max_kept_blocks)
    hasher = BlockHasher(block_size)
    for pieces in prompts:
        assert known.keys(pieces) == tuple(hasher.chain(root_key(MODEL), token_ids(pieces)))


def test_the_same_beginning_gives_the_same_keys():
    one, other = keys((1, 40), (2, 40)), keys((1, 40), (3, 40))
    assert one[:2] == other[:2]  # 40 tokens are two blocks and a half
    assert not set(one[2:]) & set(other[2:])


def test_the_same_content_behind_another_beginning_has_other_keys():
    assert not set(keys((1, 16), (9, 64))) & set(keys((2, 16), (9, 64)))


def test_a_shorter_piece_is_the_beginning_of_a_longer_one():
    assert keys((1, 33)) == keys((1, 64))[:2]
    assert token_ids([Piece(1, 33)]).tolist() == token_ids([Piece(1, 64)]).tolist()[:33]


def test_how_a_run_of_tokens_is_cut_into_pieces_makes_no_difference_where_contents_end():
    assert len(keys((1, 10), (2, 10), (3, 12))) == 2


def test_tokens_are_ordinary_ids_spread_evenly():
    tokens = token_ids([Piece(number, 1000) for number in range(200)])
    assert tokens.dtype == np.uint32
    assert (tokens.min(), tokens.max()) == (LEAST_TOKEN_ID, LEAST_TOKEN_ID + N_TOKEN_IDS - 1)
    counts = np.bincount(tokens - LEAST_TOKEN_ID)
    assert counts.min() / counts.mean() > 0.85
    assert counts.max() / counts.mean() < 1.15


def test_contents_next_to_each_other_have_nothing_in_common():
    one, other = token_ids([Piece(1, 5000)]), token_ids([Piece(2, 5000)])
    for shift in range(3):
        assert (one[shift:] == other[: len(other) - shift]).mean() < 0.02
        assert (one[: len(one) - shift] == other[shift:]).mean() < 0.02


def test_tokens_never_change_so_that_replays_can_be_compared():
    assert token_ids([Piece(0, 4), Piece(2**63 + 1, 4)]).tolist() == [177, 89, 10, 194, 16, 187, 12, 38]
    assert token_ids([]).tolist() == []


def test_memory_is_bounded():
    known = BlockKeys(16, MODEL, max_kept_blocks=1000)
    for number in range(500):
        known.keys([Piece(1, 160), Piece(100 + number, 160)])
    assert known._kept_blocks <= 1000
    assert known._kept_blocks == sum(len(start.keys) + 16 for start in known._kept.values())
