"""How fast an engine's reports are taken in: from its raw messages, by way of our names of blocks, to the index."""

import time

import pytest
from bench.sched_loads import Reporter, chains, removed, stored

N_BLOCKS = 50_000
processor_time = pytest.mark.benchmark(timer=time.thread_time)


@processor_time
def test_blocks_are_stored(benchmark):
    payloads = list(stored(chains(N_BLOCKS)))

    def empty():
        return (Reporter(N_BLOCKS), payloads), {}

    benchmark.extra_info["blocks"] = chains(N_BLOCKS).size
    benchmark.pedantic(report_all, setup=empty, rounds=10)


@processor_time
def test_blocks_are_evicted(benchmark):
    payloads = list(removed(chains(N_BLOCKS)))

    def full():
        reporter = Reporter(N_BLOCKS)
        report_all(reporter, stored(chains(N_BLOCKS)))
        return (reporter, payloads), {}

    benchmark.extra_info["blocks"] = chains(N_BLOCKS).size
    benchmark.pedantic(report_all, setup=full, rounds=5)


@processor_time
def test_an_answer_grows_block_by_block(benchmark):
    rows = chains(N_BLOCKS).reshape(4, -1)
    payloads = list(stored(rows[:, :4000]))

    def empty():
        return (Reporter(N_BLOCKS), payloads), {}

    benchmark.extra_info["blocks"] = 16_000
    benchmark.pedantic(report_all, setup=empty, rounds=5)


def report_all(reporter, payloads):
    for payload in payloads:
        reporter.report(payload)
