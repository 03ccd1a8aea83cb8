"""What `preble doctor` says of the data directory: whose it is, its secrets, its database, its room."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from preble.daemon.cli.checks import Check, fail, ok, warn
from preble.daemon.engine.launch import Sockets
from preble.daemon.errors import ConfigError
from preble.daemon.ids import GpuId

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_GIB = 1 << 30
_LITTLE_ROOM_BYTES = _GIB
_NO_ROOM_BYTES = 64 << 20
_MAX_SOCKET_PATH_BYTES = 107  # Linux' sun_path, less its final zero


def check_data(data_dir: Path, database_url: str = "") -> Iterator[Check]:
    """The directory, what lies in it as far as it may be seen, and the database if that is elsewhere."""
    if database_url:
        yield _check_server(data_dir, database_url)
    name = "data directory"
    ground = _nearest_existing(data_dir)
    if ground != data_dir:
        if ground.is_dir() and os.access(ground, os.W_OK | os.X_OK):
            yield ok(name, f"{data_dir} is made when the daemon first starts")
        else:
            yield fail(name, f"{data_dir} is not there and cannot be made in {ground}", "change data_dir")
        yield _check_room(ground)
        return
    about = data_dir.stat()
    if not stat.S_ISDIR(about.st_mode):
        yield fail(name, f"{data_dir} is no directory", "change data_dir")
        return
    yield _check_directory(name, data_dir, about)
    yield _check_room(data_dir)
    if os.access(data_dir, os.R_OK | os.X_OK):
        yield from _check_secrets(data_dir)
        if not database_url:
            yield _check_database(data_dir)


def check_sockets(data_dir: Path, gpus: Sequence[GpuId]) -> Check:
    """Whether the kernel takes the addresses of the engines' sockets, here or else in the temporary directory."""
    spare = Path(tempfile.gettempdir()) / "preble-12345678"  # what mkdtemp() will call it, but for the letters
    for folder in (data_dir / "run", spare):
        paths = [path for gpu in gpus for path in Sockets.within(folder, gpu).paths]
        longest = max((len(os.fsencode(path)) for path in paths), default=0)
        if longest < _MAX_SOCKET_PATH_BYTES:
            return ok("sockets", f"in {folder if folder is not spare else spare.parent}")
    return fail(
        "sockets", f"their paths would be too long, in {data_dir} and in {spare.parent}", "set TMPDIR to a shorter path"
    )


def _nearest_existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def _check_directory(name: str, data_dir: Path, about: os.stat_result) -> Check:
    if about.st_uid != os.geteuid():
        detail = f"{data_dir} belongs to user {about.st_uid}, and this is user {os.geteuid()}"
        return fail(name, detail, f"run Preble as its owner, or: chown -R {os.geteuid()} {data_dir}")
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        return fail(name, f"{data_dir} cannot be written to", f"chmod 700 {data_dir}, or mount it writable")
    if about.st_mode & _OTHERS:
        detail = f"{data_dir} has mode {stat.S_IMODE(about.st_mode):04o}: others may look into it"
        return warn(name, detail, f"chmod 700 {data_dir} (the daemon does so when it starts)")
    return ok(name, f"{data_dir}, ours alone")


def _check_room(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free at {folder}"
    mend = "make room, or set data_dir to another disk"
    if free < _NO_ROOM_BYTES:
        return fail("disk", found, mend)
    return warn("disk", found, mend) if free < _LITTLE_ROOM_BYTES else ok("disk", found)


def _check_secrets(data_dir: Path) -> Iterator[Check]:
    files = sorted(data_dir.glob("*.key"))
    loose = [file for file in files if file.stat().st_mode & _OTHERS]
    for file in loose:
        mode = stat.S_IMODE(file.stat().st_mode)
        yield fail(f"key {file.name}", f"{file} has mode {mode:04o}: others may read it", f"chmod 600 {file}")
    if not loose:
        yield ok("keys", f"{', '.join(file.name for file in files) or 'none yet'}; nobody else may read them")


def _check_database(data_dir: Path) -> Check:
    from preble.daemon.store.db import FILE_NAME, newest_revision

    file = data_dir / FILE_NAME
    if not file.exists():
        return ok("database", f"{file} is made when the daemon first starts")
    wanted = newest_revision()
    try:
        found = _revision(file)
    except sqlite3.Error as error:
        return fail("database", f"{file} cannot be read: {error}", "restore it from a backup, or move it away")
    return _compared(str(file), found, wanted)


def _check_server(data_dir: Path, database_url: str) -> Check:
    from sqlalchemy.exc import DBAPIError

    from preble.daemon.store.db import Place, newest_revision, reason, revision

    try:
        place = Place.of(data_dir, database_url)
        return _compared(place.name, revision(place), newest_revision())
    except ConfigError as error:
        return fail("database", str(error), "install it beside Preble, or have no database_url")
    except DBAPIError as error:
        mend = "start the server, create the database, or change database_url"
        return fail("database", f"{place.name} cannot be used: {reason(error)}", mend)


def _compared(name: str, found: str | None, wanted: str | None) -> Check:
    if found == wanted:
        return ok("database", f"{name} at revision {found}")
    mend = "preble db upgrade (the daemon does so when it starts; one written by a newer Preble needs that version)"
    return warn("database", f"{name} is at revision {found or 'none'}; this version wants {wanted}", mend)


def _revision(file: Path) -> str | None:
    """Read it so that nothing is written: else SQLite would leave files of ours beside another user's database."""
    mode = "mode=ro" if file.with_name(file.name + "-wal").exists() else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    finally:
        connection.close()
    return None if row is None else str(row[0])
