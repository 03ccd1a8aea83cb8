"""The command line, put together. What a command needs is imported when it runs, so that help comes at once."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preble.daemon import __version__
from preble.daemon.cli.audit import audit
from preble.daemon.cli.config_commands import config
from preble.daemon.cli.db import db
from preble.daemon.cli.demo_feed import demo_feed
from preble.daemon.cli.gpus import gpu
from preble.daemon.cli.keys import key
from preble.daemon.cli.live import request, tail, tree
from preble.daemon.cli.output import STYLES, Exit, emit, exit_code, printable, say
from preble.daemon.cli.pins import pin, pins, stats, unpin, warm
from preble.daemon.cli.remote import Remote, config_option, json_option, remote_command
from preble.daemon.cli.replay import replay
from preble.daemon.cli.requests import explain
from preble.daemon.cli.simulate import simulate
from preble.daemon.cli.templates import template
from preble.daemon.cli.tenants import tenant
from preble.daemon.cli.usage import usage
from preble.daemon.errors import PrebleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preble.daemon.cli.checks import Check


class _Commands(click.Group):
    """Turns foreseeable faults into one line and an exit code that scripts can rely on."""

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except PrebleError as error:
            say(f"{click.style('preble:', fg='red')} {printable(str(error))}")
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serve language models to many tenants, each request where its prefix is already cached.

    Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage or configuration,
    3 daemon unreachable, 4 refused by the daemon, 130 interrupted.
    """


@main.command()
@config_option
@click.option(
    "--record-events",
    "record_to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all that the scheduler is told and decides to this new file, 1 GiB at most, for `preble replay`. "
    "It holds tenants' names and keys of prompts' blocks, no texts.",
)
def serve(config_path: Path, record_to: Path | None) -> None:
    """Run the daemon in the foreground; SIGTERM or Ctrl-C ends it."""
    from preble.daemon.cli.serve import serve as run

    sys.exit(run(config_path, record_to))


@main.command()
@remote_command
def doctor(remote: Remote, as_json: bool) -> None:
    """Say what is missing or wrong on this machine, and the mend; exit code 1 if something fails."""
    from preble.daemon.cli.doctor import diagnose

    checks = diagnose(remote)
    emit(checks, as_json, lambda: _render(checks))
    sys.exit(Exit.FAILED if any(check.status == "fail" for check in checks) else Exit.OK)


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    emit({"version": __version__}, as_json, lambda: click.echo(__version__))


def _render(checks: "Sequence[Check]") -> None:
    """One line per check, and its mend under it: too long for a table."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = click.style(f"{check.status:<5}", fg=STYLES[check.status])
        click.echo(f"{status} {check.name:<{width}}  {printable(check.detail)}")
        if check.mend:
            click.echo(f"{'':<5} {'':<{width}}  mend: {printable(check.mend)}")


for command in (warm, pin, unpin, pins, stats):
    template.add_command(command)
_ALL = (
    tenant, key, template, gpu, request, explain, tail, tree, simulate, replay, demo_feed, usage, audit, db, config,
)  # fmt: skip
for command in _ALL:
    main.add_command(command)

if __name__ == "__main__":
    main()
