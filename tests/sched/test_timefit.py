"""The time model: fitted, never negative, and learnt from what is nearly alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.ids import AttemptId
from preble.daemon.priority import Priority
from preble.daemon.sched.observer import Observer
from preble.daemon.sched.timefit import TimeFit, fit_prefill
from preble.daemon.sched.types import TimeModel

LENGTHS = (32, 128, 512, 2048)
START = TimeModel(prefill_base_ms=5.0, prefill_ms_per_token=0.1, decode_base_ms=20.0, decode_ms_per_sequence=0.5)
A, B = AttemptId(1), AttemptId(2)


# --- fitting ---


@pytest.mark.parametrize("truth", [(4.0, 0.05, 0.0), (0.0, 0.05, 1e-5), (10.0, 0.0, 0.0), (1.0, 0.02, 3e-6)])
def test_an_exact_law_is_found(truth):
    base, linear, square = truth
    measured = [(n, base + linear * n + square * n * n) for n in LENGTHS]
    assert fit_prefill(measured) == pytest.approx(truth, rel=1e-6, abs=1e-9)


def test_a_law_that_would_need_a_negative_term_gets_the_nearest_without():
    base, linear, square = fit_prefill([(100, 1.0), (200, 4.0), (400, 16.0), (800, 70.0)])
    assert min(base, linear, square) >= 0
    assert square > 0


@given(st.lists(st.tuples(st.sampled_from(LENGTHS), st.floats(0.1, 1e4)), min_size=1, max_size=6))
def test_no_measurement_gives_a_negative_coefficient(measured):
    assert min(fit_prefill(measured)) >= 0


def test_before_any_observation_it_is_what_was_believed():
    fit = TimeFit(START)
    assert fit.model == START
    assert (fit.error.prefill_ratio, fit.error.decode_ratio, fit.error.observations) == (None, None, 0)


def test_it_comes_to_what_is_observed_and_its_error_falls():
    fit, rng = TimeFit(START), random.Random(1)
    for _ in range(400):
        n_tokens = rng.choice((100, 500, 2000, 8000))
        fit.prefilled(n_tokens, (9 + 0.25 * n_tokens) * rng.uniform(0.95, 1.05))
        batch = rng.choice((1, 8, 40))
        fit.decoded(batch, (12 + 1.5 * batch) * rng.uniform(0.95, 1.05))
    assert fit.model.prefill_ms(4000) == pytest.approx(9 + 0.25 * 4000, rel=0.05)
    assert fit.model.prefill_ms(200) == pytest.approx(9 + 0.25 * 200, rel=0.1)
    assert fit.model.decode_ms(1, 1) == pytest.approx(13.5, rel=0.1)
    assert fit.model.decode_base_ms / 40 + fit.model.decode_ms_per_sequence == pytest.approx(12 / 40 + 1.5, rel=0.1)
    assert fit.error.prefill_ratio < 0.05
    assert fit.error.decode_ratio < 0.06


def test_lengths_that_were_never_seen_keep_what_was_believed_of_them():
    fit = TimeFit(START)
    for _ in range(50):
        fit.prefilled(256, START.prefill_ms(256) * 1.1)
    assert fit.model.prefill_ms(16384) == pytest.approx(START.prefill_ms(16384), rel=0.25)


def test_the_wait_for_a_step_of_others_is_not_learnt_as_work():
    fit, rng = TimeFit(START), random.Random(1)
    for _ in range(800):
        n_tokens, step_ms = rng.choice((50, 100, 500, 2000)), 100.0
        fit.prefilled(n_tokens, 9 + 0.25 * n_tokens + rng.uniform(0, step_ms), step_ms / 2)
    assert fit.model.prefill_ms(50) == pytest.approx(9 + 0.25 * 50, rel=0.5)
    assert fit.model.prefill_ms(2000) == pytest.approx(9 + 0.25 * 2000, rel=0.05)


def test_one_pause_of_the_machine_changes_nothing():
    fit = TimeFit(START)
    for _ in range(31):
        fit.prefilled(1000, START.prefill_ms(1000))
    fit.prefilled(1000, 20_000.0)
    assert fit.model.prefill_ms(1000) == pytest.approx(START.prefill_ms(1000), rel=0.01)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("p"), st.integers(1, 20_000), st.floats(-10, 1e5)),
            st.tuples(st.just("d"), st.floats(1, 300), st.floats(-10, 1e5)),
        ),
        max_size=60,
    )
)
def test_whatever_is_observed_time_never_runs_backwards(observations):
    fit = TimeFit(START)
    for kind, amount, took_ms in observations:
        (fit.prefilled if kind == "p" else fit.decoded)(amount, took_ms)
    times_ms = [fit.model.prefill_ms(n) for n in (0, 1, 10, 300, 384, 5000)]
    assert times_ms == sorted(times_ms)
    assert times_ms[0] == 0


# --- observing ---


class Fit:
    """Takes down what it is told."""

    model = START

    def __init__(self):
        self.seen = []

    def prefilled(self, n_tokens, took_ms, others_ms):
        self.seen.append(("prefill", n_tokens, round(took_ms, 6), round(others_ms, 6)))

    def decoded(self, batch, step_ms):
        self.seen.append(("decode", round(batch, 6), round(step_ms, 6)))


@pytest.fixture
def fit():
    return Fit()


@pytest.fixture
def observer(fit):
    return Observer(fit, max_num_batched_tokens=1000)


def test_a_prefill_alone_is_observed(fit, observer):
    observer.launched(A, 10.0, 500, Priority.USUAL)
    observer.now(10.0, 1, True)
    observer.first_token(A, 10.06)
    assert fit.seen == [("prefill", 500, 60, 0)]


def test_what_decodes_beside_it_is_taken_off_and_half_of_the_step_under_way(fit, observer):
    observer.now(0.0, 4, False)
    observer.launched(A, 10.0, 1500, Priority.USUAL)
    observer.first_token(A, 10.2)
    decode_ms = 4 * START.decode_ms_per_sequence
    assert fit.seen == [("prefill", 1500, 200, (START.decode_base_ms + decode_ms) / 2 + 2 * decode_ms)]


def test_the_batch_is_the_mean_of_what_ran_since_the_first_token(observer):
    observer.launched(A, 0.0, 0, Priority.USUAL)
    observer.now(0.0, 9, True)
    assert observer.mean_batch(A, 1.0) is None
    observer.first_token(A, 1.0)
    assert observer.mean_batch(A, 1.0) is None
    observer.now(2.0, 3, False)
    assert observer.mean_batch(A, 4.0) == (9 + 2 * 3) / 3


def test_a_prefill_behind_another_is_not(fit, observer):
    observer.launched(A, 10.0, 500, Priority.USUAL)
    observer.now(10.0, 1, True)
    observer.launched(B, 10.01, 700, Priority.USUAL)
    observer.first_token(B, 10.2)
    assert fit.seen == []


@pytest.mark.parametrize("first", [Priority.YIELDING, Priority.USUAL])
def test_a_prefill_that_a_light_one_went_before_is_not(first, fit, observer):
    launch_two(observer, first, Priority.LIGHT)
    observer.first_token(A, 10.06)
    assert fit.seen == []


@pytest.mark.parametrize("both", [Priority.LIGHT, Priority.USUAL])
def test_a_prefill_before_another_of_its_priority_is(both, fit, observer):
    launch_two(observer, both, both)
    observer.first_token(A, 10.06)
    assert fit.seen == [("prefill", 500, 60, 0)]


def launch_two(observer, first, second):
    observer.launched(A, 10.0, 500, first)
    observer.now(10.0, 1, True)
    observer.launched(B, 10.01, 700, second)


def test_what_yields_is_observed_if_it_fits_into_its_short_step(fit, observer):
    for attempt, n_tokens in ((A, 500), (B, 501)):
        observer.launched(attempt, 10.0, n_tokens, Priority.YIELDING)
        observer.first_token(attempt, 10.06)
        observer.ended(attempt, 11.0)
    assert fit.seen == [("prefill", 500, 60, 0)]


def test_decoding_without_prefills_is_observed_with_its_mean_batch(fit, observer):
    observer.launched(A, 0.0, 0, Priority.USUAL)
    observer.now(0.0, 1, False)
    observer.first_token(A, 1.0)
    observer.now(2.0, 3, False)
    observer.ended(A, 3.0, output_tokens=101)
    assert fit.seen == [("decode", 2.0, 20.0)]


def test_decoding_beside_prefills_is_not(fit, observer):
    observer.launched(A, 0.0, 0, Priority.USUAL)
    observer.now(0.0, 1, False)
    observer.first_token(A, 1.0)
    observer.now(2.0, 2, True)
    observer.now(2.3, 2, False)
    observer.ended(A, 3.0, output_tokens=101)
    assert fit.seen == []


def test_few_tokens_and_ends_before_the_first_tell_nothing(fit, observer):
    for attempt in (A, B):
        observer.launched(attempt, 0.0, 0, Priority.USUAL)
    observer.now(0.0, 2, False)
    observer.first_token(A, 1.0)
    observer.ended(A, 2.0, output_tokens=8)
    observer.ended(B, 2.0, output_tokens=100)
    assert fit.seen == []
