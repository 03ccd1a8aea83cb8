"""`preble db`: the database's schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from preble.daemon.cli.output import emit, table
from preble.daemon.cli.remote import config_option, json_option
from preble.daemon.errors import PrebleError


@click.group()
def db() -> None:
    """The database."""


@db.command()
@config_option
@json_option
def upgrade(config_path: Path, as_json: bool) -> None:
    """Bring the database to this version's schema. The daemon does so itself when it starts."""
    from preble.daemon.config import load
    from preble.daemon.store.db import FILE_NAME, revision
    from preble.daemon.store.db import upgrade as run

    data_dir = Path(load(config_path).data_dir)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = str(data_dir / FILE_NAME)
    with _readable(file):
        before = revision(data_dir)
        run(data_dir)
        found = {"database": file, "revision_before": before, "revision": revision(data_dir)}
    emit(found, as_json, lambda: table([*found], [[*found.values()]]))


@db.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Say whether the database has this version's schema; exit code 1 if it has not."""
    from preble.daemon.config import load
    from preble.daemon.store.db import FILE_NAME, newest_revision, revision

    data_dir = Path(load(config_path).data_dir)
    file = str(data_dir / FILE_NAME)
    with _readable(file):
        state = {"database": file, "revision": revision(data_dir), "wanted": newest_revision(data_dir)}
    emit(state, as_json, lambda: table([*state], [[*state.values()]]))
    if state["revision"] != state["wanted"]:
        raise PrebleError(f"{file}: not this version's schema; next: preble db upgrade")


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """A file that is no database, or one that is locked, is worth a line and no traceback."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise PrebleError(f"{file}: {error.orig}") from error
