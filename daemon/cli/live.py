"""`preble tail`, `preble tree` and `preble request`: requests as they come, the prefix index, the end of a request."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.output import Cell, emit, percent, printable, say, table
from preble.daemon.cli.remote import Remote, remote_command

if TYPE_CHECKING:
    from preble.daemon.wire.live import LiveRequest, PrefixPage, PrefixRow

_MS = {"ms": 1.0, "s": 1000.0, "m": 60_000.0}
_FIELDS = ("tenant", "model", "template", "state", "gpu", "mode", "error")
_TIMES = {"ttft": "ttft_ms", "wait": "queue_ms", "latency": "latency_ms"}
_TERM = re.compile(r"(?P<time>ttft|wait|latency)(?P<sign>[<>])(?P<number>\d+(\.\d+)?)(?P<unit>ms|s|m)")
_ENDS = ("finished", "failed", "cancelled", "refused")

Wanted = Callable[["LiveRequest"], bool]


@click.command()
@click.argument("query", nargs=-1)
@click.option("--all-states", is_flag=True, help="Print every change of a request, and not only its end.")
@remote_command
def tail(remote: Remote, query: tuple[str, ...], all_states: bool, as_json: bool) -> None:
    """Print requests as they end, a line each, until Ctrl-C.

    QUERY: what all of them must match, such as tenant:acme gpu:gpu0 state:failed ttft>1s wait<200ms, or a part of the
    request's id.
    """
    from preble.daemon.wire.live import Snapshot

    wanted = [_wanted(term) for term in query]
    with remote.client() as client:
        for event in client.live():
            if isinstance(event, Snapshot):
                continue
            for row in event.requests:
                if (all_states or row.state in _ENDS) and all(matches(row) for matches in wanted):
                    _print(row, as_json)
            if event.dropped_requests:
                say(f"{event.dropped_requests} changes were too many to tell")


def _wanted(term: str) -> Wanted:
    """Raises `UsageError`."""
    if found := _TERM.fullmatch(term):
        name, limit_ms = _TIMES[found["time"]], float(found["number"]) * _MS[found["unit"]]
        return _longer(name, limit_ms) if found["sign"] == ">" else _shorter(name, limit_ms)
    name, colon, value = term.partition(":")
    if not colon:
        if any(sign in term for sign in "<>"):
            raise click.UsageError(f"{term!r}: it is one of {', '.join(_TIMES)}, < or >, and a time such as 1.5s.")
        return lambda row: term in row.request_id
    if name not in _FIELDS:
        raise click.UsageError(f"{term!r}: there is no field {name!r}; there are {', '.join(_FIELDS)}.")
    if name == "template":  # by name, any version of it
        return lambda row: value in ((row.template or ""), (row.template or "").rpartition("@")[0])
    return lambda row: str(getattr(row, name) or "") == value


def _longer(name: str, limit_ms: float) -> Wanted:
    return lambda row: getattr(row, name) is not None and getattr(row, name) > limit_ms


def _shorter(name: str, limit_ms: float) -> Wanted:
    return lambda row: getattr(row, name) is not None and getattr(row, name) < limit_ms


def _print(row: "LiveRequest", as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(row))
        return
    hit = (
        percent(row.cached_tokens / row.prompt_tokens) if row.cached_tokens is not None and row.prompt_tokens else None
    )
    cells: list[Cell] = [
        row.at[11:23],
        row.request_id,
        row.tenant,
        row.template,
        row.state,
        row.gpu,
        row.mode,
        f"{row.prompt_tokens} in",
        None if hit is None else f"{hit} % hit",
        None if row.output_tokens is None else f"{row.output_tokens} out",
        _ms("wait", row.queue_ms),
        _ms("TTFT", row.ttft_ms),
        _ms("took", row.latency_ms),
    ]
    line = "  ".join("-" if cell is None else str(cell) for cell in cells)
    click.echo(printable(line + (f"  {row.error}" if row.error else "")).replace("\n", " "))


def _ms(name: str, value_ms: float | None) -> str | None:
    return None if value_ms is None else f"{name} {value_ms:.0f} ms"


@click.command()
@click.argument("parent", required=False)
@click.option("--model", help="Of this model; else of the first.")
@click.option(
    "--order",
    type=click.Choice(["requests", "tokens", "continuations"]),
    default="requests",
    show_default=True,
    help="What there is most of comes first.",
)
@click.option("--gpu", help="Only what this GPU has or was sent.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Rows.")
@click.option("--after", help="The page after this one: `next` of the one before.")
@remote_command
def tree(
    remote: Remote,
    parent: str | None,
    model: str | None,
    order: str,
    gpu: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List what prompts begin with, or what comes behind the stretch PARENT of the prefix index."""
    with remote.client() as client:
        page = client.prefixes(parent, after, limit, model=model, order=order, gpu=gpu)
    emit(page, as_json, lambda: _prefix_table(page))


def _prefix_table(page: "PrefixPage") -> None:
    columns = ["stretch", "tokens", "from the start", "requests", "behind it", "tenant", "cached at", "on its way to"]
    table(columns, [_prefix_cells(row) for row in page.rows])
    if page.next is not None:
        say(f"{page.total} in all; go on with --after {page.next}")


def _prefix_cells(row: "PrefixRow") -> list[Cell]:
    cached = [f"{gpu} {100 * tokens / row.tokens:.0f} %" for gpu, tokens in row.reported_tokens.items()]
    return [
        row.id,
        row.tokens,
        row.depth_tokens,
        row.requests,
        row.children,
        row.tenant,
        ", ".join(cached) or None,
        ", ".join(row.believed) or None,
    ]


@click.group()
def request() -> None:
    """Requests that wait or run."""


@request.command("cancel")
@click.argument("request_id", metavar="REQUEST_ID")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
@remote_command
def cancel(remote: Remote, request_id: str, dry_run: bool, as_json: bool) -> None:
    """End a request. Its client is told that an operator has done so."""
    from preble.daemon.wire.accounts import PlannedChange

    with remote.client() as client:
        done = client.cancel_request(request_id, dry_run=dry_run)
    if isinstance(done, PlannedChange):
        emit(done, as_json, lambda: click.echo(printable("\n".join(done.effect))))
    else:
        emit(done, as_json, lambda: click.echo(f"{printable(done.request_id)} ends"))
