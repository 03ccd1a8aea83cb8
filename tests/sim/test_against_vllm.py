"""The modelled engine against vLLM's own scheduler: the same steps, hits and preemptions for the same requests."""

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.sim.modelled import BLOCK, bench, job

from preble.daemon.priority import Priority
from preble.daemon.sim.prompts import token_ids
from preble.daemon.sim.types import Piece

N_PLANS = 400
USUAL = Priority.USUAL


def plans():
    """Crowded ones: few blocks, much that is shared, some prompts twice; half have priorities, and some a threshold.

    With a threshold, or where some stand back, nothing is shared: prompts side by side would compute the same blocks,
    and the model keeps one.
    """
    for seed in range(N_PLANS):
        rng = random.Random(seed)
        limits = {
            "kv_blocks": rng.randint(16, 34),
            "max_num_seqs": rng.randint(1, 6),
            "budget": rng.randint(6, 30),
            "max_model_len": 64,
            "threshold": rng.choice([0, rng.randint(1, 12)]) if seed % 2 else 0,
        }
        priorities = ([USUAL], [USUAL], [USUAL, Priority.BATCH], list(Priority))[seed % 4]
        is_apart = limits["threshold"] > 0 or Priority.LIGHT in priorities
        at_ms, requests = 0, []
        for number in range(1, rng.randint(6, 24)):
            at_ms += rng.choice([0, 0, 5, 17, 40, 90])
            own = 99 if rng.random() < 0.3 and not is_apart else 100 + number
            shared = 200 + number if is_apart else rng.randint(0, 2)
            pieces = (shared, rng.randint(4, 28)), (own, rng.randint(1, 12))
            requests.append((at_ms, number, pieces, rng.randint(1, 24), rng.choice(priorities)))
        yield limits, requests


PREEMPTED_AS_PLANNED = (
    {"kv_blocks": 16, "max_num_seqs": 5, "budget": 16, "max_model_len": 64, "threshold": 0},
    [
        (0, 1, ((2, 24), (101, 5)), 24, USUAL),
        (0, 2, ((2, 7), (102, 7)), 15, Priority.LIGHT),
        (40, 3, ((0, 10), (103, 6)), 2, Priority.LIGHT),
    ],
)
"""The third lacks a block in the step in which the last of the first's prompt was to be computed, and takes it."""


def modelled(limits, requests) -> dict:
    jobs = ((ms, job(n, *pieces, output=output, priority=low)) for ms, n, pieces, output, low in requests)
    seen = bench(**limits).play(*jobs)
    return {
        "first_ms": {str(number): round(ms) for number, ms in seen.first_ms.items()},
        "end_ms": {str(number): round(ms) for number, ms in seen.end_ms.items()},
        "cached": {str(number): done.cached_tokens for number, done in seen.jobs.items()},
        "preemptions": {str(number): done.preemptions for number, done in seen.jobs.items()},
    }


def vllms(model: Path, some_plans) -> list[dict]:
    told = [
        {
            "limits": limits,
            "block_size": BLOCK,
            "requests": [
                {
                    "name": str(number),
                    "at_ms": ms,
                    "prompt": token_ids([Piece(*piece) for piece in pieces]).tolist(),
                    "answer": token_ids([Piece(1000 + number, output)]).tolist(),
                    "priority": priority,
                }
                for ms, number, pieces, output, priority in requests
            ],
        }
        for limits, requests in some_plans
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("vllm_scheduler.py")), str(model)]
    done = subprocess.run(command, input=json.dumps(told), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.engines
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_model_does_what_vllm_does(demo_model):
    some_plans = [*plans(), PREEMPTED_AS_PLANNED]
    seen = [modelled(*plan) for plan in some_plans]
    for plan, ours, theirs in zip(some_plans, seen, vllms(demo_model, some_plans), strict=True):
        assert ours == theirs, plan
    assert sum(sum(each["preemptions"].values()) for each in seen) > 500  # or the plans would show nothing
    assert sum(sum(each["cached"].values()) for each in seen) > 10_000
