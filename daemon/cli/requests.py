"""`preble explain`: why a request went where it went."""

from typing import BinaryIO

import click

from preble.daemon.cli.output import emit
from preble.daemon.cli.remote import Remote, remote_command


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
