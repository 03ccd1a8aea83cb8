"""What operators set for tenants and keys: the same over HTTP, in the database, and for whoever enforces it."""

import re
from typing import Annotated, Literal

import msgspec

_LARGEST = 2**53  # what every JSON reader can hold
Count = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Model = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]

NAME = "[a-z0-9][a-z0-9-]{0,62}"
"""What tenants and groups may be called, as a regular expression: it is to fit into URLs, file names and labels."""

PRIVATE = "private"
GROUP = "group:"
_ISOLATION = f"{PRIVATE}|shared|{GROUP}{NAME}"
_Isolation = msgspec.Meta(max_length=70, extra_json_schema={"pattern": f"^({_ISOLATION})$"})


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that a tenant or a key may use. None: no limit of its own."""

    requests_per_minute: Count | None = None
    input_tokens_per_minute: Count | None = None
    output_tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    """Admitted and not ended yet."""
    queued_requests: CountOrZero | None = None
    """Waiting for an engine at once."""
    tokens_per_day: Count | None = None
    """Input and output, by days in UTC."""
    tokens_per_month: Count | None = None
    """Likewise by calendar months."""
    pinned_tokens: CountOrZero | None = None
    """Of templates that are kept in GPUs' caches, each as often as it is to be there."""
    models: Annotated[tuple[Model, ...], msgspec.Meta(min_length=1, max_length=1000)] | None = None
    """Those that may be asked; None: every one."""
    max_prompt_tokens: Count | None = None
    """Of one request."""
    max_output_tokens: Count | None = None
    """Of one request."""


NO_LIMITS = Limits()


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator decides about a tenant."""

    weight: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 1.0
    """Its share, by those of the others that want something at the same time."""
    priority: Literal["interactive", "batch"] = "interactive"
    """`batch` waits for whatever is interactive."""
    isolation: Annotated[str, _Isolation] = PRIVATE
    """Who shares its cached prefixes: nobody (`private`), all of a `group:NAME`, or everybody who is `shared`."""
    suspended: bool = False
    """Nothing that its keys ask is done."""
    limits: Limits = NO_LIMITS

    @property
    def shares_prefixes(self) -> bool:
        """Whether others may find what it has cached, and it what they have."""
        return self.isolation != PRIVATE


def is_isolation(text: str) -> bool:
    """Whether this is `private`, `shared` or `group:` and a name such as tenants have."""
    return re.fullmatch(_ISOLATION, text) is not None
