"""What templates have saved, and where they are now."""

from collections.abc import Collection
from dataclasses import dataclass, field

from preble.daemon.errors import ApiError, EngineError
from preble.daemon.flow.keeper import Keeper
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.flow.warming import Warmer
from preble.daemon.ids import ModelName, TenantName
from preble.daemon.store.evictions import Evicted, EvictionLog
from preble.daemon.store.ledger import Ledger
from preble.daemon.templates.directory import Owner, Template, Version, VersionKey
from preble.daemon.templates.pins import Held
from preble.daemon.templates.totals import TemplateTotals
from preble.daemon.wire.moments import iso
from preble.daemon.wire.pins import TemplateStats


@dataclass(slots=True)
class _Line:
    template: Template
    version: Version
    totals: list[TemplateTotals] = field(default_factory=list)
    """Of each tenant."""
    evicted: list[Evicted] = field(default_factory=list)
    """Likewise."""
    pins: list[Held] = field(default_factory=list)

    @property
    def saved_us(self) -> int:
        return sum(each.saved_us for each in self.totals)

    @property
    def tenants(self) -> set[str]:
        counted = {*(each.tenant for each in self.totals), *(each.tenant for each in self.evicted)}
        return {*counted, *(held.pin.tenant for held in self.pins)}


class StatsDesk:
    """Puts together what the ledger, the pins and the engines know."""

    def __init__(
        self,
        ledger: Ledger,
        evictions: EvictionLog,
        desk: TemplateDesk,
        keeper: Keeper,
        warmer: Warmer,
    ) -> None:
        self._ledger = ledger
        self._evictions = evictions
        self._desk = desk
        self._keeper = keeper
        self._warmer = warmer

    async def rows(
        self, tenant: Owner, models: Collection[str], *, hides: bool, limit: int, name: str | None
    ) -> list[TemplateStats]:
        """Of what a tenant used or pinned, or all did; those that saved most first.

        `hides` is whether who asks is not to know what others have brought into the cache.
        """
        lines = await self._lines(tenant, name)
        lines.sort(key=lambda line: (-line.saved_us, line.template.name, -line.version.number))
        return [await self._row(line, models, hides=hides) for line in lines[:limit]]

    async def _lines(self, tenant: Owner, name: str | None) -> list[_Line]:
        lines: dict[VersionKey, _Line] = {}

        def line(template_id: int, number: int) -> _Line | None:
            template = self._desk.store.directory.by_id(template_id)
            if template is None or number not in template.versions or name not in (None, template.name):
                return None
            return lines.setdefault((template_id, number), _Line(template, template.versions[number]))

        for each in await self._ledger.templates(tenant):
            if found := line(each.template_id, each.number):
                found.totals.append(each)
        for evicted in await self._evictions.totals(tenant):
            if found := line(*evicted.version):
                found.evicted.append(evicted)
        for held in self._keeper.find(tenant):
            if found := line(held.pin.template_id, held.version):
                found.pins.append(held)
        return list(lines.values())

    async def _row(self, line: _Line, models: Collection[str], *, hides: bool) -> TemplateStats:
        totals = line.totals
        tokens = sum(each.prefix_tokens for each in totals)
        saved = sum(each.cached_tokens for each in totals)
        hits, misses = sum(each.hit_ttfts for each in totals), sum(each.miss_ttfts for each in totals)
        hit_us, miss_us = sum(each.hit_ttft_us for each in totals), sum(each.miss_ttft_us for each in totals)
        last_s = max((each.last_used_s for each in totals), default=None)
        return TemplateStats(
            name=line.template.name,
            version=line.version.number,
            owner=line.template.owner,
            requests=sum(each.requests for each in totals),
            hit_ratio=saved / tokens if tokens and not hides else None,
            tokens_saved=None if hides else saved,
            gpu_ms_saved=None if hides else line.saved_us / 1000,
            ttft_hit_ms=hit_us / hits / 1000 if hits and not hides else None,
            ttft_miss_ms=miss_us / misses / 1000 if misses and not hides else None,
            warm_on=[] if hides and not line.pins else await self._warm_on(line, models),
            pinned=bool(line.pins),
            evictions=None if hides and not line.pins else sum(each.evictions for each in line.evicted),
            last_used_at=None if last_s is None else iso(last_s),
        )

    async def _warm_on(self, line: _Line, models: Collection[str]) -> list[str]:
        found: set[str] = set()
        for model in sorted(models):
            try:
                tokens = await self._desk.prefix(line.template, line.version, ModelName(model))
            except (ApiError, EngineError):
                continue
            for tenant in line.tenants:
                version = (line.template.id, line.version.number)
                prefix = self._warmer.salted(version, TenantName(tenant), ModelName(model), tokens)
                found |= {gpu for gpu, (state, _) in self._warmer.states(prefix).items() if state == "warm"}
        return sorted(found)
