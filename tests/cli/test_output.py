"""How output looks on a terminal and elsewhere, and that asking for help costs nothing."""

import os
import pty
import subprocess
import sys

import pytest
from tests.cli.running import preble

from preble.daemon import __version__
from preble.daemon.cli.output import table

HEAVY = ["alembic", "httpx", "jinja2", "litestar", "msgspec", "numpy", "rich", "sqlalchemy", "structlog", "tokenizers"]

HELP = f"""
import sys
from preble.daemon.cli.main import main
try:
    main(["--help"])
except SystemExit:
    print(sorted(set(sys.modules) & set({HEAVY})))
"""


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Run a command whose stdout and stderr are a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", "preble.daemon.cli.main", *arguments]
    try:
        subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, check=False, timeout=30)
    finally:
        os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:
        pass  # so Linux tells that nobody holds the other end any more
    os.close(ours)
    return said.decode()


def test_help_and_version_import_nothing_that_takes_time():
    told = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.splitlines()[-1] == "[]"
    assert "Exit codes: 0 done" in told.stdout


def test_the_version_is_the_packages_own():
    assert preble("version").stdout == f"{__version__}\n"
    assert f'"{__version__}"' in preble("version", "--json").stdout


def test_a_terminal_gets_colours_unless_it_wants_none(daemon):
    assert "\x1b[32mready" in on_a_terminal("gpu", "list")
    assert "\x1b[31mpreble:" in on_a_terminal("tenant", "show", "nobody")
    assert "\x1b[3" not in on_a_terminal("gpu", "list", NO_COLOR="1")
    assert on_a_terminal("tenant", "show", "nobody", NO_COLOR="1").startswith("preble: ")
    assert "\x1b" not in preble("gpu", "list").output


def test_columns_are_aligned_numbers_to_the_right(capsys):
    table(["name", "n", "none"], [["a", 1, None], ["bcdefg", 1000, None], ["c", None, None]])
    assert capsys.readouterr().out == (
        "name       n  none\na          1     -\nbcdefg  1000     -\nc          -     -\n"
    )


def test_a_table_without_rows_still_has_its_head(capsys):
    table(["name", "n"], [])
    assert capsys.readouterr().out == "name  n\n"


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "\x9b31m", "‮reversed"])
def test_what_others_named_does_not_steer_the_terminal(capsys, text):
    table(["name"], [[text]])
    assert capsys.readouterr().out.splitlines()[1] == "".join(c if c.isprintable() else "?" for c in text)
