"""What routes that change something have in common: who does it, on which version, really or not, and the answer."""

from collections.abc import Callable, Sequence
from time import time
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.params import HeaderParameter, QueryParameter

from preble.daemon.api.request_ids import request_id
from preble.daemon.tenancy.audit import Author, Change, Outcome
from preble.daemon.tenancy.model import Principal
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.moments import iso

_T = TypeVar("_T")

DryRun = Annotated[bool, QueryParameter(description="Check everything and say what would change, but change nothing.")]
IfMatch = Annotated[
    str | None,
    HeaderParameter(name="if-match", description="The ETag of what is to be changed: 412 if it has another by now."),
]


def author_of(request: Request[Any, Any, Any], principal: Principal) -> Author:
    """Whom the audit is to name."""
    return Author(name=principal.key_id, at_s=time(), request_id=request_id(request.scope))


def etag(version: int) -> str:
    """What a version is called over HTTP."""
    return f'"{version}"'


def versions(if_match: str | None) -> frozenset[int] | None:
    """The versions that an `If-Match` header takes; None: any, and nothing for what cannot be one of our ETags."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = [tag.strip() for tag in if_match.split(",")]
    digits = [tag[1:-1] for tag in tags if len(tag) > 2 and tag[0] == tag[-1] == '"']
    return frozenset(int(text) for text in digits if text.isascii() and text.isdigit() and len(text) < 16)


def answer(
    outcome: Outcome[_T], row: Callable[[_T], msgspec.Struct], *, dry_run: bool, version: int | None, status: int = 200
) -> Response[Any]:
    """Tell what has come of a change, or would have."""
    if dry_run:
        return Response(planned(outcome.change), status_code=200)
    headers = {} if version is None else {"etag": etag(version)}
    return Response(row(outcome.value), status_code=status, headers=headers)


def planned(change: Change, effect: Sequence[str] | None = None) -> PlannedChange:
    """A change that was not made, and what would have followed from it."""
    return PlannedChange(
        action=change.action,
        target=change.target,
        before=change.before,
        after=change.after,
        effect=tuple(effect or ()),
        computed_at=None if effect is None else iso(time()),
    )
