"""`preble audit`: who changed what."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.changes import difference
from preble.daemon.cli.output import emit, moment, table
from preble.daemon.cli.remote import Remote, remote_command
from preble.daemon.cli.times import since as since_text

if TYPE_CHECKING:
    from preble.daemon.wire.accounts import AuditRow


@click.command()
@click.option("--tenant", "tenant_name", help="Only this tenant's.")
@click.option("--since", callback=since_text, help="A date or time (ISO 8601), or an age: 90m, 24h, 7d.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="So many of the newest.")
@remote_command
def audit(remote: Remote, tenant_name: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """List administrative changes, newest first: who changed what, from what, to what."""
    with remote.client() as client:
        rows = client.changes(tenant_name, since, limit)
    emit(rows, as_json, lambda: _table(rows))


def _table(rows: "Sequence[AuditRow]") -> None:
    columns = ["number", "at (UTC)", "by", "action", "of", "changed", "request"]
    cells = [
        [
            row.number,
            moment(row.at),
            row.actor,
            row.action,
            row.target if row.tenant in (None, row.target) else f"{row.target} ({row.tenant})",
            difference(row.before, row.after) if row.after is not None else None,
            row.request_id,
        ]
        for row in rows
    ]
    table(columns, cells)
