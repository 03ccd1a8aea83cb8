"""The choice, rule by rule (paper, Algorithms 1 and 2)."""

from preble.daemon.ids import GpuId
from preble.daemon.sched.e2 import choose
from preble.daemon.sched.types import Candidate, Mode


def candidate(gpu, cached=0, missed=100, load=0.0, evict=0.0, prefill=0.0, holds=False, decode=0.0):
    return Candidate(
        gpu=GpuId(gpu),
        cached_tokens=cached,
        missed_tokens=missed,
        load_ms=load,
        evict_ms=evict,
        prefill_ms=prefill,
        holds_prefix=holds,
        decode_ratio=decode,
    )


def pick(*candidates, ratio=1.5):
    choice = choose(candidates, ratio)
    return choice.chosen.gpu, choice.mode


def test_mostly_cached_exploits_even_where_another_gpu_is_cheaper():
    assert pick(candidate("a"), candidate("b", 60, 40, load=1e6, holds=True)) == ("b", Mode.EXPLOIT)


def test_a_tie_of_cached_and_missed_explores():
    assert pick(candidate("a"), candidate("b", 50, 50, load=1.0, holds=True)) == ("a", Mode.EXPLORE)


def test_exploiting_takes_the_cheapest_holder_by_its_id():
    holders = [candidate("c", 60, 40, load=5.0, holds=True), candidate("d", 60, 40, load=3.0, holds=True)]
    assert pick(candidate("a"), candidate("b"), *holders) == ("d", Mode.EXPLOIT)


def test_cost_is_the_sum_of_load_eviction_and_prefill():
    assert pick(candidate("a", load=3), candidate("b", evict=2), candidate("c", prefill=4)) == ("b", Mode.EXPLORE)


def test_ties_go_to_the_first_name():
    assert pick(candidate("b"), candidate("a")) == ("a", Mode.EXPLORE)


def test_prefill_goes_to_the_gpu_that_mostly_decodes():
    busy = [candidate("a", load=10, decode=0.9), candidate("b", load=9, decode=0.2), candidate("c", load=9, decode=0.3)]
    assert pick(*busy) == ("a", Mode.DECODE_HEAVY)


def test_a_decode_heavy_gpu_is_not_piled_on_while_others_idle():
    assert pick(candidate("a", load=10, decode=0.9), candidate("b")) == ("b", Mode.EXPLORE)


def test_where_every_gpu_mostly_decodes_cost_decides():
    assert pick(candidate("a", load=10, decode=0.95), candidate("b", load=9, decode=0.9)) == ("b", Mode.EXPLORE)


def test_the_reason_names_its_numbers():
    choice = choose([candidate("a", 60, 40, holds=True)], 1.5)
    assert choice.reason == (
        "60 tokens are cached and 40 are not: lowest cost of the 1 GPU that cache the biggest part"
    )
