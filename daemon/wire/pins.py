"""Templates in GPUs' caches: what is to be there, what is, and what it saves."""

from typing import Annotated, Literal

import msgspec

_Name = Annotated[str, msgspec.Meta(max_length=63)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Replicas = Annotated[int, msgspec.Meta(ge=1, le=1024)]

State = Literal["cold", "warming", "warm", "partial", "stale"]
"""What a GPU has reported of a prefix: nothing, all or a part of it. `warming`: it is being computed there. `stale`:
nothing, but what it was before the tenant's salt, or the label, was changed."""


class WarmUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/templates/NAME/warm`."""

    version: _Number | None = None
    label: _Name | None = None
    """None, with no version: what requests get."""
    model: _Model | None = None
    """None: the only one that it is for."""
    gpus: _Replicas | Literal["all"] = 1
    """How many: those that can best afford it."""


class WarmRow(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU that was to be warm. None: not known, or not to be told."""

    gpu: str
    state: State | None
    cached_tokens: int | None
    """Of the prefix, as the GPU has reported."""
    cost_ms: float | None
    """What it was expected to add to the latency of all requests, by which the GPU was chosen."""
    request_id: str | None
    """For `preble explain`."""
    problem: str | None


class Warmed(msgspec.Struct, frozen=True, kw_only=True):
    """What has come of a warm-up, or would."""

    name: str
    version: int
    model: str
    tenant: str
    """For whom: caches are kept apart."""
    cacheable_tokens: int
    rows: list[WarmRow]


class PinWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/templates/NAME/pin`."""

    version: _Number | None = None
    label: _Name | None = None
    """Whatever it points to. None, with no version: what requests get."""
    model: _Model | None = None
    """None: the only one that it is for."""
    replicas: _Replicas = 1
    """GPUs that are to have it, whatever is asked for."""
    max_replicas: _Replicas | None = None
    """GPUs that may have it, while its requests take more of the others' time than is good. None: `replicas`."""
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=10 * 366 * 86_400)] | None = None
    """How long it is kept. None: until it is unpinned."""


class Unpin(msgspec.Struct, frozen=True, kw_only=True):
    """Which pins of a template are to go: those of this version or label, or of neither."""

    version: int | None = None
    label: str | None = None
    model: str | None = None
    """None: of every model."""
    all_pins: bool = False
    """Whatever their version or label."""

    def fields(self) -> dict[str, str]:
        """As a query."""
        given = {"version": self.version, "label": self.label, "model": self.model}
        named = {name: str(value) for name, value in given.items() if value is not None}
        return named | ({"all": "true"} if self.all_pins else {})


class PinnedOn(msgspec.Struct, frozen=True, kw_only=True):
    """What one GPU has of a pinned prefix."""

    gpu: str
    state: State
    cached_tokens: int
    is_kept: bool
    """Whether it is to stay there; else it is there by chance, and may go."""


class PinRow(msgspec.Struct, frozen=True, kw_only=True):
    """A pin, and how it stands."""

    name: str
    owner: str | None
    """None: the template is the operator's."""
    tenant: str
    """In whose cache it is, and at whose expense."""
    reference: str | None
    """The version or label that is pinned; None: what requests get."""
    version: int | None
    """That is now; None: not known yet."""
    model: str
    replicas: int
    max_replicas: int
    wanted_replicas: int
    """Of late, by what its requests take."""
    expires_at: str | None
    created_at: str
    created_by: str
    """The id of a key."""
    cacheable_tokens: int
    places: list[PinnedOn]
    evictions: int
    """Since the daemon was started."""
    warm_ups: int
    """Likewise, those included that kept it from being evicted."""
    problem: str | None
    """Why it is not as it should be, or was not at the last try."""
    next_try_in_s: float | None


class PinPage(msgspec.Struct, frozen=True, kw_only=True):
    """Pins of a template."""

    rows: list[PinRow]


class TemplateStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one version has saved those whose requests began with it. None: not known, or not to be told."""

    name: str
    version: int
    owner: str | None
    """None: the operator's."""
    requests: int
    hit_ratio: float | None
    """Of the tokens that could be found cached, those that were."""
    tokens_saved: int | None
    gpu_ms_saved: float | None
    """By the time models of the GPUs that had found them."""
    ttft_hit_ms: float | None
    """Mean time to first token of streamed requests that found most of it cached."""
    ttft_miss_ms: float | None
    """And of those that did not."""
    warm_on: list[str]
    """GPUs that have all of it now, in the cache of some tenant that is told of here."""
    pinned: bool
    evictions: int | None
    """Times that a GPU which had all of what can be cached of it reported to have evicted some, once it was used or
    warmed: in each tenant's cache, for who used it there last. That an engine ended, restarted or emptied its cache is
    none."""
    last_used_at: str | None


class TemplateStatsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Those that saved most first."""

    rows: list[TemplateStats]
