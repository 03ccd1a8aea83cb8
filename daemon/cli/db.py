"""`preble db`: the database's schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from preble.daemon.cli.output import emit, table
from preble.daemon.cli.remote import config_option, json_option
from preble.daemon.errors import PrebleError

if TYPE_CHECKING:
    from preble.daemon.store.db import Place


@click.group()
def db() -> None:
    """The database."""


@db.command()
@config_option
@json_option
def upgrade(config_path: Path, as_json: bool) -> None:
    """Bring the database to this version's schema. The daemon does so itself when it starts."""
    from preble.daemon.store.db import revision
    from preble.daemon.store.db import upgrade as run

    place, data_dir = _place(config_path)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _readable(place):
        before = revision(place)
        run(place)
        found = {"database": place.name, "revision_before": before, "revision": revision(place)}
    emit(found, as_json, lambda: table([*found], [[*found.values()]]))


@db.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Say whether the database has this version's schema; exit code 1 if it has not."""
    from preble.daemon.store.db import newest_revision, revision

    place, _ = _place(config_path)
    with _readable(place):
        state = {"database": place.name, "revision": revision(place), "wanted": newest_revision()}
    emit(state, as_json, lambda: table([*state], [[*state.values()]]))
    if state["revision"] != state["wanted"]:
        raise PrebleError(f"{place.name}: not this version's schema; next: preble db upgrade")


def _place(config_path: Path) -> "tuple[Place, Path]":
    """Where the database is, and the data directory."""
    from preble.daemon.config import load
    from preble.daemon.store.db import Place

    config = load(config_path)
    return Place.of(Path(config.data_dir), config.database_url), Path(config.data_dir)


@contextmanager
def _readable(place: "Place") -> Iterator[None]:
    """A database that is none, is locked or cannot be reached is worth a line and no traceback."""
    from sqlalchemy.exc import DBAPIError

    from preble.daemon.store.db import reason

    try:
        yield
    except DBAPIError as error:
        raise PrebleError(f"{place.name}: {reason(error)}") from error
