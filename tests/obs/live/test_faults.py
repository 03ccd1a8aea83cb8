"""A fault at every tick is not a line at every tick."""

import pytest
from structlog.testing import capture_logs

from preble.daemon.obs.live.faults import Faults


def raised(cause):
    try:
        cause()
    except Exception as error:
        return error


@pytest.fixture
def lines():
    with capture_logs() as found:
        yield found


def test_one_kind_is_told_at_once_and_then_ever_more_seldom_with_how_often_it_was(lines):
    faults = Faults("feed_failed")
    for tick in range(2 * 3600):
        faults.note(raised(lambda: 1 / 0), tick / 2)
    assert [line["event"] for line in lines] == ["feed_failed"] * 9
    assert [line["untold"] for line in lines[:3]] == [0, 19, 39]
    assert sum(line["untold"] for line in lines) + len(lines) <= faults.total == 7200


def test_kinds_are_told_by_themselves(lines):
    faults = Faults("feed_failed")
    for _ in range(3):
        faults.note(raised(lambda: 1 / 0), 0.0)
        faults.note(raised(lambda: 2 / 0), 0.0)
        faults.note(raised(lambda: {}["x"]), 0.0)
    assert [type(line["exc_info"]).__name__ for line in lines] == ["ZeroDivisionError", "ZeroDivisionError", "KeyError"]
