"""A board over a machine with a clock that moves by hand."""

from tests.core import Bench

from preble.daemon.config import LiveConfig
from preble.daemon.obs.live.board import Board, Identity
from preble.daemon.obs.live.facts import End, GpuNow, TenantNow
from preble.daemon.wire.live import LiveTemplate

EPOCH_S = 1_800_000_000.0


class Told(Bench):
    """A bench whose steps a board is told of, and who answers what it asks."""

    def __init__(self, *gpus, live=None, started_s=0.0, **more):
        self.fail = []
        self.shown = []
        self.restarts = {}
        self.kv_used_ratio = 0.5
        self.prefill_error_ratio = self.decode_error_ratio = None
        self.decode_ratio = None
        self.board = Board(
            live or LiveConfig(),
            Identity(
                boot_id="b", version="0", name="n", models=["m"], policy="e2", fairness="d2lpm",
                epoch_s=EPOCH_S, started_s=started_s,
            ),
            self,
        )  # fmt: skip
        super().__init__(*gpus, **more)

    def __call__(self, event):
        effects = super().__call__(event)
        self.board.stepped(self.now_s, event, effects)
        return effects

    def end(self, name, **more):
        self.board.ended(end(name, **more), self.now_s)

    def gpus(self):
        return [self._gpu(view) for view in self.machine.views(self.now_s)]

    def _gpu(self, view):
        return GpuNow(
            gpu=view.gpu, state="ready" if view.up else "backoff", draining=view.draining, detail="", model=view.model,
            running=view.running, waiting=view.waiting, kv_used_ratio=self.kv_used_ratio, kv_cached_ratio=0.0,
            kv_blocks=view.kv_blocks, cached_tokens=0, load_ms=view.load_ms, outstanding_ms=view.outstanding_ms,
            prefill_error_ratio=self.prefill_error_ratio,
            decode_error_ratio=self.decode_error_ratio,
            decode_ratio=view.decode_ratio if self.decode_ratio is None else self.decode_ratio,
            restarts=self.restarts.get(view.gpu, 0), uptime_s=1.0, age_s=0.0,
        )  # fmt: skip

    def tenants(self, active, most):
        return [
            TenantNow(tenant=name, priority="interactive", weight=1.0, suspended=False, budget_used_ratio=None)
            for name in sorted(active)
        ]

    def standings(self, tenants):
        return self.machine.standings(tenants)

    def templates(self):
        return self.shown

    def failures(self):
        return self.fail


def end(name, **more):
    """A request's end, as it is unless a test says otherwise."""
    usual = {
        "tenant": "t", "model": "m", "state": "finished", "gpu": "a", "mode": "explore", "prompt_tokens": 8,
        "predicted_cached_tokens": 4, "cached_tokens": 4, "output_tokens": 3, "attempts": 1, "queue_ms": 1.0,
        "ttft_ms": 10.0, "latency_ms": 30.0, "error": None,
    }  # fmt: skip
    return End(request_id=name, **{**usual, **more})


def template(key, *, pinned=False):
    """A row that says little."""
    return LiveTemplate(
        key=key, cacheable_tokens=8, requests_per_min=1.0, hit_ratio=None, saved_tokens_per_min=0.0, pinned=pinned,
        states={},
    )  # fmt: skip
