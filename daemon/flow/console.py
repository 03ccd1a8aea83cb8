"""What the console asks beyond the live feed, for the daemon."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import NotFound
from preble.daemon.flow.explain import suppose
from preble.daemon.flow.lives import Lives
from preble.daemon.flow.runtime import Runtime
from preble.daemon.ids import GpuId, ModelName
from preble.daemon.sched.browse import Order
from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.live import PrefixPage


class ConsoleDesk:
    """Passes questions on to those who know."""

    def __init__(
        self, runtime: Runtime, lives: Lives, config: SchedulerConfig, models: Callable[[], Sequence[str]]
    ) -> None:
        self._runtime = runtime
        self._lives = lives
        self._config = config
        self._models = models

    def prefixes(
        self, model: str | None, parent: str | None, order: Order, gpu: str | None, limit: int, after: str | None
    ) -> PrefixPage:
        """A page of the prefix index; of the first model if None is named. Raises `NotFound` and `InvalidRequest`."""
        models = self._models()
        if model is not None and model not in models:
            raise NotFound(f"There is no model {model!r}; there are {', '.join(models)}.", param="model")
        return self._runtime.prefixes(
            ModelName(model or models[0]),
            parent=parent,
            order=order,
            gpu=None if gpu is None else GpuId(gpu),
            limit=limit,
            after=after,
        )

    def suppose(self, known: Explanation, without: Collection[str]) -> Explanation:
        """A decision as it would have been without these GPUs. Raises `InvalidRequest`."""
        return suppose(known, without, self._config)

    def request(self, request_id: str) -> dict[str, Any]:
        """A request that waits or runs. Raises `NotFound`."""
        call, _ = self._lives.find(request_id)
        gpu = self._runtime.placed_at(call.request_id)
        return {"state": "live", "tenant": call.tenant, "model": call.model, "gpu": gpu}

    def cancel(self, request_id: str) -> None:
        """End it. Raises `NotFound`."""
        self._lives.cancel(request_id)
