"""What a GPU was given within the window: kept until it changes, and never out of date."""

from preble.daemon.sched.types import TimeModel
from preble.daemon.sched.window import LoadWindow

TIMES = TimeModel(prefill_base_ms=5.0, prefill_ms_per_token=0.1, decode_base_ms=8.0, decode_ms_per_sequence=2.0)
SLOWER = TimeModel(prefill_base_ms=5.0, prefill_ms_per_token=0.1, decode_base_ms=80.0, decode_ms_per_sequence=20.0)


def test_the_load_is_that_of_now_whatever_has_changed():
    window = LoadWindow(expected_output_tokens=10)
    assert window.load(TIMES, 1.0) == (0.0, 0.0)
    kept, taken = (window.give(now_s, 300.0, None) for now_s in (1.0, 2.0))
    assert window.load(TIMES, 1.0) == (600 + 2 * 10 * 10, 0.25)
    assert window.load(TIMES, 4.0) == (600 + 2 * 10 * 4, 80 / 680)
    assert window.load(SLOWER, 1.0) == (600 + 2 * 10 * 100, 2000 / 2600)
    window.take_back(taken)
    assert window.load(SLOWER, 1.0) == (300 + 10 * 100, 1000 / 1300)
    window.finish(3.0, 30)
    assert window.load(SLOWER, 1.0) == (300 + 30 * 100, 3000 / 3300)
    assert window.age(1.0) == [kept]
    assert window.load(SLOWER, 1.0) == (0.0, 0.0)
    window.give(4.0, 300.0, None)
    assert window.load(SLOWER, 1.0) == (300 + 30 * 100, 3000 / 3300)
    assert window.age(3.0) == [], "only what was learnt of answers"
    assert window.load(SLOWER, 1.0) == (300 + 10 * 100, 1000 / 1300)
