"""`preble gpu`: the engines, and orders for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.output import emit, percent, printable, say, table
from preble.daemon.cli.remote import Remote, remote_command

if TYPE_CHECKING:
    from preble.daemon.wire.admin import GpuRow


_dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")


@click.group()
def gpu() -> None:
    """Engines, one per GPU."""


@gpu.command("list")
@remote_command
def list_gpus(remote: Remote, as_json: bool) -> None:
    """List engines, and what they do."""
    with remote.client() as client:
        rows = client.gpus()
    emit(rows, as_json, lambda: _gpu_table(rows))


@gpu.command("drain")
@click.argument("name", metavar="GPU")
@_dry_run_option
@remote_command
def drain(remote: Remote, name: str, dry_run: bool, as_json: bool) -> None:
    """Place nothing new on a GPU; what runs there finishes."""
    _order(remote, name, "drain", dry_run, as_json)


@gpu.command("undrain")
@click.argument("name", metavar="GPU")
@_dry_run_option
@remote_command
def undrain(remote: Remote, name: str, dry_run: bool, as_json: bool) -> None:
    """Put a GPU back to work."""
    _order(remote, name, "undrain", dry_run, as_json)


@gpu.command("restart")
@click.argument("name", metavar="GPU")
@_dry_run_option
@remote_command
def restart(remote: Remote, name: str, dry_run: bool, as_json: bool) -> None:
    """Let a GPU's requests finish, then start its engine again."""
    if not dry_run:
        say(f"{name}: waiting for its running requests")
    _order(remote, name, "restart", dry_run, as_json)


def _order(remote: Remote, name: str, order: str, dry_run: bool, as_json: bool) -> None:
    with remote.client() as client:
        if dry_run:
            plan = client.plan_gpu(name, order)
            emit(plan, as_json, lambda: click.echo(printable("\n".join(plan.effect))))
            return
        row = client.order_gpu(name, order)
    emit(row, as_json, lambda: _gpu_table([row]))


def _time_error(row: "GpuRow") -> str | None:
    """Of predicted prefill and decode times; None before any was observed."""
    if row.prefill_error_ratio is None and row.decode_error_ratio is None:
        return None
    return "/".join(
        "-" if ratio is None else f"{100 * ratio:.0f}" for ratio in (row.prefill_error_ratio, row.decode_error_ratio)
    )


def _gpu_table(rows: "Sequence[GpuRow]") -> None:
    columns = [
        "gpu",
        "state",
        "model",
        "running",
        "waiting",
        "KV %",
        "hit %",
        "return hit %",
        "to do ms",
        "TTFT p50 ms",
        "time error %",
        "restarts",
    ]
    cells = [
        [
            row.gpu,
            row.state,
            row.model,
            row.running,
            row.waiting,
            percent(row.kv_used_ratio),
            percent(row.hit_ratio),
            percent(row.return_hit_ratio),
            round(row.outstanding_ms),
            None if row.ttft_p50_ms is None else round(row.ttft_p50_ms),
            _time_error(row),
            row.restarts,
        ]
        for row in rows
    ]
    table(columns, cells)
    for row in rows:
        if row.detail:
            say(printable(f"{row.gpu}: {row.detail}"))
