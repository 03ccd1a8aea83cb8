"""Rows and gauges of engines: what their supervisors, the machine and the engines themselves know of them."""

from types import SimpleNamespace

import pytest
from tests.core import MODEL, TIMES, Bench

from preble.daemon.engine.metrics import EngineMetrics
from preble.daemon.engine.supervisor import EngineState, EngineStatus
from preble.daemon.flow.gpus import GpuDesk
from preble.daemon.ids import GpuId
from preble.daemon.sched.returns import ReturnCounts

NO_RETURNS = ReturnCounts(expected=0, returned=0, found=0, expired=0)
METRICS = EngineMetrics(
    block_size=4,
    kv_blocks=1001,
    running=1,
    waiting=0,
    kv_usage_ratio=0.25,
    prefix_query_tokens=400,
    prefix_hit_tokens=100,
    prompt_tokens=400,
    generation_tokens=9,
)


def status(gpu, **changes):
    values = {
        "gpu": GpuId(gpu),
        "model": MODEL,
        "state": EngineState.READY,
        "detail": "",
        "pid": 1,
        "epoch": 2,
        "restarts": 1,
        "uptime_s": 5.0,
        "limits": None,
        "time_model": TIMES,
        "metrics": METRICS,
        "heard_s": 0.5,
        "unplaced_blocks": 0,
    }
    return EngineStatus(**{**values, **changes})


@pytest.fixture
def bench():
    return Bench("a")


def desk(bench, *rows, returns=NO_RETURNS):
    return GpuDesk(
        SimpleNamespace(rows=rows),
        lambda: bench.machine.views(bench.now_s),
        lambda _: 7.0,
        lambda _: returns,
        lambda gpu: bench.machine.foresee(gpu, bench.now_s),
    )


def test_a_row_has_what_each_of_them_knows(bench):
    bench.arrive("r1", "x" * 40)
    [row] = desk(bench, status("a")).rows()
    assert (row.gpu, row.state, row.restarts, row.running, row.ttft_p50_ms) == ("a", "ready", 1, 1, 7.0)
    assert (row.kv_used_ratio, row.hit_ratio) == (0.25, 0.25)
    assert row.outstanding_ms > 40


def test_what_is_not_known_yet_is_none_and_not_zero(bench):
    [row] = desk(bench, status("new", state=EngineState.STARTING, metrics=None)).rows()
    assert (row.kv_used_ratio, row.hit_ratio, row.return_hit_ratio, row.prefill_error_ratio) == (None,) * 4
    assert (row.running, row.indexed_blocks) == (0, 0)


def test_of_returns_from_tools_the_share_that_found_their_prefix_is_shown(bench):
    counts = ReturnCounts(expected=9, returned=4, found=3, expired=5)
    assert [row.return_hit_ratio for row in desk(bench, status("a"), status("b"), returns=counts).rows()] == [0.75] * 2


def test_blocks_that_no_prompt_can_match_are_on_the_page(bench):
    assert [row.unplaced_blocks for row in desk(bench, status("a", unplaced_blocks=5), status("b")).gauges()] == [5, 0]
