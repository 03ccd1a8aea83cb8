"""A PostgreSQL server for the tests: on a socket of its own, in a folder that goes with it, and ended with them."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

DEADLINE_S = 60.0
_NAME = "preble"


class Missing(Exception):
    """There is no server to be had; says why."""


@dataclass(frozen=True)
class Server:
    folder: Path

    def url(self, database: str) -> str:
        return f"postgresql://{_NAME}@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """Make an empty database; where it is."""
        self.execute(f"CREATE DATABASE {database}")
        return self.url(database)

    def execute(self, statement: str) -> None:
        driver = self.url("postgres").replace("postgresql:", "postgresql+psycopg:", 1)
        engine = create_engine(driver, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server. Raises `Missing`."""
    initdb, postgres = _program("initdb"), _program("postgres")
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # a socket's path must be short
        folder = Path(name)
        owner = _owner(folder)
        _run([*owner, initdb, "--pgdata", folder / "data", "--username", _NAME, "--auth", "trust", "--no-sync"])
        log = (folder / "log").open("wb")
        options = ["-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        process = subprocess.Popen([*owner, postgres, *options], stdout=log, stderr=subprocess.STDOUT)
        log.close()
        try:
            server = Server(folder)
            _wait(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # ends connections, and itself in order
            process.wait(DEADLINE_S)


def _program(name: str) -> Path:
    """On the path, or where Debian has it; the newest."""
    if found := shutil.which(name):
        return Path(found)
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    if not installed:
        raise Missing(f"there is no {name}; on Debian, `apt install postgresql`")
    return installed[-1]


def _owner(folder: Path) -> list[str]:
    """The beginning of a command that ends with this process, and that is not run by root: the server refuses that."""
    if shutil.which("setpriv") is None:
        raise Missing("there is no setpriv, which would end the server with the tests")
    command = ["setpriv", "--pdeathsig=INT"]
    if os.geteuid() != 0:
        return command
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise Missing("this is root, and there is no user `postgres` to run the server") from None
    os.chown(folder, user.pw_uid, user.pw_gid)
    return [*command, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(command: list) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise Missing(f"{command} failed: {ran.stderr.strip()[-300:]}")


def _wait(server: Server, process: subprocess.Popen) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            server.execute("SELECT 1")
        except OperationalError as error:
            if process.poll() is not None or time.monotonic() > end_s:
                raise Missing(f"the server did not start: {(server.folder / 'log').read_text()[-300:]}") from error
            time.sleep(0.05)
        else:
            return
