"""`preble key`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
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
from preble.daemon.cli.times import span_s

if TYPE_CHECKING:
    from preble.daemon.wire.accounts import KeyCreated, KeyRow

_DAYS = 36_500
_SCOPES = ["inference", "templates", "usage:read", "admin:read", "admin:write", "prompts:read"]
_scope = click.option(
    "--scope", "scopes", type=click.Choice(_SCOPES), multiple=True, help="What it may do; more than once for more."
)
_expires_days = click.option(
    "--expires-days", type=click.FloatRange(0, _DAYS, min_open=True), help="Days that the key works, from now on."
)


def _header(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.isascii() and value.isprintable() and 0 < len(value) <= 255):
        raise click.BadParameter("it has up to 255 printable ASCII characters")
    return value


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.argument("tenant_name", metavar="[TENANT]", required=False)
@click.option("--operator", is_flag=True, help="Make an operator's key instead of a tenant's.")
@click.option("--name", help="What the key is for.")
@_scope
@_expires_days
@limit_options
@click.option("--idempotency-key", callback=_header, help="A name of this request; sent again, it makes no second key.")
@dry_run_option
@remote_command
def create_key(
    remote: Remote,
    tenant_name: str | None,
    operator: bool,
    name: str | None,
    scopes: tuple[str, ...],
    expires_days: float | None,
    limits: dict[str, Any],
    idempotency_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a key for a tenant. It is shown this once. Without --scope it can do all that a tenant's key can."""
    if (tenant_name is None) != operator:
        raise click.UsageError("name either a tenant or --operator")
    settings = {"name": name or "", "scopes": scopes or None, "expires_in_days": expires_days, "limits": limits}
    with remote.client() as client:
        done = client.create_key(tenant_name, settings, request_name=idempotency_key, dry_run=dry_run)
    _report_made(done, as_json)


@key.command("list")
@click.option("--tenant", "tenant_name", help="Only this tenant's.")
@remote_command
def list_keys(remote: Remote, tenant_name: str | None, as_json: bool) -> None:
    """List keys, without their secrets."""
    with remote.client() as client:
        rows = client.keys(tenant_name)
    emit(rows, as_json, lambda: _table(rows))


@key.command("show")
@click.argument("key_id", metavar="KEY_ID")
@remote_command
def show_key(remote: Remote, key_id: str, as_json: bool) -> None:
    """Show one key without its secret, with its limits."""
    with remote.client() as client:
        row = client.key(key_id)
    emit(row, as_json, lambda: _show(row))


@key.command("update")
@click.argument("key_id", metavar="KEY_ID")
@click.option("--name", help="What the key is for.")
@_scope
@_expires_days
@click.option("--never-expires", is_flag=True, help="It works until it is revoked.")
@limit_options
@if_version_option
@dry_run_option
@remote_command
def update_key(
    remote: Remote,
    key_id: str,
    name: str | None,
    scopes: tuple[str, ...],
    expires_days: float | None,
    never_expires: bool,
    limits: dict[str, Any],
    if_version: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change what is named; it counts from the next request on."""
    if never_expires and expires_days is not None:
        raise click.UsageError("--expires-days and --never-expires exclude each other")
    expiry: dict[str, Any] = {"expires_at": None} if never_expires else {}
    if expires_days is not None:
        expiry = {"expires_at": (datetime.now(UTC) + timedelta(days=expires_days)).isoformat()}
    changes = given({"name": name, "scopes": scopes or None}, limits, expiry)
    with remote.client() as client:
        done = client.update_key(key_id, changes, if_version=if_version, dry_run=dry_run)
    report(done, as_json, _show)


@key.command("rotate")
@click.argument("key_id", metavar="KEY_ID")
@click.option(
    "--overlap", "overlap_s", default="0", callback=span_s, help="How long the old key still works: 30m, 24h, 7d."
)
@dry_run_option
@remote_command
def rotate_key(remote: Remote, key_id: str, overlap_s: float, dry_run: bool, as_json: bool) -> None:
    """Make a key of the same settings and lifetime in place of one. It is shown this once."""
    with remote.client() as client:
        done = client.rotate_key(key_id, overlap_s, dry_run=dry_run)
    if _report_made(done, as_json):
        say(f"key {key_id} works {f'for another {overlap_s:.0f} s at most' if overlap_s else 'no longer'}")


@key.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@dry_run_option
@remote_command
def revoke_key(remote: Remote, key_id: str, dry_run: bool, as_json: bool) -> None:
    """Make a key useless, from the next request on."""
    with remote.client() as client:
        done = client.revoke_key(key_id, dry_run=dry_run)
    report(done, as_json, lambda row: _table([row]))


def _report_made(done: Any, as_json: bool) -> bool:
    """Print a new key alone on stdout; whether there is one."""
    from preble.daemon.wire.accounts import KeyCreated

    if isinstance(done, KeyCreated):
        whose = _owner(done) if done.tenant is None else f"of tenant {done.tenant}"
        if done.key is None:
            say(f"key {done.id} {whose} was made before, and is not shown again; preble key rotate makes another")
        else:
            say(f"key {done.id} {whose}; keep it, it is not shown again:")
    return report(done, as_json, _echo_key) is not None


def _echo_key(made: "KeyCreated") -> None:
    if made.key is not None:
        click.echo(made.key)


def _owner(row: "KeyRow") -> str:
    return "(operator)" if row.tenant is None else row.tenant


def _table(rows: "Sequence[KeyRow]") -> None:
    columns = ["id", "of", "name", "ends in", "scopes", "made (UTC)", "expires", "revoked", "rotated to"]
    cells = [
        [
            row.id,
            _owner(row),
            row.name,
            row.last4,
            " ".join(row.scopes),
            moment(row.created_at),
            moment(row.expires_at),
            moment(row.revoked_at),
            row.replaced_by,
        ]
        for row in rows
    ]
    table(columns, cells)


def _show(row: "KeyRow") -> None:
    cells: list[list[Cell]] = [
        ["id", row.id],
        ["of", _owner(row)],
        ["name", row.name],
        ["ends in", row.last4],
        ["scopes", " ".join(row.scopes)],
        *limit_cells(row.limits),
        ["made (UTC)", moment(row.created_at)],
        ["expires", moment(row.expires_at)],
        ["revoked", moment(row.revoked_at)],
        ["rotated to", row.replaced_by],
        ["version", row.version],
    ]
    table(["what", "value"], cells)
