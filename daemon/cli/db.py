"""`preble db`: the database's schema."""

from pathlib import Path

import click

from preble.daemon.cli.output import emit, say
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
    before = revision(data_dir)
    run(data_dir)
    file, now = str(data_dir / FILE_NAME), revision(data_dir)
    found = {"database": file, "revision_before": before, "revision": now}
    emit(found, as_json, lambda: say(f"{file} is at revision {now}" + (", as before" if now == before else "")))


@db.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Say whether the database has this version's schema; exit code 1 if it has not."""
    from preble.daemon.config import load
    from preble.daemon.store.db import FILE_NAME, newest_revision, revision

    data_dir = Path(load(config_path).data_dir)
    file, found, wanted = str(data_dir / FILE_NAME), revision(data_dir), newest_revision(data_dir)
    state = {"database": file, "revision": found, "wanted": wanted}
    emit(state, as_json, lambda: say(f"{file} is at revision {found or 'none'}; this version wants {wanted}"))
    if found != wanted:
        raise PrebleError(f"{file}: not this version's schema; next: preble db upgrade")
