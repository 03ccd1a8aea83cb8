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
