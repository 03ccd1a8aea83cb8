"""What the console can change, and what it says of each: the same as the command line does, through the same routes.

Pure but for the call itself: a `Change` is made of a row's key at the moment a key is pressed, and keeps it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.console import ConsoleClient
from preble.daemon.wire.live import TemplateKey

_SET_TO_NOW = frozenset({"revoked_at"})
"""Whatever the plan says, it will be when it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change, not done yet."""

    action: str
    """A verb."""
    target: str
    """The name of what is changed."""
    command: str
    """What does the same at a shell."""
    call: Callable[[ConsoleClient, bool], Any]
    """Does it; with True it only says what it would do."""
    is_worst: bool = False
    """Whether the name has to be typed."""
    is_there: Callable[[], bool] = lambda: True
    """Whether what is to be changed is still there."""

    button: str | None = None
    """What its button says; None: the verb."""

    @property
    def title(self) -> str:
        """For the dialog."""
        return f"{self.action.capitalize()} {self.target}"


def order_gpu(order: str, gpu: str, is_there: Callable[[], bool]) -> Change:
    """`drain`, `undrain` or `restart`."""
    return Change(
        action=order,
        target=gpu,
        command=f"preble gpu {order} {gpu}",
        call=lambda client, dry_run: client.plan_gpu(gpu, order) if dry_run else client.order_gpu(gpu, order),
        is_worst=order != "undrain",
        is_there=is_there,
    )


def order_template(
    order: str,
    key: TemplateKey,
    reference: str | None,
    tenant: str,
    is_there: Callable[[], bool],
    *,
    model: str | None = None,
) -> Change:
    """`pin`, `unpin` or `warm` in a tenant's cache; what by a version or a label, or by neither."""
    name = key.name if reference is None else f"{key.name}@{reference}"
    return Change(
        action=order,
        target=f"{name} for {tenant}",
        command=f"preble template {order} {name} --tenant {tenant}" + (f" --model {model}" if model else ""),
        call=lambda client, dry_run: client.order_template(key, order, reference, tenant, model=model, dry_run=dry_run),
        is_there=is_there,
    )


def change_tenant(name: str, setting: str, value: float | int | None, is_there: Callable[[], bool]) -> Change:
    """Another weight, or another limit; None lifts a limit."""
    settings: dict[str, Any] = {"weight": value} if setting == "weight" else {"limits": {setting: value}}
    shown = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return Change(
        action="change",
        target=name,
        command=f"preble tenant update {name} --{setting.replace('_', '-')} {shown}",
        call=lambda client, dry_run: client.update_tenant(name, settings, dry_run=dry_run),
        is_there=is_there,
    )


def revoke_key(key_id: str, is_there: Callable[[], bool]) -> Change:
    """A key that works no more."""
    return Change(
        action="revoke",
        target=key_id,
        command=f"preble key revoke {key_id}",
        call=lambda client, dry_run: client.revoke_key(key_id, dry_run=dry_run),
        is_worst=True,
        is_there=is_there,
    )


def cancel_request(request_id: str, is_there: Callable[[], bool]) -> Change:
    """A request that is ended before its time."""
    return Change(
        action="cancel",
        target=request_id,
        command=f"preble request cancel {request_id}",
        button="End request",  # beside the one that says Cancel
        call=lambda client, dry_run: client.cancel_request(request_id, dry_run=dry_run),
        is_there=is_there,
    )


def differences(planned: PlannedChange) -> list[str]:
    """What would be another than now, one line each."""
    before, after = planned.before or {}, planned.after or {}
    if planned.after is None:
        return [] if planned.before is None else ["it would be there no more"]
    if planned.before is None:
        return ["new: " + ", ".join(f"{name} {_shown(value)}" for name, value in after.items() if value is not None)]
    return [
        f"{name}: {_shown(before.get(name))} → {'now' if name in _SET_TO_NOW else _shown(after.get(name))}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and name != "version"
    ]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} {_shown(part)}" for name, part in value.items() if part is not None) + "}"
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
