"""Chain hashes say exactly which leading blocks two prompts share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.ids import ModelName
from preble.daemon.sched.blocks import BlockHasher, content_of, root_key

MODEL = ModelName("m")
HASHER = BlockHasher(4)
ROOT = root_key(MODEL)
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=60)


def chain(ids, parent=ROOT, hasher=HASHER):
    return hasher.chain(parent, np.asarray(ids, dtype=np.uint32))


@given(tokens)
def test_one_key_per_full_block(ids):
    assert len(chain(ids)) == len(ids) // 4


@given(tokens, tokens, tokens)
def test_shared_keys_are_the_shared_leading_blocks(shared, left, right):
    a, b = chain(shared + left), chain(shared + right)
    blocks = [(shared + left)[: 4 * (i + 1)] == (shared + right)[: 4 * (i + 1)] for i in range(min(len(a), len(b)))]
    assert [x == y for x, y in zip(a, b, strict=False)] == blocks


@given(tokens, st.integers(0, 15))
def test_a_chain_goes_on_from_any_block(ids, cut):
    keys = chain(ids)
    if cut < len(keys):
        assert chain(ids[4 * (cut + 1) :], parent=keys[cut]) == keys[cut + 1 :]


def test_a_chain_longer_than_one_pass_is_the_same_as_in_parts():
    hasher = BlockHasher(1)
    ids = np.arange(10_000, dtype=np.uint32)
    keys = hasher.chain(ROOT, ids)
    assert len(set(keys)) == 10_000
    assert hasher.chain(keys[4999], ids[5000:]) == keys[5000:]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.integers(0, 2**64 - 1))
def test_a_single_block_has_the_same_key(ids, parent):
    assert [HASHER.next_key(parent, ids)] == chain(ids, parent)


def test_order_and_position_of_tokens_matter():
    assert len({tuple(chain(ids)) for ids in ([1, 2, 3, 4], [4, 3, 2, 1], [0, 1, 2, 3], [0, 0, 0, 0])}) == 4


@pytest.mark.parametrize(
    "other",
    [root_key(ModelName("n")), root_key(MODEL, salt="s"), root_key(MODEL, lora="s"), root_key(ModelName("m\0s"))],
)
def test_models_adapters_and_salts_are_kept_apart(other):
    assert chain([1, 2, 3, 4], parent=other) != chain([1, 2, 3, 4])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=60), st.integers(0, 14))
def test_what_a_chain_says_does_not_depend_on_what_stands_before_it(ids, at):
    salted = root_key(MODEL, salt="s")
    one, other = chain(ids), chain(ids, salted)
    n_blocks = len(one)
    assert content_of(ROOT, one[-1], n_blocks) == content_of(salted, other[-1], n_blocks)
    changed = [*ids]
    changed[at % (4 * n_blocks)] ^= 1
    assert content_of(ROOT, one[-1], n_blocks) != content_of(salted, chain(changed, salted)[-1], n_blocks)
