"""How long a decision takes, and the rest of a request's life, with a hundred thousand blocks indexed.

.venv/bin/pytest bench     # `bench/sched.py` has the growth table, up to ten million blocks
"""

import time

import pytest
from bench.sched_loads import WORKLOADS, Load

from preble.daemon.flow.events import EngineDown

N_BLOCKS = 100_000
processor_time = pytest.mark.benchmark(timer=time.thread_time)


@processor_time
@pytest.mark.parametrize("n_gpus", [8, 64])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_decision(benchmark, workload, n_gpus):
    load = Load(workload, N_BLOCKS, n_gpus)
    load.fill(N_BLOCKS)
    benchmark.pedantic(load.step, setup=lambda: ((load.prepare(),), {}), rounds=1000)
    assert load.machine.live_requests <= load.in_flight


@processor_time
def test_a_decision_with_a_long_line(benchmark):
    load = Load("tools", N_BLOCKS, 8, in_flight=128, seqs=32)
    load.fill(N_BLOCKS)
    benchmark.pedantic(load.step, setup=lambda: ((load.prepare(),), {}), rounds=1000)
    assert sum(view.waiting for view in load.machine.views(load.now_s)) > 500


@processor_time
@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_rest_of_a_requests_life(benchmark, workload):
    load = Load(workload, N_BLOCKS, 8)
    load.fill(N_BLOCKS)
    benchmark.pedantic(load.finish_one, setup=lambda: load.arrive(1), rounds=1000)


@processor_time
def test_a_gpu_dies_with_a_full_cache(benchmark):
    load = Load("documents", N_BLOCKS, 20)
    load.fill(N_BLOCKS)
    gpus = iter(load.caches)
    benchmark.pedantic(load.step, setup=lambda: ((EngineDown(gpu=next(gpus)),), {}), rounds=10)
