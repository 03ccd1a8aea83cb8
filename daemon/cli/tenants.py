"""`preble tenant` and `preble key`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.output import emit, moment, say, table
from preble.daemon.cli.remote import Remote, remote_command

if TYPE_CHECKING:
    from preble.daemon.wire.admin import KeyRow, TenantRow


@click.group()
def tenant() -> None:
    """Who is served."""


@tenant.command("create")
@click.argument("name")
@remote_command
def create_tenant(remote: Remote, name: str, as_json: bool) -> None:
    """Make a tenant: lower-case letters, digits and dashes."""
    with remote.client() as client:
        row = client.create_tenant(name)
    emit(row, as_json, lambda: _tenant_table([row]))
    say(f"next: preble key create {row.name}")


@tenant.command("list")
@remote_command
def list_tenants(remote: Remote, as_json: bool) -> None:
    """List tenants, with what they have used."""
    with remote.client() as client:
        rows = client.tenants()
    emit(rows, as_json, lambda: _tenant_table(rows))


@tenant.command("show")
@click.argument("name")
@remote_command
def show_tenant(remote: Remote, name: str, as_json: bool) -> None:
    """Show one tenant."""
    with remote.client() as client:
        row = client.tenant(name)
    emit(row, as_json, lambda: _tenant_table([row]))


def _tenant_table(rows: "Sequence[TenantRow]") -> None:
    columns = ["tenant", "keys", "requests", "prompt tokens", "cached tokens", "output tokens", "made (UTC)"]
    cells = [
        [
            row.name,
            row.keys,
            row.requests,
            row.prompt_tokens,
            row.cached_tokens,
            row.output_tokens,
            moment(row.created_at),
        ]
        for row in rows
    ]
    table(columns, cells)


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.argument("tenant_name", metavar="TENANT")
@click.option("--name", default="", help="What the key is for.")
@click.option("--expires-days", type=click.FloatRange(min=0, min_open=True), help="Days that the key works.")
@remote_command
def create_key(remote: Remote, tenant_name: str, name: str, expires_days: float | None, as_json: bool) -> None:
    """Make a key for a tenant. It is shown this once."""
    with remote.client() as client:
        created = client.create_key(tenant_name, name=name, expires_in_days=expires_days)
    say(f"key {created.id} of tenant {created.tenant}; keep it, it is not shown again:")
    emit(created, as_json, lambda: click.echo(created.key))


@key.command("list")
@click.option("--tenant", "tenant_name", help="Only this tenant's.")
@remote_command
def list_keys(remote: Remote, tenant_name: str | None, as_json: bool) -> None:
    """List keys, without their secrets."""
    with remote.client() as client:
        rows = client.keys(tenant_name)
    emit(rows, as_json, lambda: _key_table(rows))


@key.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@remote_command
def revoke_key(remote: Remote, key_id: str, as_json: bool) -> None:
    """Make a key useless, from the next request on."""
    with remote.client() as client:
        row = client.revoke_key(key_id)
    emit(row, as_json, lambda: _key_table([row]))


def _key_table(rows: "Sequence[KeyRow]") -> None:
    columns = ["id", "of", "name", "ends in", "scopes", "made (UTC)", "expires", "revoked"]
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
        ]
        for row in rows
    ]
    table(columns, cells)


def _owner(row: "KeyRow") -> str:
    return "(operator)" if row.tenant is None else row.tenant
