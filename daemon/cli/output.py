"""How commands speak: data on stdout, everything else on stderr, and exit codes that mean one thing each."""

import sys
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import click

from preble.daemon.errors import ConfigError, PrebleError, Refused, Unreachable

Cell = str | int | float | None
"""None is shown as a dash: not known, or it did not come to that."""

STYLES: Mapping[str, str] = {
    "ready": "green",
    "ok": "green",
    "starting": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "warn": "yellow",
    "backoff": "red",
    "failed": "red",
    "fail": "red",
    "chosen": "bold green",
}
"""How a cell with just this word looks on a terminal."""


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


def exit_code(error: PrebleError) -> Exit:
    """Which code a foreseeable fault ends a command with."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case Unreachable():
            return Exit.UNREACHABLE
        case Refused():
            return Exit.REFUSED
        case _:
            return Exit.FAILED


def say(text: str) -> None:
    """Narrate, on stderr."""
    click.echo(text, err=True)


def emit(data: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Print `data` as JSON, or have it rendered for people."""
    if not as_json:
        render()
        return
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2))


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under their names, numbers to the right: drawn on a terminal, else aligned text of any width."""
    numeric = [all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(columns))]
    texts = [[_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, texts, numeric)
    else:
        _align(columns, texts, numeric)


def moment(iso: str | None) -> str | None:
    """A point in time from the wire (ISO 8601, UTC), to the second, for people."""
    return None if iso is None else iso[:19].replace("T", " ")


def percent(ratio: float | None) -> int | None:
    """A share as a whole number."""
    return None if ratio is None else round(100 * ratio)


def printable(text: str) -> str:
    """Keep escape sequences from outside off the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return printable(str(cell)).replace("\n", "?")


def _align(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            text.rjust(width) if to_the_right else text.ljust(width)
            for text, width, to_the_right in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column, to_the_right in zip(columns, numeric, strict=True):
        drawn.add_column(column, justify="right" if to_the_right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(text, style=STYLES.get(text, "")) for text in row))
    Console(highlight=False, markup=False).print(drawn)
