"""GPU time of requests: however they end, what the effects tell for the ledger is what fairness charged."""

import msgspec
import pytest
from tests.core import CONFIG, Bench, spec

from preble.daemon.flow import events
from preble.daemon.flow.effects import Dispatch, Ended, Outcome

PROMPT = "x" * 40
PREFILL_MS = 41.0  # 1 ms, and 1 ms for each token
COUNTED = msgspec.structs.replace(CONFIG, fairness="vtc")


class Charged(Bench):
    """A machine whose turns count what the only tenant has had."""

    def __init__(self, *gpus):
        super().__init__(*gpus, config=COUNTED)

    def ended(self, **wanted):
        """The end of the only request, whose GPU time must be what its tenant was charged for."""
        (end,) = [effect for effect in self.seen if isinstance(effect, Ended)]
        assert self.machine._turns._accounts["t"].balance_ms == pytest.approx(end.gpu_ms)
        for name, value in wanted.items():
            assert getattr(end, name) == pytest.approx(value)
        return end

    def again(self):
        return [effect for effect in self.seen if isinstance(effect, Dispatch)][-1]


def test_what_ends_well_took_its_uncached_prefill_and_its_decoding():
    bench = Charged("a")
    bench.finish(bench.arrive("r", PROMPT), output_tokens=7)
    bench.ended(outcome=Outcome.FINISHED, gpu_ms=PREFILL_MS + 7)


def test_what_was_cached_costs_a_little():
    bench = Bench("a", config=COUNTED)
    bench.run("first", PROMPT)
    bench.finish(bench.arrive("second", PROMPT), output_tokens=7)
    last = bench.seen[-1]
    assert (last.request_id, last.gpu_ms) == ("second", pytest.approx(1 + 4 + 0.1 * 36 + 7))


def test_what_was_cut_off_took_no_more_than_its_time():
    bench = Charged("a")
    decision = bench.arrive("r", PROMPT)
    bench.now_s = 0.015
    bench(events.ClientGone(request_id="r"))
    bench.finish(decision, output_tokens=0)
    bench.ended(outcome=Outcome.CANCELLED, gpu_ms=15.0)


def test_what_was_cut_off_later_took_what_it_had_put_out():
    bench = Charged("a")
    decision = bench.arrive("r", PROMPT)
    bench.now_s = 5.0
    bench(events.ClientGone(request_id="r"))
    bench.finish(decision, output_tokens=9)
    bench.ended(outcome=Outcome.CANCELLED, gpu_ms=PREFILL_MS + 9)


@pytest.mark.parametrize("down_first", [True, False])
@pytest.mark.parametrize(("at_s", "gpu_ms"), [(0.02, 20.0), (0.05, 50.0), (60.0, PREFILL_MS + 16)])
def test_what_dies_with_its_engine_took_its_time_up_to_the_longest_answer(at_s, gpu_ms, down_first):
    bench = Charged("a")
    decision = bench.arrive("r", PROMPT)
    bench.now_s = at_s
    if down_first:
        bench(events.EngineDown(gpu="a"))
    bench.now_s += 1.0 if down_first else 0.0
    bench(events.Failed(attempt_id=decision.attempt_id, retry=False))
    bench.ended(outcome=Outcome.FAILED, gpu_ms=gpu_ms)


def test_every_attempt_counts():
    bench = Charged("a", "b")
    first = bench.arrive("r", PROMPT)
    bench.now_s = 0.03
    bench(events.EngineDown(gpu=first.gpu))
    bench(events.Failed(attempt_id=first.attempt_id, retry=True))
    second = bench.again()
    assert second.gpu != first.gpu
    bench(events.Finished(attempt_id=second.attempt_id, output_tokens=4))
    bench.ended(outcome=Outcome.FINISHED, gpu_ms=30 + PREFILL_MS + 4)


def test_of_many_sequences_each_has_its_share():
    bench = Charged("a")
    decision = bench.arrive("r", PROMPT, n_sequences=4)
    bench.now_s = 0.05
    bench(events.Failed(attempt_id=decision.attempt_id, retry=False))
    bench.ended(gpu_ms=50.0)  # all that decoded there were its own


def test_whoever_came_later_has_a_share_of_the_steps_since():
    bench = Charged("a")
    decision = bench.arrive("r", PROMPT, max_output_tokens=1000)
    bench.now_s = PREFILL_MS / 1000
    bench(events.FirstToken(attempt_id=decision.attempt_id))
    bench.now_s += 0.1
    bench.arrive("later", "y" * 4, tenant="other")
    bench.now_s += 0.1
    bench(events.Failed(attempt_id=decision.attempt_id, retry=False))
    bench.ended(gpu_ms=PREFILL_MS + 200 / 1.5)


def test_what_never_ran_took_nothing():
    bench = Bench(config=COUNTED)
    refused = bench(events.Arrived(request=spec("r", PROMPT)))
    assert refused[-1] == Ended(request_id="r", outcome=Outcome.REFUSED, gpu_ms=0.0)


def test_nothing_is_kept_of_what_has_ended():
    bench = Charged("a")
    bench.finish(bench.arrive("r", PROMPT))
    assert bench.machine._gpu_ms == {}
