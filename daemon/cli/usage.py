"""`preble usage`: what was asked, and what it came to."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.output import Cell, emit, moment, percent, table
from preble.daemon.cli.remote import Remote, remote_command
from preble.daemon.cli.times import since as time_text

if TYPE_CHECKING:
    from preble.daemon.wire.admin import UsagePage, UsageRow, UsageTotals

_NAMES = {"tenant": ("tenant",), "key": ("tenant", "key"), "model": ("model",)}
_TIMES = ("hour", "day", "month")
_TIME = "A date or time (ISO 8601), or an age: 90m, 24h, 7d."


@click.command()
@click.option("--tenant", help="Only this tenant's.")
@click.option("--key", "key_id", help="Only what this key was used for: its id.")
@click.option("--model", help="Only of this model.")
@click.option("--since", callback=time_text, help=_TIME)
@click.option("--until", callback=time_text, help=f"Before then. {_TIME}")
@click.option("--by", type=click.Choice([*_NAMES, *_TIMES]), help="Sum it by that (times in UTC).  [default: tenant]")
@click.option("--limit", type=click.IntRange(0, 1000), default=0, help="Also list so many of the newest requests.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: the sums, or with --limit the requests.")
@remote_command
def usage(
    remote: Remote,
    tenant: str | None,
    key_id: str | None,
    model: str | None,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what was used. JSON always has requests: --limit, or else 100."""
    from msgspec.structs import replace

    from preble.daemon.wire.client import UsageQuery
    from preble.daemon.wire.usage_csv import rows_csv, totals_csv

    if as_csv and (as_json or (by and limit)):
        raise click.UsageError("--csv is one table: leave out --json, and one of --by and --limit.")
    which = UsageQuery(tenant=tenant, key_id=key_id, model=model, since=since, until=until)
    with remote.client() as client:
        page = client.usage(which, limit or 100)
        if by is not None:
            page = replace(page, totals=client.usage_by(by, which))
    if as_csv:
        click.echo(rows_csv(page) if limit else totals_csv(page), nl=False)
    else:
        emit(page, as_json, lambda: _render(page, by or "tenant", limit))


def _render(page: "UsagePage", by: str, n_requests: int) -> None:
    _totals_table(page.totals, by)
    if n_requests:
        click.echo()
        _request_table(page.rows[:n_requests])


def _totals_table(totals: "Sequence[UsageTotals]", by: str) -> None:
    columns = [*_NAMES.get(by, (f"{by} (UTC)",)), "requests", "failed", "cancelled", "refused", "prompt tokens"]
    columns += ["cached tokens", "hit %", "output tokens", "GPU s", "TTFT ms", "latency ms"]
    cells: list[list[Cell]] = [
        [
            *_named(row, by),
            row.requests,
            row.failed,
            row.cancelled,
            row.refused,
            row.prompt_tokens,
            row.cached_tokens,
            _hit_percent(row),
            row.output_tokens,
            None if row.gpu_ms is None else round(row.gpu_ms / 1000, 1),
            _rounded(row.mean_ttft_ms),
            _rounded(row.mean_latency_ms),
        ]
        for row in totals
    ]
    _table(columns, cells, [row.cost for row in totals])


def _named(row: "UsageTotals", by: str) -> list[Cell]:
    match by:
        case "tenant":
            return [row.tenant]
        case "key":
            return [row.tenant, row.key_id]
        case "model":
            return [row.model]
    return [row.start and moment(row.start)]


def _hit_percent(row: "UsageTotals") -> int | None:
    if row.cached_tokens is None or not row.prompt_tokens:
        return None
    return percent(row.cached_tokens / row.prompt_tokens)


def _request_table(rows: "Sequence[UsageRow]") -> None:
    columns = ["request", "at (UTC)", "tenant", "model", "gpu", "mode", "status", "prompt", "cached", "output"]
    cells: list[list[Cell]] = [
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
            *map(_rounded, (row.queue_ms, row.ttft_ms, row.latency_ms, row.gpu_ms)),
        ]
        for row in rows
    ]
    _table([*columns, "queue ms", "TTFT ms", "latency ms", "GPU ms"], cells, [row.cost for row in rows])


def _table(columns: list[str], cells: list[list[Cell]], costs: "Sequence[float | None]") -> None:
    """With costs, where there are any."""
    if any(cost is not None for cost in costs):
        columns = [*columns, "cost"]
        cells = [[*row, cost] for row, cost in zip(cells, costs, strict=True)]
    table(columns, cells)


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)
