"""`preble usage` and `preble explain`: what was asked, what it cost, and why it went where it went."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO

import click

from preble.daemon.cli.output import emit, moment, percent, table
from preble.daemon.cli.remote import Remote, remote_command
from preble.daemon.cli.times import since as since_text

if TYPE_CHECKING:
    from preble.daemon.wire.admin import UsagePage, UsageRow, UsageTotals


@click.command()
@click.option("--tenant", "tenant_name", help="Only this tenant's.")
@click.option("--since", callback=since_text, help="A date or time (ISO 8601), or an age: 90m, 24h, 7d.")
@click.option("--limit", type=click.IntRange(0, 1000), default=0, help="Also list so many of the newest requests.")
@remote_command
def usage(remote: Remote, tenant_name: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """Show what tenants have used. JSON always has requests: --limit, or else 100."""
    with remote.client() as client:
        page = client.usage(tenant_name, since, limit or 100)
    emit(page, as_json, lambda: _render(page, limit))


@click.command()
@click.argument("request_id", metavar="REQUEST_ID", required=False)
@click.option(
    "--dry-run",
    "file",
    type=click.File("rb"),
    help="A request's body, of a chat or a completion (- for stdin): where would it go now?",
)
@click.option("--tenant", "tenant_name", help="With --dry-run: whose it would be, and so what is cached.")
@remote_command
def explain(
    remote: Remote, request_id: str | None, file: BinaryIO | None, tenant_name: str | None, as_json: bool
) -> None:
    """Say why a request went where it went, and what then happened. Its id is in the x-request-id header.

    With --dry-run, say what would become of a request; it is not run.
    """
    from preble.daemon.cli.explain import render

    if (request_id is None) == (file is None):
        raise click.UsageError("Name a request, or a file with --dry-run.")
    if tenant_name is not None and file is None:
        raise click.UsageError("--tenant goes with --dry-run.")
    with remote.client() as client:
        explanation = client.explain(request_id or "") if file is None else client.dry_run(file.read(), tenant_name)
    emit(explanation, as_json, lambda: render(explanation))


def _render(page: "UsagePage", n_requests: int) -> None:
    _totals_table(page.totals)
    if n_requests:
        click.echo()
        _request_table(page.rows[:n_requests])


def _totals_table(totals: "Sequence[UsageTotals]") -> None:
    columns = ["tenant", "requests", "prompt tokens", "cached tokens", "hit %", "output tokens"]
    cells = [
        [
            row.tenant,
            row.requests,
            row.prompt_tokens,
            row.cached_tokens,
            _hit_percent(row),
            row.output_tokens,
        ]
        for row in totals
    ]
    table(columns, cells)


def _hit_percent(row: "UsageTotals") -> int | None:
    if row.cached_tokens is None or not row.prompt_tokens:
        return None
    return percent(row.cached_tokens / row.prompt_tokens)


def _request_table(rows: "Sequence[UsageRow]") -> None:
    columns = ["request", "at (UTC)", "tenant", "model", "gpu", "mode", "status", "prompt", "cached", "output"]
    cells = [
        [
            row.request_id,
            moment(row.created_at),
            row.tenant,
            row.model,
            row.gpu,
            row.mode,
            row.status,
            row.prompt_tokens,
            row.cached_tokens,
            row.output_tokens,
            *(None if value is None else round(value, 1) for value in (row.queue_ms, row.ttft_ms, row.latency_ms)),
        ]
        for row in rows
    ]
    table([*columns, "queue ms", "TTFT ms", "latency ms"], cells)
