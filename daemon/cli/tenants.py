"""`preble tenant`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from preble.daemon.cli.changes import (
    dry_run_option,
    given,
    if_version_option,
    limit_cells,
    limit_options,
    report,
)
from preble.daemon.cli.output import Cell, emit, moment, say, table
from preble.daemon.cli.remote import Remote, remote_command

if TYPE_CHECKING:
    from preble.daemon.wire.accounts import TenantRow

_weight = click.option("--weight", type=click.FloatRange(0.001, 1000), help="Its share, by those of the others.")
_priority = click.option(
    "--priority", type=click.Choice(["interactive", "batch"]), help="batch waits for whatever is interactive."
)
_isolation = click.option(
    "--isolation", metavar="private|group:NAME|shared", help="Who shares its cached prefixes.  [new ones: private]"
)


@click.group()
def tenant() -> None:
    """Who is served."""


@tenant.command("create")
@click.argument("name")
@_weight
@_priority
@_isolation
@limit_options
@dry_run_option
@remote_command
def create_tenant(
    remote: Remote, name: str, limits: dict[str, Any], dry_run: bool, as_json: bool, **settings: Any
) -> None:
    """Make a tenant: lower-case letters, digits and dashes. One that is there already, and the same, will do."""
    with remote.client() as client:
        done = client.create_tenant(name, {**_named(settings), "limits": limits}, dry_run=dry_run)
    if (row := report(done, as_json, lambda row: _table([row]))) is not None:
        say(f"next: preble key create {row.name}")


@tenant.command("list")
@remote_command
def list_tenants(remote: Remote, as_json: bool) -> None:
    """List tenants, with what they have used."""
    with remote.client() as client:
        rows = client.tenants()
    emit(rows, as_json, lambda: _table(rows))


@tenant.command("show")
@click.argument("name")
@remote_command
def show_tenant(remote: Remote, name: str, as_json: bool) -> None:
    """Show one tenant, with its limits."""
    with remote.client() as client:
        row = client.tenant(name)
    emit(row, as_json, lambda: _show(row))


@tenant.command("update")
@click.argument("name")
@_weight
@_priority
@_isolation
@limit_options
@if_version_option
@dry_run_option
@remote_command
def update_tenant(
    remote: Remote,
    name: str,
    limits: dict[str, Any],
    if_version: int | None,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Change what is named; it counts from the next request on."""
    changes = given(settings, limits)
    with remote.client() as client:
        done = client.update_tenant(name, changes, if_version=if_version, dry_run=dry_run)
    report(done, as_json, _show)


@tenant.command("suspend")
@click.argument("name")
@dry_run_option
@remote_command
def suspend_tenant(remote: Remote, name: str, dry_run: bool, as_json: bool) -> None:
    """Refuse what its keys ask, from the next request on."""
    _suspend(remote, name, True, dry_run, as_json)


@tenant.command("resume")
@click.argument("name")
@dry_run_option
@remote_command
def resume_tenant(remote: Remote, name: str, dry_run: bool, as_json: bool) -> None:
    """Serve it again."""
    _suspend(remote, name, False, dry_run, as_json)


@tenant.command("rotate-salt")
@click.argument("name")
@dry_run_option
@remote_command
def rotate_salt(remote: Remote, name: str, dry_run: bool, as_json: bool) -> None:
    """Give up all prefixes that are cached for it."""
    with remote.client() as client:
        done = client.rotate_salt(name, dry_run=dry_run)
    report(done, as_json, _show)


@tenant.command("delete")
@click.argument("name")
@click.option("--revoke-keys", is_flag=True, help="Revoke its keys; without this, working ones keep it.")
@dry_run_option
@remote_command
def delete_tenant(remote: Remote, name: str, revoke_keys: bool, dry_run: bool, as_json: bool) -> None:
    """Delete a tenant. What it has used stays on record."""
    with remote.client() as client:
        done = client.delete_tenant(name, revoke_keys=revoke_keys, dry_run=dry_run)
    if report(done, as_json, lambda row: _table([row])) is not None:
        say(f"tenant {name} is deleted")


def _suspend(remote: Remote, name: str, suspended: bool, dry_run: bool, as_json: bool) -> None:
    with remote.client() as client:
        done = client.update_tenant(name, {"suspended": suspended}, dry_run=dry_run)
    report(done, as_json, lambda row: _table([row]))


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _state(row: "TenantRow") -> str:
    return "suspended" if row.suspended else "active"


def _table(rows: "Sequence[TenantRow]") -> None:
    columns = ["tenant", "state", "weight", "priority", "isolation", "keys", "requests"]
    cells = [
        [
            row.name,
            _state(row),
            row.weight,
            row.priority,
            row.isolation,
            row.keys,
            row.requests,
            row.prompt_tokens,
            row.cached_tokens,
            row.output_tokens,
            moment(row.created_at),
        ]
        for row in rows
    ]
    table([*columns, "prompt tokens", "cached tokens", "output tokens", "made (UTC)"], cells)


def _show(row: "TenantRow") -> None:
    cells: list[list[Cell]] = [
        ["tenant", row.name],
        ["state", _state(row)],
        ["weight", row.weight],
        ["priority", row.priority],
        ["isolation", row.isolation],
        *limit_cells(row.limits),
        ["keys", row.keys],
        ["requests", row.requests],
        ["prompt tokens", row.prompt_tokens],
        ["cached tokens", row.cached_tokens],
        ["output tokens", row.output_tokens],
        ["salt epoch", row.salt_epoch],
        ["version", row.version],
        ["made (UTC)", moment(row.created_at)],
    ]
    table(["what", "value"], cells)
