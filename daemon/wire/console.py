"""What the console asks the daemon beyond the command line: the prefix tree, what-ifs, and plans of changes."""

from collections.abc import Callable
from copy import copy

from msgspec.structs import replace

from preble.daemon.errors import PrebleError, Refused
from preble.daemon.wire.accounts import AuditPage, PlannedChange
from preble.daemon.wire.admin import CancelledRequest, Explanation, ExplanationPage
from preble.daemon.wire.client import AdminClient, _segment
from preble.daemon.wire.live import PrefixPage, PrefixText, TemplateKey, WhatIf
from preble.daemon.wire.pins import PinPage, PinRow, PinWanted, Unpin, Warmed, WarmUp


class NoEntry(PrebleError):
    """A change was made, but its entry in the audit cannot be read."""


class ConsoleClient(AdminClient):
    """An `AdminClient` for the console. Every method raises `Unreachable` and `Refused`."""

    def prefixes(
        self,
        parent: str | None,
        after: str | None,
        limit: int,
        *,
        model: str | None = None,
        order: str = "requests",
        gpu: str | None = None,
    ) -> PrefixPage:
        """Some of a prefix's continuations, those of which there is most first; `parent` None: of the empty prefix."""
        return self._get(
            "/prefixes", PrefixPage, model=model, parent=parent, order=order, gpu=gpu, limit=str(limit), after=after
        )

    def decisions(
        self,
        *,
        tenant: str | None = None,
        gpu: str | None = None,
        mode: str | None = None,
        limit: int = 50,
        after: int | None = None,
    ) -> ExplanationPage:
        """Why requests went where they went, newest first."""
        start = None if after is None else str(after)
        return self._get(
            "/decisions", ExplanationPage, tenant=tenant, gpu=gpu, mode=mode, limit=str(limit), after=start
        )

    def prefix_text(self, prefix: str) -> PrefixText:
        """The text of a stretch; the audit says who has read it."""
        return self._get(f"/prefixes/{_segment(prefix)}/text", PrefixText)

    def what_if(self, request_id: str, without: list[str]) -> Explanation:
        """What would have been decided about a request if these GPUs had not been there."""
        path = f"/explain/{_segment(request_id)}/what-if"
        return self._call("POST", path, Explanation, json={"without": WhatIf(without=without).without})

    def perform(self, change: Callable[["ConsoleClient"], object]) -> int | None:
        """Make a change, which ends with the request for it; gives its number in the audit, None: nothing was changed.

        Raises `NoEntry` if the change was made, and the audit cannot be read.
        """
        client = copy(self)  # so that others' requests do not come between
        change(client)
        if client.request_id is None:
            raise NoEntry("the daemon's answer has no x-request-id")
        try:
            page = client._get("/audit", AuditPage, request_id=client.request_id, limit="1")
        except PrebleError as error:
            raise NoEntry(str(error)) from error
        return page.rows[0].number if page.rows else None

    def plan_gpu(self, gpu: str, order: str) -> PlannedChange:
        """What `order_gpu` would do."""
        return self._plan(f"/gpus/{_segment(gpu)}/{order}")

    def cancel_request(self, request_id: str, *, dry_run: bool = False) -> CancelledRequest | PlannedChange:
        """End a request before its time."""
        path = f"/requests/{_segment(request_id)}/cancel"
        return self._plan(path) if dry_run else self._call("POST", path, CancelledRequest)

    def order_template(
        self,
        key: TemplateKey,
        order: str,
        reference: str | None,
        tenant: str,
        *,
        model: str | None = None,
        dry_run: bool = False,
    ) -> PlannedChange | Warmed | PinRow | PinPage:
        """`pin`, `unpin` or `warm` in the tenant's cache what `reference` names: a version, a label, or None: neither.

        `model` None: the only one that the template is for; of pins that are to go, all. Raises `Refused` if the name
        means another owner's template to this tenant.
        """
        self._check_owner(key, tenant)
        is_version = reference is not None and reference.isdigit()
        version, label = (int(reference or 0), None) if is_version else (None, reference)
        match order:
            case "pin":
                wanted = PinWanted(version=version, label=label, model=model)
                return self.pin_template(key.name, wanted, tenant, dry_run=dry_run)
            case "unpin":
                which = Unpin(version=version, label=label, model=model)
                unpinned = self.unpin_template(key.name, which, tenant, dry_run=dry_run)
                return _unpinning(unpinned) if isinstance(unpinned, PlannedChange) else unpinned
        warmed = self.warm_template(
            key.name, WarmUp(version=version, label=label, model=model), tenant, dry_run=dry_run
        )
        return _warming(warmed) if dry_run else warmed

    def _check_owner(self, key: TemplateKey, tenant: str) -> None:
        owner = self.template(key.name, tenant=tenant).owner
        if owner != key.owner:
            message = f"{key.name} means another template to {tenant}: "
            raise Refused(message + ("the operator's" if owner is None else "its own, which hides the operator's"))

    def _plan(self, path: str) -> PlannedChange:
        return self._call("POST", path, PlannedChange, params={"dry_run": "true"})


def _unpinning(plan: PlannedChange) -> PlannedChange:
    """With each pin that would go: it may be one of each model."""
    pins = (plan.before or {}).get("pins", ())
    effect = tuple(f"GPUs of {pin['model']} need not keep {_pinned_as(pin['reference'])} any more." for pin in pins)
    return replace(plan, effect=effect)


def _pinned_as(reference: str) -> str:
    return f"what was pinned as {reference}" if reference else "what requests get of it"


def _warming(warmed: Warmed) -> PlannedChange:
    """What a warm-up would do, as other plans have it."""
    effect = tuple(
        f"{row.gpu} has all {warmed.cacheable_tokens} tokens already."
        if row.state == "warm"
        else f"{row.gpu} computes {warmed.cacheable_tokens - (row.cached_tokens or 0)} tokens"
        + (f", which adds {row.cost_ms:.0f} ms to the latency of all requests." if row.cost_ms is not None else ".")
        for row in warmed.rows
    )
    return PlannedChange(action="template.warm", target=warmed.name, before=None, after=None, effect=effect)
