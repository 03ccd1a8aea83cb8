"""What is built holds our modules and nothing else, straight from a checkout or by way of an sdist."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from tests.architecture.tree import ROOT

PLACES = {
    "daemon": PurePosixPath("preble/daemon"),
    "tui": PurePosixPath("preble/tui"),
    "migrations": PurePosixPath("preble/daemon/_migrations"),
    "preble.toml": PurePosixPath("preble/daemon/preble.toml"),
}


def build(root: Path, kind: str, into: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (built,) = into.iterdir()
    return built


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, bytes]:
    return files_of(build(ROOT, "wheel", tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """An sdist, unpacked."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


def test_a_wheel_holds_every_file_of_ours_and_nothing_else(wheel):
    expected = {
        str(place / path.relative_to(ROOT / ours))
        for ours, place in PLACES.items()
        for path in (ROOT / ours, *(ROOT / ours).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel if ".dist-info/" not in name} == expected
    assert "preble/daemon/_migrations/env.py" in expected
    assert "preble/daemon/py.typed" in expected


def test_preble_is_a_namespace_in_a_wheel(wheel):
    assert "preble/__init__.py" not in wheel


def test_a_wheel_from_an_sdist_is_the_same(wheel, sdist, tmp_path):
    assert files_of(build(sdist, "wheel", tmp_path)) == wheel


def test_an_sdist_holds_no_links_and_no_data(sdist):
    names = {path.name for path in sdist.iterdir()}
    assert names >= {"daemon", "tui", "migrations", "tests", "preble.toml", "pyproject.toml", "README.md", "LICENSE"}
    assert not names & {".dev", ".preble", ".venv", ".git"}


def test_the_commands_of_a_wheel_can_be_run(wheel, tmp_path):
    """As installed: without the checkout and its links."""
    for name, content in wheel.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (points,) = [content.decode() for name, content in wheel.items() if name.endswith("entry_points.txt")]
    commands = [line.split(" = ")[1] for line in points.splitlines() if " = " in line]
    assert commands
    for command in commands:
        module, function = command.split(":")
        program = f"import {module} as m; assert callable(m.{function}); print(m.__file__)"
        ran = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        assert ran.stdout.startswith(str(tmp_path))
