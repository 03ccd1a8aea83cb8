"""What the console asks beyond the live feed, for the daemon."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import NotFound
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.flow.explain import suppose
from preble.daemon.flow.kept import KeptStretch
from preble.daemon.flow.lives import Lives
from preble.daemon.flow.prefixes import Listing, TemplateOf, unknown_stretch
from preble.daemon.flow.runtime import Runtime
from preble.daemon.ids import GpuId, KeyId, ModelName
from preble.daemon.sched.browse import Order
from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.live import PrefixPage, PrefixText

_MOST_TEXT_TOKENS = 20_000
"""That are told of a stretch; nobody reads more."""


class ConsoleDesk:
    """Passes questions on to those who know."""

    def __init__(
        self,
        runtime: Runtime,
        lives: Lives,
        config: SchedulerConfig,
        encoders: Callable[[], Mapping[ModelName, ModelEncoder]],
        template_of: TemplateOf,
    ) -> None:
        self._runtime = runtime
        self._lives = lives
        self._config = config
        self._encoders = encoders
        self._template_of = template_of

    def prefixes(
        self, model: str | None, parent: str | None, order: Order, gpu: str | None, limit: int, after: str | None
    ) -> PrefixPage:
        """A page of the prefix index; of the first model if None is named. Raises `NotFound` and `InvalidRequest`."""
        models = list(self._encoders())
        if model is not None and model not in models:
            raise NotFound(f"There is no model {model!r}; there are {', '.join(models)}.", param="model")
        wanted = Listing(
            parent=parent,
            order=order,
            gpu=None if gpu is None else GpuId(gpu),
            limit=limit,
            after=after,
            template_of=self._template_of,
        )
        return self._runtime.prefixes(ModelName(model or models[0]), wanted)

    def kept(self, prefix: str) -> KeptStretch:
        """What is kept of a stretch that was listed. Raises `NotFound`, which says why nothing is."""
        if not any(encoder.keeps_prompts for encoder in self._encoders().values()):
            message = f"The text of {prefix!r} is not kept: live.keep_prompts is false in preble.toml."
            raise NotFound(message, param="prefix", code="prompts_not_kept")
        stretch = self._runtime.stretch(prefix)
        if stretch is None:
            raise unknown_stretch(prefix, "prefix")
        for model, encoder in self._encoders().items():
            tokens = encoder.kept_tokens(stretch.keys, _MOST_TEXT_TOKENS)
            if tokens:
                truncated = len(tokens) < len(stretch.keys) * encoder.block_tokens
                return KeptStretch(id=prefix, model=model, tenant=stretch.tenant, tokens=tokens, truncated=truncated)
        message = f"The text of {prefix!r} is forgotten: live.kept_prompts_mib keeps what came last."
        raise NotFound(message, param="prefix", code="prompt_forgotten")

    async def text(self, kept: KeptStretch) -> PrefixText:
        """The text itself. Whoever calls this has written down who reads it."""
        text = await self._encoders()[kept.model].text(kept.tokens)
        return PrefixText(id=kept.id, text=text, truncated=kept.truncated)

    def suppose(self, known: Explanation, without: Collection[str]) -> Explanation:
        """A decision as it would have been without these GPUs. Raises `InvalidRequest`."""
        return suppose(known, without, self._config)

    def requests_of(self, key_id: KeyId) -> tuple[int, int]:
        """How many requests of a key are with an engine, and how many wait until they are."""
        begun = [self._runtime.has_begun(request_id) for request_id in self._lives.of_key(key_id)]
        return sum(begun), len(begun) - sum(begun)

    def request(self, request_id: str) -> dict[str, Any]:
        """A request that waits or runs. Raises `NotFound`."""
        call, _ = self._lives.find(request_id)
        gpu = self._runtime.placed_at(call.request_id)
        return {"state": "live", "tenant": call.tenant, "model": call.model, "gpu": gpu}

    def cancel(self, request_id: str) -> None:
        """End it. Raises `NotFound`."""
        self._lives.cancel(request_id)
