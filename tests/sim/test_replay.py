"""A machine does the same again when it is given the same events: what was recorded, and what a change makes of it."""

from dataclasses import replace

import pytest
from tests.core import CONFIG, MODEL, Bench, removed, spec, stored, up
from tests.sim.modelled import fit

from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import ConfigError
from preble.daemon.flow import events
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.recording import FORMAT, decode_header, decode_step, encode_effects, encode_header, encode_step
from preble.daemon.ids import GpuId
from preble.daemon.sim import world
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.replay import replay
from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.workloads import WORKLOADS

POLICIES = ("e2", "e2_paper", "round_robin", "least_loaded", "prefix_affinity")


class Recorded(Machine):
    """Keeps a recording of itself."""

    lines: list[bytes]

    def __init__(self, config):
        super().__init__(config)
        Recorded.lines = [encode_header("0", config)]

    def step(self, event, now_s):
        effects = super().step(event, now_s)
        self.lines.append(encode_step(now_s, event, effects))
        return effects


def record(monkeypatch, policy: str) -> list[bytes]:
    """A busy run on three modelled engines of which one dies, while clients leave and somebody looks on, unrecorded."""
    monkeypatch.setattr(world, "Machine", Recorded)
    engines = fit(kv_blocks=1500, max_num_seqs=8, budget=512, max_model_len=6000)
    run = world.World(fit=engines, gpus=3, config=SchedulerConfig(policy=policy, window_s=20.0), sample_interval_s=3.0)
    demand = Demand(requests=150, rate=2.0, seed=1)
    for number, request in enumerate(unrolled(WORKLOADS["agent"].generate(demand))):
        if number % 7 == 0:
            run.leave(request.request_id, request.at_s + 0.5)
    run.fail(GpuId("gpu1"), 20.0, back_after_s=10.0)
    run.drain(GpuId("gpu2"), 30.0)
    run.drain(GpuId("gpu2"), 40.0, draining=False)
    run.run(WORKLOADS["agent"].generate(demand))
    return Recorded.lines


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_events_give_the_same_decisions_and_effects(monkeypatch, policy):
    lines = record(monkeypatch, policy)
    replayed = replay(lines)
    assert replayed.first_difference is None
    assert replayed.steps == replayed.equal_steps == len(lines) - 1
    assert replayed.decisions == replayed.equal_decisions > 100
    assert (replayed.policy, replayed.cut_off) == (policy, False)


def test_other_rules_are_seen_to_decide_otherwise(monkeypatch):
    lines = record(monkeypatch, "e2")
    lines[0] = encode_header("0", SchedulerConfig(policy="round_robin", window_s=20.0))
    replayed = replay(lines)
    assert 0 < replayed.equal_steps < replayed.steps
    assert replayed.equal_decisions < replayed.decisions
    assert replayed.first_difference is not None


def test_the_first_difference_is_shown():
    lines = small_recording()
    first = next(number for number, line in enumerate(lines, 1) if b'"Dispatch"' in line)
    lines[first - 1] = lines[first - 1].replace(b'"Dispatch"', b'"Abort"')
    found = replay(lines).first_difference
    assert (found.line, found.at_s, found.event) == (first, 0.0, "Arrived")
    assert '"Abort"' in found.recorded
    assert '"Dispatch"' in found.replayed


def test_a_cost_that_differs_makes_another_effect_and_the_same_decision():
    lines = small_recording()
    lines = [line.replace(b'"prefill_ms":41.0', b'"prefill_ms":41.5') for line in lines]
    replayed = replay(lines)
    assert replayed.equal_steps == replayed.steps - 1
    assert replayed.equal_decisions == replayed.decisions == 1


def small_recording() -> list[bytes]:
    machine = Machine(CONFIG)
    happened = [up("a"), events.Arrived(request=spec("r", "x" * 40)), stored("a", "x" * 40)]
    return [encode_header("0", CONFIG), *(encode_step(0.0, event, machine.step(event, 0.0)) for event in happened)]


# --- lines ---


def every_event() -> list:
    changes = (*stored("a", "x" * 16, after="y" * 4).changes, *removed("a", "x" * 8).changes, events.BlocksCleared())
    return [
        up("a"),
        events.Arrived(request=replace(spec("r", "x" * 40), warms=GpuId("a"))),
        events.PinChanged(model=MODEL, gpu=GpuId("a"), keys=spec("r", "x" * 40).prompt.block_keys, pinned=True),
        events.KvReported(gpu=GpuId("a"), epoch=1, changes=changes),
        events.FirstToken(attempt_id=1),
        events.Finished(attempt_id=1, output_tokens=3, calls_tools=True),
        events.Failed(attempt_id=1, retry=True),
        events.ClientGone(request_id="r"),
        events.DrainChanged(gpu=GpuId("a"), draining=True),
        events.TenantStands(tenant="t", weight=2.0, is_batch=True),
        events.EngineDown(gpu=GpuId("a")),
    ]


@pytest.mark.parametrize("event", every_event(), ids=lambda event: type(event).__name__)
def test_every_event_is_the_same_after_writing_and_reading(event):
    step = decode_step(encode_step(0.1 + 0.2, event, ()))
    assert (step.at_s, step.event, step.effects) == (0.1 + 0.2, event, b"[]")


def test_there_is_no_other_event():
    assert {type(event) for event in every_event()} == set(events.Event.__args__)


def test_a_recording_has_no_text():
    bench = Bench("a")
    effects = bench(events.Arrived(request=spec("r", "secret" * 10)))
    assert b"secret" not in encode_step(0.0, events.Arrived(request=spec("r", "secret" * 10)), effects)
    assert encode_effects(effects) != encode_effects(effects[:1])


def test_what_was_configured_is_in_the_first_line():
    config = SchedulerConfig(policy="e2_paper", window_s=7.0)
    header = decode_header(encode_header("1.2", config))
    assert (header.version, header.scheduler) == ("1.2", config)


def test_a_last_line_that_is_cut_off_is_left_out():
    lines = small_recording()
    replayed = replay([*lines[:-1], lines[-1][:-20]])
    assert (replayed.cut_off, replayed.steps, replayed.first_difference) == (True, 2, None)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "line 1: not a recording"),
        ([b"prompt,tokens\n"], "line 1: not a recording"),
        (
            [encode_header("9", CONFIG).replace(b'"format":%d' % FORMAT, b'"format":99')],
            "line 1: a recording of format 99",
        ),
        ([encode_header("9", CONFIG).replace(b'"e2"', b'"best"')], "line 1: not a recording that this Preble can read"),
        ([*small_recording()[:2], b"{}\n"], "line 3: not a step"),
        ([*small_recording()[:2], b'{"at_s":0,"event":["Guessed",{}],"effects":[]}\n'], "line 3: not a step"),
        (
            [*small_recording()[:2], b'{"at_s":0,"event":["EngineDown",{"gpu":"a"}],"effects":3}\n'],
            "line 3: not the effects",
        ),
    ],
)
def test_what_is_no_recording_is_refused_with_its_line(lines, complaint):
    with pytest.raises(ConfigError, match=complaint):
        replay(lines)
