"""Each policy's choice, rule by rule (E2: paper, Algorithms 1 and 2)."""

import msgspec
from tests.core import CONFIG, Bench, stored

from preble.daemon.ids import GpuId
from preble.daemon.sched.policies import E2, LeastLoaded, PrefixAffinity, RoundRobin, Shift, TooDear, Traits
from preble.daemon.sched.types import Candidate, Mode


def candidate(
    gpu, cached=0, missed=100, load=0.0, evict=0.0, prefill=0.0, holds=False, decode=0.0, requests=0, resident=0
):
    return Candidate(
        gpu=GpuId(gpu),
        cached_tokens=cached,
        missed_tokens=missed,
        load_ms=load,
        evict_ms=evict,
        prefill_ms=prefill,
        wait_ms=0.0,
        decode_ms=0.0,
        cost_ms=load + evict + prefill,
        holds_prefix=holds,
        decode_ratio=decode,
        requests=requests,
        resident_blocks=resident,
    )


def pick(*candidates, ratio=1.5):
    choice = E2(Traits(), msgspec.structs.replace(CONFIG, decode_imbalance_ratio=ratio), None).choose(candidates, 0.0)
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
    assert pick(candidate("a"), candidate("b")) == ("a", Mode.EXPLORE)


def test_prefill_goes_to_the_gpu_that_mostly_decodes():
    busy = [candidate("a", load=10, decode=0.9), candidate("b", load=9, decode=0.2), candidate("c", load=9, decode=0.3)]
    assert pick(*busy) == ("a", Mode.DECODE_HEAVY)


def test_a_decode_heavy_gpu_is_not_piled_on_while_others_idle():
    assert pick(candidate("a", load=10, decode=0.9), candidate("b")) == ("b", Mode.EXPLORE)


def test_where_every_gpu_mostly_decodes_cost_decides():
    assert pick(candidate("a", load=10, decode=0.95), candidate("b", load=9, decode=0.9)) == ("b", Mode.EXPLORE)


def test_the_reason_names_its_numbers():
    holders = [candidate("a", 60, 40, holds=True), candidate("b", 60, 40, holds=True)]
    e2 = E2(Traits(), CONFIG, None)
    because = "60 tokens are cached and 40 are not"
    assert e2.choose(holders, 0.0).reason == f"{because}: lowest cost of the 2 GPUs that cache the biggest part"
    assert e2.choose(holders[:1], 0.0).reason == f"{because}: the only GPU that caches the biggest part"


# --- rebalancing ---


def shift():
    return Shift(msgspec.structs.replace(CONFIG, rebalance_ratio=1.5, rebalance_until_ratio=1.2, rebalance_pause_s=10))


def loads(a, b):
    return [candidate("a", 60, 40, load=a, holds=True), candidate("b", load=b)]


def shifted_to(rebalancing, a, b, now_s=0.0):
    both = loads(a, b)
    instead = rebalancing.instead(both[0], both, now_s)
    return instead and instead[0].gpu


def test_the_paper_moves_load_from_the_heaviest_to_the_lightest():
    assert shifted_to(shift(), 150, 100) is None
    assert shifted_to(shift(), 151, 100) == "b"


def test_it_goes_on_until_the_loads_are_near_and_then_pauses():
    rebalancing = shift()
    assert shifted_to(rebalancing, 151, 100) == "b"
    assert shifted_to(rebalancing, 140, 110, 5.0) == "b"
    assert shifted_to(rebalancing, 132, 110, 6.0) is None
    assert shifted_to(rebalancing, 200, 100, 15.9) is None
    assert shifted_to(rebalancing, 200, 100, 16.0) == "b"


def test_it_lets_others_than_the_heaviest_be_exploited():
    both = loads(100, 200)
    assert shift().instead(both[0], both, 0.0) is None


def test_ours_leaves_a_holder_that_is_too_dear():
    both = loads(141, 100)
    assert TooDear(CONFIG).instead(both[0], both, 0.0)[0].gpu == "b"
    both = loads(140, 100)
    assert TooDear(CONFIG).instead(both[0], both, 0.0) is None


def test_who_rebalances_says_so():
    choice = E2(Traits(), CONFIG, TooDear(CONFIG)).choose(loads(141, 100), 0.0)
    assert (choice.chosen.gpu, choice.mode) == ("b", Mode.REBALANCE)
    assert choice.reason == "60 tokens are cached and 40 are not, but a costs over 1.4 times as much"


# --- the baselines ---


def test_round_robin_takes_turns_also_when_gpus_come_and_go():
    policy = RoundRobin()
    a, b, c = candidate("a"), candidate("b"), candidate("c")
    assert [policy.choose([a, b, c], 0.0).chosen.gpu for _ in range(4)] == ["a", "b", "c", "a"]
    assert policy.choose([a, c], 0.0).chosen.gpu == "c"
    assert policy.choose([a, b, c], 0.0).chosen.gpu == "a"


def test_least_loaded_counts_requests():
    chosen = LeastLoaded().choose(
        [candidate("a", requests=3), candidate("b", requests=1), candidate("c", requests=1)], 0.0
    )
    assert (chosen.chosen.gpu, chosen.mode) == ("b", Mode.LEAST_LOADED)


def test_prefix_affinity_goes_where_most_is_cached_while_queues_are_even():
    near = candidate("b", cached=60, missed=40, requests=32)
    assert PrefixAffinity().choose([candidate("a"), near], 0.0).chosen.gpu == "b"


def test_prefix_affinity_goes_to_the_shortest_queue_when_they_are_not():
    far = candidate("b", cached=60, missed=40, requests=33)
    assert PrefixAffinity().choose([candidate("a"), far], 0.0).chosen.gpu == "a"


def test_prefix_affinity_without_a_match_goes_to_the_emptiest_cache():
    few = candidate("b", cached=50, missed=50, resident=5)
    assert PrefixAffinity().choose([candidate("a", resident=9), few], 0.0).chosen.gpu == "b"
    assert PrefixAffinity().choose([candidate("a", resident=4), few], 0.0).chosen.gpu == "a"


# --- whom to exploit ---


def holders(policy):
    """Of a session's next prompt, whose history only "a" has, behind a longer system prompt that "b" has too."""
    bench = Bench("a", "b", config=msgspec.structs.replace(CONFIG, policy=policy))
    for gpu, text in (("a", "s" * 80), ("a", "s" * 80 + "h" * 40), ("b", "s" * 80)):
        bench(stored(gpu, text))
    candidates = bench.preview("r", "s" * 80 + "h" * 40 + "q" * 8).candidates
    return [candidate.gpu for candidate in candidates if candidate.holds_prefix]


def test_our_e2_exploits_who_has_about_the_longest_prefix_and_the_papers_who_has_the_biggest_part():
    assert (holders("e2"), holders("e2_paper")) == (["a"], ["a", "b"])


def test_nobody_holds_what_nobody_caches():
    for policy in ("e2", "e2_paper"):
        candidates = Bench("a", "b", config=msgspec.structs.replace(CONFIG, policy=policy)).preview("r", "x" * 8)
        assert not any(candidate.holds_prefix for candidate in candidates.candidates)
