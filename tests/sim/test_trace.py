"""Traces: what a file means, which files are refused, and that what is written can be read again."""

import json
from pathlib import Path

import pytest

from preble.daemon.errors import ConfigError
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.oracle import oracle_hit_ratio
from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.trace import read, write
from preble.daemon.sim.types import Piece, SimRequest
from preble.daemon.sim.workloads import WORKLOADS

GOOD = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [7, 8]}'


def trace(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def line(at_ms, n_tokens, *hash_ids):
    return f'{{"timestamp": {at_ms}, "input_length": {n_tokens}, "output_length": 9, "hash_ids": {list(hash_ids)}}}'


def test_blocks_become_pieces_and_equal_ids_are_shared(tmp_path):
    first, second = read(trace(tmp_path, line(500, 600, 7, 8), line(1500, 1030, 7, 9, 10)))
    assert [piece.n_tokens for piece in first.prompt] == [512, 88]
    assert [piece.n_tokens for piece in second.prompt] == [512, 512, 6]
    assert first.prompt[0] == second.prompt[0]
    assert len({piece.content for piece in first.prompt + second.prompt}) == 4
    assert (first.at_s, second.at_s) == (0.0, 1.0)
    assert (second.output_tokens, second.max_output_tokens) == (9, 9)


def test_a_rate_stretches_time_and_the_cap_counts_before_it(tmp_path):
    path = trace(tmp_path, line(0, 5, 1), line(1000, 5, 2), line(4000, 5, 3), line(400_000, 5, 4))
    assert [request.at_s for request in read(path, limit=3, rate=2.0)] == [0.0, 0.25, 1.0]


def test_lines_after_the_cap_are_not_looked_at(tmp_path):
    assert len(read(trace(tmp_path, GOOD, "rubbish"), limit=1)) == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("rubbish", "JSON is malformed"),
        ("", "truncated"),
        (GOOD.replace("600", "1025"), "2 hash_ids for 1025 tokens, which are 3 blocks of 512"),
        (GOOD.replace("600", "0"), ">= 1"),
        (GOOD.replace("[7, 8]", '["a", "b"]'), "Expected `int`"),
        (GOOD.replace('"output_length": 5', '"outputs": 5'), "outputs"),
        (GOOD.replace('"timestamp": 0', '"timestamp": -1'), ">= 0"),
        (GOOD.replace('"timestamp": 0', '"timestamp": 1e999'), "out of range"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, bad, says):
    with pytest.raises(ConfigError) as caught:
        read(trace(tmp_path, GOOD, bad, GOOD))
    assert "trace.jsonl:2: " in str(caught.value)
    assert says in str(caught.value)


def test_time_must_not_go_back(tmp_path):
    with pytest.raises(ConfigError, match=r":3: timestamp 5 is before the last one, 9"):
        read(trace(tmp_path, GOOD, line(9, 5, 1), line(5, 5, 1)))


def test_files_that_give_no_requests_are_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="no request in it"):
        read(tmp_path / "empty")
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "missing")
    with pytest.raises(ConfigError, match="all 2 requests come at once"):
        read(trace(tmp_path, GOOD, GOOD), rate=1.0)


def ids_of(*prompts):
    """The hash ids of prompts in a written trace."""
    requests = [
        SimRequest(
            request_id=RequestId(f"r{number}"),
            tenant=TenantName("default"),
            at_s=0.0,
            prompt=tuple(Piece(*piece) for piece in prompt),
            output_tokens=1,
            output_content=1000 + number,
            max_output_tokens=1,
        )
        for number, prompt in enumerate(prompts)
    ]
    return [json.loads(written)["hash_ids"] for written in write(iter(requests))]


def test_written_blocks_are_the_same_only_behind_the_same():
    assert ids_of([(1, 512), (3, 512)], [(2, 512), (3, 512)], [(1, 512), (3, 512)]) == [[0, 1], [2, 3], [0, 1]]


def test_written_blocks_are_cut_across_pieces_and_told_apart_by_where_they_begin():
    assert ids_of([(1, 300), (2, 724)], [(1, 300), (2, 212), (2, 512)]) == [[0, 1], [0, 2]]
    assert ids_of([(1, 600)], [(1, 600), (2, 424)], [(1, 600), (3, 424)]) == [[0, 1], [0, 2], [0, 3]]


@pytest.mark.parametrize("name", ["video", "noisy_neighbour", "agent"])
def test_a_written_workload_reads_as_the_same_requests(tmp_path, name):
    demand = Demand(requests=200, rate=5.0, seed=1)
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(write(WORKLOADS[name].generate(demand))))
    requests = list(unrolled(WORKLOADS[name].generate(demand)))
    again = read(path)

    def told(request, start_s):
        shape = (request.tenant, request.prompt_tokens, request.output_tokens)
        return (*shape, pytest.approx(request.at_s - start_s, abs=0.0011))

    assert [told(request, 0.0) for request in again] == [told(request, requests[0].at_s) for request in requests]


def test_a_written_workload_shares_whole_blocks(tmp_path):
    demand = Demand(requests=300, rate=5.0, seed=1)
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(write(WORKLOADS["video"].generate(demand))))
    expected = oracle_hit_ratio(WORKLOADS["video"].generate(demand), block_size=512)
    assert oracle_hit_ratio(iter(read(path)), block_size=512) == pytest.approx(expected, abs=1e-9)
    assert expected > 0.5
