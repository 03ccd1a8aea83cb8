"""Brings prefixes of templates into GPUs' caches, with requests of those whom they are for."""

from asyncio import Event as Signal
from asyncio import timeout
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from time import monotonic
from typing import Literal

import msgspec

from preble.daemon.errors import ApiError, InvalidRequest
from preble.daemon.flow.call import Call
from preble.daemon.flow.effects import Effect
from preble.daemon.flow.events import EngineDown, EngineUp, Event, KvReported
from preble.daemon.flow.evictions import EvictionCounter
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Runtime
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.ids import BlockKey, GpuId, KeyId, ModelName, RequestId, TenantName
from preble.daemon.sched.blocks import TokenIds
from preble.daemon.sched.types import Candidate, Prompt, RequestSpec
from preble.daemon.templates.directory import Template, Version, VersionKey
from preble.daemon.templates.residence import state_of
from preble.daemon.tenancy.salts import CacheScope
from preble.daemon.wire.pins import State

_PATH = "/v1/completions"
_REPORT_S = 5.0
"""How long an engine that has computed a prefix may take to report its blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What is to be warm, in one tenant's cache."""

    version: VersionKey
    tenant: TenantName
    model: ModelName
    tokens: TokenIds
    """Whole blocks."""
    keys: tuple[BlockKey, ...]
    scope: CacheScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """What has come of warming one GPU."""

    gpu: GpuId
    request_id: RequestId
    error: ApiError | None


class Reports:
    """Wakes those who wait for news of engines' caches."""

    def __init__(self) -> None:
        self.news = Signal()
        """Set when there are some; then there is another one for the next."""

    def stepped(self, at_s: float, event: Event, effects: Sequence[Effect]) -> None:
        """The machine has taken a step."""
        if isinstance(event, KvReported | EngineUp | EngineDown):
            self.tell()

    def tell(self) -> None:
        """There are some."""
        self.news.set()
        self.news = Signal()


class Warmer:
    """Warms prefixes, and knows where they are."""

    def __init__(
        self,
        runtime: Runtime,
        desk: TemplateDesk,
        cache_scope: Callable[[TenantName, str | None], CacheScope],
        live: Callable[[Call], RequestLife],
        reports: Reports,
        evictions: EvictionCounter,
    ) -> None:
        """`live` begins a request's life. `evictions` are counted of what is warmed or kept."""
        self._runtime = runtime
        self._desk = desk
        self._cache_scope = cache_scope
        self._live = live
        self._reports = reports
        self._evictions = evictions
        self._warming: set[tuple[GpuId, BlockKey]] = set()
        """GPUs, and last blocks of the prefixes that are being computed there."""

    async def prefix(self, tenant: TenantName, template: Template, version: Version, model: ModelName) -> Prefix:
        """What can be cached of a version for a tenant, maybe nothing. Raises as `TemplateDesk.prefix`, `NotFound`."""
        tokens = await self._desk.prefix(template, version, model)
        return self.salted((template.id, version.number), tenant, model, tokens)

    def salted(self, version: VersionKey, tenant: TenantName, model: ModelName, tokens: TokenIds) -> Prefix:
        """A version's prefix as it is in a tenant's cache now."""
        scope = self._cache_scope(tenant, None)
        keys = self._desk.chain(model, scope.salt, tokens)
        return Prefix(version=version, tenant=tenant, model=model, tokens=tokens, keys=keys, scope=scope)

    def scope(self, tenant: TenantName) -> CacheScope:
        """Whose cached prefixes a tenant's requests can find."""
        return self._cache_scope(tenant, None)

    def is_current(self, prefix: Prefix) -> bool:
        """Whether its tenant's cache still has the salt that it was read for."""
        return self._cache_scope(prefix.tenant, None) == prefix.scope

    def candidates(self, prefix: Prefix) -> list[Candidate]:
        """The GPUs that could be warmed, by what that costs all requests. Raises the `ApiError` that rules it out."""
        spec = _spec(RequestId("preview"), prefix)
        return sorted(self._runtime.preview(spec).candidates, key=lambda each: (each.cost_ms, each.gpu))

    def chosen(self, prefix: Prefix, gpus: int | Literal["all"]) -> list[Candidate]:
        """So many of them, the cheapest. Raises as `candidates`, and `InvalidRequest` if there are not so many."""
        there = self.candidates(prefix)
        if gpus == "all":
            return there
        if gpus > len(there):
            raise InvalidRequest(f"`gpus`: {gpus} are wanted, and {len(there)} serve this model.", param="gpus")
        return there[:gpus]

    def states(self, prefix: Prefix) -> Mapping[GpuId, tuple[State, int]]:
        """Of each GPU that serves the model, what it has of a prefix, and how many tokens."""
        views = [view for view in self._runtime.views() if view.up and view.model == prefix.model]
        blocks = self._runtime.residency(prefix.model, prefix.keys)
        return {
            view.gpu: (
                state_of(blocks.get(view.gpu, 0), len(prefix.keys), is_warming=self.is_warming(prefix, view.gpu)),
                blocks.get(view.gpu, 0) * view.block_size,
            )
            for view in views
        }

    def is_warming(self, prefix: Prefix, gpu: GpuId) -> bool:
        """Whether it is being computed there."""
        return bool(prefix.keys) and (gpu, prefix.keys[-1]) in self._warming

    def watch(self, prefix: Prefix) -> None:
        """Have its evictions counted from now on."""
        self._evictions.used(prefix.version, prefix.tenant, prefix.model, prefix.keys)

    async def warm(self, prefix: Prefix, gpu: GpuId, key_id: KeyId) -> Try:
        """Compute a prefix on a GPU, and wait until that has reported it."""
        request_id = RequestId(f"req_{token_hex(12)}")
        place = (gpu, prefix.keys[-1])
        self.watch(prefix)
        self._warming.add(place)
        try:
            answer = await self._live(_call(request_id, prefix, gpu, key_id)).answer()
            async for _ in answer.chunks:
                pass
            await self._reported(prefix, gpu)
        except ApiError as error:
            return Try(gpu=gpu, request_id=request_id, error=error)
        finally:
            self._warming.discard(place)
        return Try(gpu=gpu, request_id=request_id, error=None)

    async def _reported(self, prefix: Prefix, gpu: GpuId) -> None:
        try:
            async with timeout(_REPORT_S):
                while self._runtime.residency(prefix.model, prefix.keys).get(gpu, 0) < len(prefix.keys):
                    await self._reports.news.wait()
        except TimeoutError:
            pass  # it was evicted at once, perhaps: what is told is what is there


def _spec(request_id: RequestId, prefix: Prefix) -> RequestSpec:
    """One token comes after the prefix: engines compute the last one anew, and would so report its block as evicted."""
    return RequestSpec(
        request_id=request_id,
        model=prefix.model,
        tenant=prefix.tenant,
        prompt=Prompt(n_tokens=len(prefix.tokens) + 1, block_keys=prefix.keys),
        max_output_tokens=1,
    )


def _call(request_id: RequestId, prefix: Prefix, gpu: GpuId, key_id: KeyId) -> Call:
    spec = replace(_spec(request_id, prefix), warms=gpu)
    body = msgspec.json.encode(
        {
            "model": prefix.model,
            "prompt": [*prefix.tokens.tolist(), int(prefix.tokens[-1])],
            "max_tokens": 1,
            "temperature": 0,
            "cache_salt": prefix.scope.salt,
        }
    )

    async def encode() -> RequestSpec:
        return spec

    return Call(
        request_id=request_id,
        tenant=prefix.tenant,
        key_id=key_id,
        path=_PATH,
        model=prefix.model,
        body=body,
        stream=False,
        hide_usage=False,
        hide_cache=prefix.scope.is_shared,
        encode=encode,
        asks_length=True,
        shortened=lambda _: body,
        engine_ids=(f"cmpl-{request_id}-0",),
        received_s=monotonic(),
    )
