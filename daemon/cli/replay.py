"""`preble replay`: the decisions of a daemon that recorded its events, taken again."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.output import Exit, emit, printable
from preble.daemon.cli.remote import json_option
from preble.daemon.errors import ConfigError

if TYPE_CHECKING:
    from preble.daemon.sim.replay import Difference, Replayed


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def replay(file: Path, as_json: bool) -> None:
    """Decide again what a daemon decided, from FILE that `preble serve --record-events` wrote.

    Nothing is sent anywhere. Exit code 1 if anything comes out otherwise.
    """
    from preble.daemon.sim.replay import replay as run

    try:
        with file.open("rb") as lines:
            replayed = run(lines)
    except (OSError, ConfigError) as error:
        raise ConfigError(f"{file}: {error}") from error
    emit(replayed, as_json, lambda: _render(replayed))
    sys.exit(Exit.FAILED if replayed.first_difference is not None else Exit.OK)


def _render(replayed: "Replayed") -> None:
    click.echo(f"recorded by Preble {printable(replayed.version)}, policy {replayed.policy}")
    click.echo(f"{replayed.equal_decisions:,} of {replayed.decisions:,} decisions are the same")
    click.echo(f"{replayed.equal_steps:,} of {replayed.steps:,} steps have the same effects")
    if replayed.cut_off:
        click.echo("the last line is cut off, and left out")
    if replayed.first_difference is not None:
        _render_difference(replayed.first_difference)


def _render_difference(first: "Difference") -> None:
    click.echo(f"\nfirst difference: line {first.line}, {printable(first.event)} at {first.at_s:.3f} s")
    click.echo(f"recorded  {printable(first.recorded)}")
    click.echo(f"replayed  {printable(first.replayed)}")
