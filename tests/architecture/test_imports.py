"""Who may import whom, by the contracts in pyproject.toml; and what an import really loads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.tree import ROOT

HEAVY = ("vllm", "torch", "transformers", "textual")
IO = (
    "asyncio", "selectors", "socket", "ssl", "subprocess", "threading", "logging", "random", "http.client",
    "urllib.request", "structlog", "httpx", "aiohttp", "zmq", "litestar", "uvicorn", "sqlalchemy", "sqlite3",
    "tokenizers", "jinja2",
)  # fmt: skip
VIOLATIONS = {
    "Decisions are pure: no I/O, no clock, no chance": ("daemon/sched/__init__.py", "import random"),
    "Layers point down": ("daemon/wire/__init__.py", "import preble.daemon.flow.machine"),
    "The console sees the contract only": ("tui/desk.py", "import preble.daemon.sched"),
    "The console's logic has no Textual in it": ("tui/query.py", "import textual"),
    "What goes over the wire stands alone": ("daemon/wire/live.py", "import preble.daemon.tenancy.model"),
    "What consoles are told is counted without a clock": ("daemon/obs/live/rows.py", "import time"),
    "The daemon never sees the console": ("daemon/obs/__init__.py", "import textual"),
    "What vLLM loads is for vLLM": ("daemon/app.py", "import preble.daemon.engine.vllm_scheduler"),
    "The daemon process never loads an engine": ("daemon/engine/__init__.py", "def f() -> None:\n    import vllm"),
}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = {**of(root), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def of(root: Path) -> dict[str, str]:
    """An environment in which our modules are those below `root`, wherever others are installed."""
    return {**os.environ, "PYTHONPATH": str(root / ".dev")}


def loaded_by(code: str, candidates: tuple[str, ...]) -> list[str]:
    program = f"import sys\n{code}\nprint(*[name for name in {candidates!r} if name in sys.modules])"
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=of(ROOT), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1].split()


def test_the_import_contracts_hold():
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert " 0 broken" in linted.stdout


@pytest.fixture(scope="module")
def violated(tmp_path_factory):
    """What is said of a copy that breaks every contract."""
    root = tmp_path_factory.mktemp("violated")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("daemon", "tui", ".dev"):
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    for file, line in VIOLATIONS.values():
        path = root / file
        path.write_text(f"{path.read_text()}\n{line}\n")
    linted = lint_imports(root)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    return linted.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_each_import_contract_can_be_broken(violated, contract):
    assert f"{contract} BROKEN" in violated


def test_every_import_contract_is_shown_to_be_breakable(violated):
    assert "Contracts: 0 kept" in violated, "a contract is new: add a violation of it"


def test_the_daemon_loads_neither_engine_nor_console():
    assert loaded_by("import preble.daemon.app", HEAVY) == []


def test_the_command_line_shows_its_help_without_loading_the_daemon():
    code = "from preble.daemon.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not {*HEAVY, "litestar", "sqlalchemy"} & {*loaded_by(code, (*HEAVY, "litestar", "sqlalchemy"))}


def test_the_console_loads_no_server():
    code = "import preble.tui.main, preble.tui.app, preble.daemon.wire.console"
    server = ("litestar", "sqlalchemy", "uvicorn", "preble.daemon.api", "preble.daemon.app", "preble.daemon.sched")
    assert loaded_by(code, (*server, "textual")) == ["textual"]


@pytest.mark.parametrize("package", ["preble.daemon.sched", "preble.daemon.templates", "preble.daemon.flow.machine"])
def test_the_scheduler_loads_nothing_that_does_io(package):
    """The contract sees what is imported by name; this sees what that imports in turn."""
    code = f"""
import importlib, pkgutil
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(getattr(package, "__path__", ()), package.__name__ + "."):
    importlib.import_module(module.name)
"""
    assert loaded_by(code, IO) == []


def test_a_loaded_module_would_be_seen():
    assert loaded_by("import socket", IO) == ["selectors", "socket"]
