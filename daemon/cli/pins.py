"""`preble template warm`, `pin`, `unpin`, `pins` and `stats`: templates in GPUs' caches."""

from typing import TYPE_CHECKING

import click

from preble.daemon.cli.changes import dry_run_option, report
from preble.daemon.cli.output import Cell, emit, moment, percent, table
from preble.daemon.cli.remote import Remote, remote_command
from preble.daemon.cli.templates import REFERENCE, split, tenant_option
from preble.daemon.cli.times import span_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preble.daemon.wire.pins import PinRow, TemplateStats, Warmed

_model = click.option("--model", help="For which model.  [default: the only one]")


class _Gpus(click.ParamType[int | str]):
    """A number, or all."""

    name = "N|all"

    def convert(self, value: int | str, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Raises `UsageError`."""
        if value == "all":
            return value
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither a number of GPUs nor `all`", param, ctx)
        return number


def _ttl(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    return None if value is None else span_s(context, param, value)


@click.command("warm")
@click.argument("reference", metavar=REFERENCE)
@click.option("--gpus", type=_Gpus(), default=1, show_default=True, help="On how many GPUs: those that it costs least.")
@_model
@tenant_option
@dry_run_option
@remote_command
def warm(
    remote: Remote,
    reference: str,
    gpus: int | str,
    model: str | None,
    tenant: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compute what can be cached of a template where that costs least, and return when it is there."""
    from preble.daemon.wire.pins import WarmUp

    name, version, label = split(reference)
    wanted = WarmUp(version=version, label=label, model=model, gpus=gpus)  # type: ignore[arg-type]
    with remote.client(tenants_too=True) as client:
        done = client.warm_template(name, wanted, tenant, dry_run=dry_run)
    emit(done, as_json, lambda: _show(done))


@click.command("pin")
@click.argument("reference", metavar=REFERENCE)
@click.option("--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="On how many GPUs.")
@click.option("--max-replicas", type=click.IntRange(min=1), help="On how many where so much is asked for.")
@click.option("--ttl", "ttl_s", callback=_ttl, help="For how long: 90m, 12h, 7d.  [default: until unpinned]")
@_model
@tenant_option
@dry_run_option
@remote_command
def pin(
    remote: Remote,
    reference: str,
    replicas: int,
    max_replicas: int | None,
    ttl_s: float | None,
    model: str | None,
    tenant: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Keep what can be cached of a template in GPUs' caches: computed now, and again whenever it is lost."""
    from preble.daemon.wire.pins import PinWanted

    name, version, label = split(reference)
    wanted = PinWanted(
        version=version, label=label, model=model, replicas=replicas, max_replicas=max_replicas, ttl_s=ttl_s
    )
    with remote.client(tenants_too=True) as client:
        done = client.pin_template(name, wanted, tenant, dry_run=dry_run)
    report(done, as_json, lambda row: _show_pins([row]))


@click.command("unpin")
@click.argument("reference", metavar=REFERENCE)
@click.option("--all", "all_pins", is_flag=True, help="Whatever is pinned of it.")
@click.option("--model", help="For which model.  [default: all]")
@tenant_option
@dry_run_option
@remote_command
def unpin(
    remote: Remote,
    reference: str,
    all_pins: bool,
    model: str | None,
    tenant: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Let go from GPUs' caches what was pinned by this REFERENCE, which `preble template pins` shows."""
    from preble.daemon.wire.pins import Unpin

    name, version, label = split(reference)
    if all_pins and (version is not None or label is not None):
        raise click.UsageError("--all takes a name alone.")
    which = Unpin(version=version, label=label, model=model, all_pins=all_pins)
    with remote.client(tenants_too=True) as client:
        done = client.unpin_template(name, which, tenant, dry_run=dry_run)
    report(done, as_json, lambda page: _show_pins(page.rows))


@click.command("pins")
@click.argument("name")
@tenant_option
@remote_command
def pins(remote: Remote, name: str, tenant: str | None, as_json: bool) -> None:
    """Show where a pinned template is, as the engines have reported, and what is wrong if it is not."""
    with remote.client(tenants_too=True) as client:
        rows = client.template_pins(name, tenant)
    emit(rows, as_json, lambda: _show_pins(rows))


@click.command("stats")
@click.argument("name", required=False)
@tenant_option
@remote_command
def stats(remote: Remote, name: str | None, tenant: str | None, as_json: bool) -> None:
    """Show what templates have saved, version by version, and where they are warm."""
    with remote.client(tenants_too=True) as client:
        rows = client.template_stats(name, tenant)
    columns = ["template", "owner", "requests", "hit %", "tokens saved", "GPU ms saved", "TTFT hit", "miss", "warm on"]
    cells: list[list[Cell]] = [
        [
            f"{row.name}@{row.version}",
            row.owner or "(operator)",
            row.requests,
            percent(row.hit_ratio),
            row.tokens_saved,
            _whole(row.gpu_ms_saved),
            _whole(row.ttft_hit_ms),
            _whole(row.ttft_miss_ms),
            " ".join(row.warm_on),
        ]
        for row in rows
    ]
    emit(rows, as_json, lambda: table([*columns, "evicted", "last used (UTC)"], _with_rest(cells, rows)))


def _with_rest(cells: list[list[Cell]], rows: "Sequence[TemplateStats]") -> list[list[Cell]]:
    return [[*line, row.evictions, moment(row.last_used_at)] for line, row in zip(cells, rows, strict=True)]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _show_pins(rows: "Sequence[PinRow]") -> None:
    columns = ["template", "tenant", "version", "model", "tokens", "on", "wanted", "until", "evicted", "problem"]
    cells: list[list[Cell]] = [
        [
            f"{row.name}@{row.reference}" if row.reference else row.name,
            row.tenant,
            row.version,
            row.model,
            row.cacheable_tokens,
            " ".join(f"{place.gpu}={place.state}" for place in row.places),
            row.wanted_replicas,
            moment(row.expires_at),
            row.evictions,
            row.problem,
        ]
        for row in rows
    ]
    table(columns, cells)


def _show(done: "Warmed") -> None:
    columns = ["template", "version", "model", "gpu", "state", "cached", "of", "cost ms", "request", "problem"]
    cells: list[list[Cell]] = [
        [
            done.name,
            done.version,
            done.model,
            row.gpu,
            row.state,
            row.cached_tokens,
            done.cacheable_tokens,
            None if row.cost_ms is None else round(row.cost_ms),
            row.request_id,
            row.problem,
        ]
        for row in done.rows
    ]
    table(columns, cells)
