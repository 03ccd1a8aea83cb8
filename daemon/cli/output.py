"""How commands speak: data on stdout, everything else on stderr, and exit codes that mean one thing each."""

import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Never

import click

from preble.daemon.errors import ConfigError, PrebleError, Refused, Unreachable


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


def emit(data: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Print `data` as JSON, or have it rendered for people."""
    if not as_json:
        render()
        return
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their names; `-` is for what is not known. Numbers stand to the right."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], int | float) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*("-" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(drawn)


def fail(error: PrebleError) -> Never:
    """Say what went wrong, in one line, and leave with its code."""
    click.echo(f"preble: {error}", err=True)
    match error:
        case ConfigError():
            sys.exit(Exit.USAGE)
        case Unreachable():
            sys.exit(Exit.UNREACHABLE)
        case Refused():
            sys.exit(Exit.REFUSED)
        case _:
            sys.exit(Exit.FAILED)
