"""What is said of a decision beside what then happened."""

import pytest
from msgspec.structs import replace
from tests.tui.feeds import explanation, request

from preble.tui.explaining import outcome_lines


def first_token(*, wait_ms, prefill_ms, queue_ms, ttft_ms):
    """The two lines about the time to the first token."""
    told = explanation(request(2))
    candidates = [replace(row, wait_ms=wait_ms, prefill_ms=prefill_ms) for row in told.candidates]
    actual = replace(told.actual, queue_ms=queue_ms, ttft_ms=ttft_ms)
    lines = outcome_lines(replace(told, candidates=candidates, actual=actual), 100)
    texts = ["".join(text for text, _ in line) for line in lines]
    return [text.split(maxsplit=1)[1] for text in texts if "TTFT" in text.split()[:2]]


def test_what_was_predicted_to_wait_and_compute_is_compared_with_the_whole_time_to_the_first_token():
    """A wait of 1.9 s that passed in the engine, not in the daemon, is no wrong prediction."""
    compared, parts = first_token(wait_ms=1900.0, prefill_ms=100.0, queue_ms=5.0, ttft_ms=2050.0)
    assert compared == "1.9 s wait + 100 ms prefill predicted, 2.05 s really"
    assert parts.startswith("TTFT   5 ms in the daemon's queue + 2.04 s in the engine, waiting or computing")


@pytest.mark.parametrize(("ttft_ms", "sign"), [(4300.0, "▲ 4.3× off"), (250.0, "▲ 3.99× off")])
def test_what_is_far_off_is_marked(ttft_ms, sign):
    compared, _ = first_token(wait_ms=900.0, prefill_ms=100.0, queue_ms=200.0, ttft_ms=ttft_ms)
    assert compared.endswith(sign)


def test_what_is_not_known_is_not_compared():
    compared, parts = first_token(wait_ms=900.0, prefill_ms=100.0, queue_ms=None, ttft_ms=None)
    assert compared == "900 ms wait + 100 ms prefill predicted, – really"
    assert parts.startswith("TTFT   – in the daemon's queue + – in the engine")
