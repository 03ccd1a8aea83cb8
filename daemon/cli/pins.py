"""`preble template warm`: templates in GPUs' caches."""

from typing import TYPE_CHECKING

import click

from preble.daemon.cli.changes import dry_run_option
from preble.daemon.cli.output import Cell, emit, table
from preble.daemon.cli.remote import Remote, remote_command
from preble.daemon.cli.templates import REFERENCE, split, tenant_option

if TYPE_CHECKING:
    from preble.daemon.wire.pins import Warmed

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
