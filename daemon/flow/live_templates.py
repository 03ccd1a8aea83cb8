"""Templates as consoles see them: those that were used of late, or are pinned."""

from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic

from preble.daemon.errors import NotFound
from preble.daemon.flow.call import Settled
from preble.daemon.flow.keeper import Keeper, version_of
from preble.daemon.flow.prefixes import TemplateOf
from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.templates.directory import Templates, VersionKey
from preble.daemon.templates.pins import Pin
from preble.daemon.templates.recent import RECENT_S, Recent, Used
from preble.daemon.wire.live import LiveTemplate, TemplateKey, reference_of
from preble.daemon.wire.pins import State


def naming(directory: Templates, ending_in: Callable[[Sequence[BlockKey]], VersionKey | None]) -> TemplateOf:
    """Names the version that `ending_in` finds, as the command line has it; None: none, or it was deleted."""

    def named(keys: Sequence[BlockKey]) -> str | None:
        version = ending_in(keys)
        template = None if version is None else directory.by_id(version[0])
        return None if version is None or template is None else reference_of(template.name, version[1])

    return named


_BEST_FIRST: Sequence[State] = ("warm", "warming", "partial", "stale", "cold")
_MINUTES = RECENT_S / 60


class LiveTemplates:
    """Counts, and tells."""

    def __init__(
        self, directory: Templates, keeper: Keeper, whole: Callable[[], Mapping[VersionKey, Collection[GpuId]]]
    ) -> None:
        """`whole` tells which GPUs have reported to cache all of a version, for some tenant."""
        self._directory = directory
        self._keeper = keeper
        self._whole = whole
        self._recent = Recent()
        self._tokens: dict[VersionKey, int] = {}
        """That can be cached of those that were used."""

    def settled(self, settled: Settled) -> None:
        """A request has ended."""
        named, cached = settled.call.template, settled.cached_tokens
        if named is None:
            return
        used = Used(requests=1)
        if cached is not None:
            used = Used(requests=1, prefix_tokens=named.tokens, cached_tokens=min(cached, named.tokens))
        self._recent.add(named.template_id, named.version, used, monotonic())
        self._tokens[named.template_id, named.version] = named.tokens

    def rows(self) -> list[LiveTemplate]:
        """By name and version."""
        recent = self._recent.rows(monotonic())
        self._tokens = {key: tokens for key, tokens in self._tokens.items() if key in recent}
        states, pinned = self._pinned()
        whole = self._whole()
        rows = []
        for key in sorted({*recent, *pinned}):
            template = self._directory.by_id(key[0])
            if template is None:
                continue
            used = recent.get(key, Used())
            rows.append(
                LiveTemplate(
                    key=TemplateKey(owner=template.owner, name=template.name, version=key[1]),
                    cacheable_tokens=pinned.get(key) or self._tokens.get(key, 0),
                    requests_per_min=round(used.requests / _MINUTES, 2),
                    hit_ratio=used.cached_tokens / used.prefix_tokens if used.prefix_tokens else None,
                    saved_tokens_per_min=round(used.cached_tokens / _MINUTES, 1),
                    pinned=key in pinned,
                    states=dict(states[key] if key in pinned else dict.fromkeys(whole.get(key, ()), "warm")),
                )
            )
        return rows

    def _pinned(self) -> tuple[dict[VersionKey, dict[str, State]], dict[VersionKey, int]]:
        """Of each pinned version, what GPUs have of it for some tenant, at best; and its tokens."""
        states: dict[VersionKey, dict[str, State]] = {}
        tokens: dict[VersionKey, int] = {}
        for held in self._keeper.find(None):
            version = held.version or self._version(held.pin)
            if version is None:
                continue
            key = held.pin.template_id, version
            tokens[key] = held.tokens
            here = states.setdefault(key, {})
            for place in self._keeper.row(held).places:
                here[place.gpu] = min(here.get(place.gpu, "cold"), place.state, key=_BEST_FIRST.index)
        return states, tokens

    def _version(self, pin: Pin) -> int | None:
        """Of one that nobody has looked at yet, or whose prefix nobody can tell; None: it is about to be dropped."""
        template = self._directory.by_id(pin.template_id)
        try:
            return None if template is None else version_of(template, pin.reference).number
        except NotFound:
            return None
