"""Timelines computed by hand, and what must hold of any: 10 ms a step, 1 ms a token, blocks of 4, 16 tokens a step."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.sim.modelled import BLOCK, MS, bench, job, keys

from preble.daemon.flow.events import BlocksRemoved, BlocksStored
from preble.daemon.priority import Priority
from preble.daemon.sim.steps import Run


def test_a_lone_request_takes_its_prefill_and_a_step_for_each_further_token():
    seen = bench().play((5, job(1, (1, 8), output=3)))
    assert (seen.first_ms, seen.end_ms) == ({1: 5 + 18}, {1: 5 + 18 + 11 + 11})


def test_contexts_lengthen_decoding_steps_as_they_grow():
    seen = bench(ms_per_context_token=0.5).play((0, job(1, (1, 8), output=4)))
    assert seen.end_ms == {1: 18 + (11 + 4.5) + (11 + 5.0) + (11 + 5.5)}


def test_a_prompt_over_the_budget_is_computed_in_chunks():
    seen = bench().play((0, job(1, (1, 20))))
    assert seen.end_ms == seen.first_ms == {1: 26 + 14}


def test_decoding_goes_first_and_chunks_get_the_rest_of_the_budget():
    seen = bench().play((0, job(1, (1, 4), output=4)), (1, job(2, (2, 20))))
    # 0-14: the first's prompt; then one token of it beside 15 and beside the other 5; then it alone
    assert seen.first_ms == {1: 14, 2: 14 + 26 + 16}
    assert seen.end_ms == {1: 14 + 26 + 16 + 11, 2: 14 + 26 + 16}


def test_a_step_computes_no_more_than_the_budget():
    seen = bench().play((0, job(1, (1, 4), output=4)), (1, job(2, (2, 16))))
    assert seen.first_ms == {1: 14, 2: 14 + 26 + 12}  # 15 beside one that decodes, then the last


def test_contexts_count_only_while_they_are_there():
    alone = bench(ms_per_context_token=0.5).play((0, job(2, (2, 8), output=5)))
    after = bench(ms_per_context_token=0.5).play((0, job(1, (1, 20), output=9)), (500, job(2, (2, 8), output=5)))
    assert after.end_ms[2] == 500 + alone.end_ms[2]


def test_contexts_that_sequences_share_may_cost_less():
    jobs = [(0, job(n, (1, 8), (1 + n, 1), output=3)) for n in (1, 2)]
    apart = bench(budget=64, ms_per_context_token=0.5).play(*jobs)
    jobs = [(0, job(n, (1, 8), (1 + n, 1), output=3)) for n in (1, 2)]
    shared = bench(budget=64, ms_per_context_token=0.5, shared=0.25).play(*jobs)
    assert apart.end_ms[1] - shared.end_ms[1] == 2 * 8 * 0.25  # two steps, in which one of them reads 8 tokens again


def test_a_request_is_paid_for_in_the_step_that_begins_it():
    seen = bench(ms_per_request=5.0).play((0, job(1, (1, 20), output=2)), (100, job(2, (1, 20))), (100, job(3, (3, 4))))
    assert (seen.first_ms[1], seen.end_ms[1]) == (26 + 5 + 14, 26 + 5 + 14 + 11)
    assert seen.end_ms[2] == seen.end_ms[3] == 100 + 18 + 2 * 5


def test_a_preempted_request_is_paid_for_once():
    limits = {"kv_blocks": 4, "max_model_len": 16}
    paid, free = (
        bench(**limits, ms_per_request=more).play((0, job(1, (1, 4), output=12)), (0, job(2, (2, 4), output=8)))
        for more in (5.0, 0.0)
    )  # the second finds none of its blocks again: the first has taken all
    assert paid.jobs[2].preemptions == free.jobs[2].preemptions == 1
    assert paid.end_ms[2] - free.end_ms[2] == 2 * 5


def test_prompts_share_a_step_in_the_order_of_arrival():
    seen = bench().play((0, job(1, (1, 6))), (0, job(2, (2, 6))), (0, job(3, (3, 6))))
    assert seen.first_ms == {1: 26, 2: 26, 3: 26 + 12}


def test_an_arrival_waits_for_the_step_under_way_and_joins_one_that_begins_just_then():
    decoding = job(1, (1, 4), output=10)  # steps end at 14, 25, 36, ...
    assert bench().play((0, decoding), (24, job(2, (2, 4)))).first_ms[2] == 25 + 15
    decoding = job(1, (1, 4), output=10)
    assert bench().play((0, decoding), (25, job(2, (2, 4)))).first_ms[2] == 25 + 15
    decoding = job(1, (1, 4), output=10)
    assert bench().play((0, decoding), (25.001, job(2, (2, 4)))).first_ms[2] == 36 + 15


def test_no_more_sequences_run_than_may():
    seen = bench(max_num_seqs=2).play(*((0, job(i, (i, 4), output=3)) for i in (1, 2, 3)))
    assert seen.end_ms == {1: 18 + 12 + 12, 2: 42, 3: 42 + 14 + 11 + 11}


# --- the prefix cache ---


def test_a_repeated_prompt_is_hit_but_for_the_block_of_its_last_token():
    seen = bench().play((0, job(1, (1, 12))), (100, job(2, (1, 12))), (200, job(3, (1, 13))))
    assert [seen.jobs[i].cached_tokens for i in (1, 2, 3)] == [0, 8, 12]
    assert seen.first_ms == {1: 22, 2: 100 + 14, 3: 200 + 11}


def test_a_prompt_can_be_hit_in_the_very_step_that_computes_it():
    seen = bench().play((0, job(1, (1, 8), (2, 2))), (0, job(2, (1, 8), (3, 2))))
    assert seen.jobs[2].cached_tokens == 8
    assert seen.first_ms == {1: 22, 2: 22}


def test_what_is_computed_is_reported_after_its_step_and_answers_at_their_end():
    seen = bench().play((0, job(1, (1, 20), output=6)))
    chain = keys((1, 20), (1001, 6))
    assert seen.changes == [
        (26, BlocksStored(keys=chain[:4], parent=None)),
        (40, BlocksStored(keys=chain[4:5], parent=chain[3])),
        (95, BlocksStored(keys=chain[5:6], parent=chain[4])),  # 5 of 6 tokens were fed back, so one block is full
    ]


def test_a_session_hits_its_own_answer():
    seen = bench().play((0, job(1, (1, 6), output=7)), (500, job(2, (1, 6), (1001, 7), (2, 3))))
    assert seen.jobs[2].cached_tokens == 12


def test_the_least_recently_used_prompt_is_evicted_first_and_from_its_end():
    prompts = [(0, job(1, (1, 12))), (100, job(2, (2, 12))), (200, job(3, (1, 13))), (300, job(4, (4, 20)))]
    seen = bench(kv_blocks=8, max_model_len=32).play(*prompts)
    # 6 blocks cached by 1 and 2, of which 3 used the first three again; 4 takes two free ones and three of 2's
    removed = [change for _, change in seen.changes if isinstance(change, BlocksRemoved)]
    assert [key for change in removed for key in change.keys] == list(reversed(keys((2, 12))))
    assert set(keys((1, 12))) <= seen.cached


def test_a_shared_beginning_outlives_what_followed_it():
    plan = [(0, job(1, (1, 8), (2, 4))), (100, job(2, (1, 8), (3, 4))), (200, job(3, (4, 12)))]
    seen = bench(kv_blocks=6, max_model_len=24).play(*plan, (300, job(4, (1, 9))))
    assert seen.jobs[2].cached_tokens == 8
    assert seen.jobs[4].cached_tokens == 8


def test_blocks_that_cache_nothing_are_used_before_any_is_evicted():
    plan = [(0, job(1, (1, 4))), (100, job(2, (2, 3))), (200, job(3, (3, 3), output=1))]
    seen = bench(kv_blocks=2, max_model_len=8).play(*plan)
    assert seen.cached == set(keys((1, 4)))


# --- running out of blocks ---


def test_a_request_starts_only_when_its_whole_prompt_fits():
    seen = bench(kv_blocks=6, max_model_len=24).play((0, job(1, (1, 12), output=2)), (0, job(2, (2, 16))))
    # 2 has tokens left in the first step, and blocks for a chunk, but not for all of it
    assert seen.first_ms == {1: 22, 2: 33 + 26}


def test_the_latest_is_preempted_and_goes_on_where_it_was():
    plan = [(0, job(1, (1, 4), output=8)), (0, job(2, (2, 4), output=8))]
    seen = bench(kv_blocks=4, max_model_len=16).play(*plan)
    # 18: both have a token and a second block for their answers. After four more steps both want a third block.
    preempted_ms = 18 + 4 * 12
    assert [seen.jobs[i].preemptions for i in (1, 2)] == [0, 1]
    first_ends_ms = preempted_ms + 3 * 11
    assert seen.end_ms[1] == first_ends_ms
    # by then 1 has taken one of 2's blocks: the second; the first is hit, 5 of 9 tokens are computed again, 2 follow
    assert seen.end_ms[2] == first_ends_ms + 15 + 2 * 11
    assert seen.first_ms == {1: 18, 2: 18}
    assert [seen.jobs[i].produced for i in (1, 2)] == [8, 8]
    assert seen.jobs[2].cached_tokens == 0  # as it was first found


def test_nothing_new_starts_in_a_step_that_preempts():
    plan = [(0, job(1, (1, 4), output=9)), (0, job(2, (2, 4), output=9)), (65, job(3, (3, 2)))]
    seen = bench(kv_blocks=5, max_model_len=20, max_num_seqs=3).play(*plan)
    assert seen.jobs[2].preemptions == 1
    assert seen.first_ms[3] > seen.end_ms[1]  # it stands behind the one preempted


def test_a_prompt_computed_in_part_is_preempted_before_what_decodes():
    plan = [(0, job(1, (1, 4), output=8)), (0, job(2, (2, 24)))]
    seen = bench(kv_blocks=7, budget=8, max_model_len=28).play(*plan)
    assert [seen.jobs[i].preemptions for i in (1, 2)] == [0, 1]


def test_a_prompt_computed_in_part_goes_on_while_its_next_chunk_fits():
    plan = [(0, job(1, (1, 4), output=3)), (0, job(2, (2, 24)))]
    seen = bench(kv_blocks=7, budget=8, max_model_len=28).play(*plan)
    # beside 1's two blocks only five of its six fit, but 1 ends before the sixth is wanted
    assert seen.jobs[2].preemptions == 0
    assert seen.first_ms[2] == 18 + 18 + 18 + 16


# --- aborting ---


def test_an_aborted_request_ends_with_the_step_under_way_and_leaves_its_blocks():
    seen = bench().play((0, job(1, (1, 8), output=20)), (30, 1))
    assert seen.end_ms == {1: 40}
    assert seen.jobs[1].produced == 3
    assert seen.engine.kv.n_available == 100
    assert seen.cached == set(keys((1, 8)))


def test_an_aborted_prompt_leaves_what_was_computed_of_it():
    seen = bench().play((0, job(1, (1, 40))), (1, 1))
    assert seen.end_ms == {1: 26}
    assert seen.jobs[1].produced == 0
    assert seen.cached == set(keys((1, 16)))
    assert seen.engine.kv.n_available == 100


def test_a_waiting_request_can_be_aborted():
    seen = bench(max_num_seqs=1).play((0, job(1, (1, 4), output=5)), (1, job(2, (2, 4))), (20, 2))
    assert seen.end_ms == {1: 14 + 44, 2: 25}


def test_a_request_can_be_aborted_before_its_first_step():
    seen = bench().play((5, job(1, (1, 4))), (5, 1))
    assert seen.end_ms == {1: 5}
    assert seen.cached == set()


def test_aborting_what_has_ended_changes_nothing():
    seen = bench().play((0, job(1, (1, 4))), (14, 1), (50, 1))
    assert seen.end_ms == {1: 14}


# --- who stands back ---

LIGHT, USUAL, YIELDING = Priority.LIGHT, Priority.USUAL, Priority.YIELDING


def test_a_light_prompt_is_computed_alone_while_what_yields_stands_back():
    seen = bench().play(
        (0, job(1, (1, 4), output=10, priority=YIELDING)), (15, job(2, (2, 8), output=3, priority=LIGHT))
    )
    assert seen.first_ms == {1: 14, 2: 14 + 11 + 18}  # the step under way, and one without the other's token
    assert seen.end_ms == {2: 43 + 12 + 12, 1: 43 + 2 * 12 + 6 * 11}  # then both decode


def test_what_does_not_yield_decodes_beside_it():
    seen = bench().play((0, job(1, (1, 4), output=10)), (15, job(2, (2, 8), output=3, priority=LIGHT)))
    assert seen.first_ms == {1: 14, 2: 14 + 11 + 19}


@pytest.mark.parametrize("other", [USUAL, YIELDING])
def test_a_prompt_begun_is_passed_over_for_a_light_one(other):
    n_step = {USUAL: 16, YIELDING: 8}[other]
    seen = bench().play((0, job(1, (1, 30), priority=other)), (1, job(2, (2, 20), priority=LIGHT)))
    light_ms = 10 + n_step + 26 + 14
    assert seen.first_ms[2] == light_ms
    assert seen.first_ms[1] == light_ms + 30 - n_step + 10 * {USUAL: 1, YIELDING: 3}[other]
    assert seen.jobs[1].preemptions == 0


def test_after_four_steps_of_light_prompts_what_yields_has_a_part_in_one():
    seen = bench(kv_blocks=200, max_model_len=200).play(
        (0, job(1, (1, 4), output=3, priority=YIELDING)), (1, job(2, (2, 6 * 16), priority=LIGHT))
    )
    assert seen.end_ms[2] == 14 + 6 * 26 + 11  # of the fifth step one token is the other's: a seventh has what is left
    assert seen.end_ms[1] == seen.end_ms[2] + 11


def test_prompts_that_yield_have_half_of_a_step():
    seen = bench().play((0, job(1, (1, 12), output=9, priority=YIELDING)), (1, job(2, (2, 20), priority=YIELDING)))
    # 8 and 4 of the first, with 4 of the second; then 8 of it, beside a token of the first, twice
    assert seen.first_ms == {1: 18 + 18, 2: 18 + 18 + 19 + 19}


def test_whoever_is_there_too_and_does_not_yield_makes_steps_whole():
    seen = bench().play((0, job(1, (1, 20), priority=YIELDING)), (1, job(2, (2, 8))))
    assert seen.first_ms == {1: 18 + 26, 2: 18 + 26 + 14}  # all 12 that are left of it, and 4 of the other


def test_nobody_stands_back_for_a_light_prompt_that_has_no_room():
    seen = bench(kv_blocks=6, max_model_len=24).play(
        (0, job(1, (1, 12), output=5, priority=YIELDING)), (37, job(2, (2, 16), priority=LIGHT))
    )
    first_ms = 18 + 14
    assert seen.end_ms[1] == first_ms + 4 * 11
    assert seen.first_ms[2] == seen.end_ms[1] + 26


# --- whatever happens ---

REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 60),  # ms after the one before
        st.integers(0, 3),  # which shared beginning
        st.integers(0, 16),  # its length
        st.integers(1, 20),  # tokens of its own
        st.integers(1, 24),  # of its answer
        st.none() | st.integers(0, 200),  # when it is aborted
        st.sampled_from([*Priority, Priority.LIGHT]),
    ),
    min_size=1,
    max_size=14,
)
LIMITS = st.fixed_dictionaries(
    {
        "kv_blocks": st.integers(15, 40),
        "max_num_seqs": st.integers(1, 6),
        "budget": st.integers(6, 30),
        "max_model_len": st.just(60),
        "threshold": st.sampled_from([0, 0, 3, 8]),
        "ms_per_context_token": st.sampled_from([0.0, 0.25]),
        "shared": st.sampled_from([None, 0.0]),
        "ms_per_request": st.sampled_from([0.0, 2.5]),
    }
)


def plan_of(requests):
    plan, now_ms = [], 0
    for number, (gap, shared, n_shared, n_own, output, abort_after, low) in enumerate(requests, 1):
        now_ms += gap
        own = 100 + number if n_own % 3 else 99  # else a prompt that may come again
        plan.append((now_ms, 1, job(number, (shared, n_shared), (own, n_own), output=output, priority=low)))
        if abort_after is not None:
            plan.append((now_ms + abort_after, 2, number))
    return [(ms, what) for ms, _, what in sorted(plan, key=lambda entry: entry[:2])]


@settings(max_examples=300)
@given(REQUESTS, LIMITS)
def test_passing_many_steps_at_once_comes_to_the_same_as_one_by_one(requests, limits):
    fast = bench(**limits).play(*plan_of(requests))
    slow = bench(one_by_one=True, **limits).play(*plan_of(requests))
    assert fast.first_ms == slow.first_ms
    assert fast.end_ms == slow.end_ms
    assert set(fast.end_ms) == set(range(1, len(requests) + 1))
    for number, done in fast.jobs.items():
        other = slow.jobs[number]
        assert (done.cached_tokens, done.produced, done.preemptions) == (
            other.cached_tokens,
            other.produced,
            other.preemptions,
        )
    assert blocks_in_order(fast, BlocksStored) == blocks_in_order(slow, BlocksStored)
    assert blocks_in_order(fast, BlocksRemoved) == blocks_in_order(slow, BlocksRemoved)
    assert fast.n_settled <= slow.n_settled


def blocks_in_order(seen, kind):
    return [key for _, change in seen.changes if isinstance(change, kind) for key in change.keys]


def test_passing_many_steps_at_once_is_one_run():
    seen = bench(max_model_len=1000, kv_blocks=1000).play((0, job(1, (1, 8), output=900)))
    assert seen.n_settled == 2


@settings(max_examples=300)
@given(REQUESTS, LIMITS)
def test_every_block_is_free_cached_or_held_and_reports_say_what_is_cached(requests, limits):
    seen = bench(**limits).play(*plan_of(requests), watch=check_blocks)
    assert seen.engine.kv.n_available == limits["kv_blocks"]
    for done in seen.jobs.values():
        assert done.cached_tokens < done.prompt_tokens
        assert done.cached_tokens % BLOCK == 0


def check_blocks(seen):
    engine, kv = seen.engine, seen.engine.kv
    nodes = set(kv._node_of.values())
    private = 0
    for running in engine._running.values():
        n_decoded = engine._decoding.step - running.as_of_step if running.end_step is not None else 0
        private += -(-(running.computed + n_decoded) // BLOCK) - running.n_cached
    assert kv._empty + kv.n_cached + private == kv.n_blocks
    assert kv.n_unheld == sum(len(node.keys) for node in nodes if not node.holders)
    assert kv.n_available == kv._empty + kv.n_unheld
    assert set(kv._evictable) == {node for node in nodes if not node.holders}
    for node in nodes:
        children = [each for each in nodes if each.parent is node]
        assert len(children) == node.n_children
        own = sum(running.chain is node for running in engine._running.values())
        assert node.holders == own + sum(child.holders > 0 for child in children)
        assert node.start == (node.parent.end if node.parent else 0)
    assert set(kv._node_of) == seen.cached
    order = list(kv._evictable)
    for child in order:
        if child.parent in kv._evictable:
            assert order.index(child) < order.index(child.parent)


@given(st.integers(1, 10**12), st.integers(0, 10**9), st.integers(1, 2000), st.integers(0, 10**16), st.integers(-1, 1))
def test_the_step_under_way_is_found_exactly(first_ps, growth_ps, n_steps, elapsed_ps, off_by_ps):
    growth_ps = min(growth_ps, first_ps)

    def run(n):
        return Run(start_ps=7, n_steps=n, first_ps=first_ps, growth_ps=growth_ps, prefilled=())

    whole = run(n_steps)
    exactly = run(max(1, elapsed_ps % n_steps)).ends_ps  # the end of some step, to the picosecond
    for now_ps in (min(7 + elapsed_ps, whole.ends_ps), max(7, min(exactly + off_by_ps, whole.ends_ps))):
        n = whole.step_at(now_ps)
        assert run(n).ends_ps >= now_ps
        assert n == 1 or run(n - 1).ends_ps < now_ps


def test_what_never_fits_is_refused_at_once():
    with pytest.raises(AssertionError):
        bench().play((0, job(1, (1, 100), output=1)))


def test_held_blocks_grow_while_a_run_goes_on():
    seen = bench()
    engine = seen.engine
    engine.submit(job(1, (1, 4), output=40), 0)
    engine.start(0)
    engine.settle(engine.ends_ps)
    engine.start(14 * MS)
    held = [engine.held_blocks(round(ms * MS)) for ms in (14, 15, 25 + 33, 25 + 33.1, 25 + 77.1)]
    assert held == [2, 2, 2, 3, 4]
    assert all(before <= after for before, after in pairwise(held))
