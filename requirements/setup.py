"""Sets up `.venv`, for `make serve` and (with --dev) `make test`: the pinned set, then Preble itself, editable.

Runs before anything is installed, so it needs the standard library only. Packages go in with `--no-deps`: exactly what
was tested, and nothing that its metadata drags along. `.venv/preble-setup.json` says what is in; a second run that
finds its wishes there does nothing.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / "preble-setup.json"
LOG = VENV / "setup.log"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch's CPU build is for those whose package index has only the CUDA one."""

Pins = dict[str, str]  # name -> "Name==version"
Watch = Callable[[str], None]


def main() -> None:
    """Bring `.venv` up to date with the files, unless it is."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dev", action="store_true", help="also what the tests and checks need")
    dev = options.parse_args().dev
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends: one set-up at a time
    engine = "cuda" if has_cuda() else "cpu"
    sets = {name: read_pins(name) for name in ("base", engine, "dev")}
    wanted = {**sets["base"], **sets[engine], **(sets["dev"] if dev else {})}
    place = {"root": str(ROOT), "engine": engine}
    state = read_state()
    if is_set_up(state, place, wanted):
        return
    say(f"setting up {VENV} with {len(wanted)} packages, engine: {engine} (all of pip's words: {LOG})")
    began_s = time.monotonic()
    make_venv(afresh=state is not None and any(state[key] != place[key] for key in place))
    had: Pins = (read_state() or {}).get("pins", {})
    install(wanted)
    install_project()
    if dev:
        install_postgresql()
    known = {**sets["base"], **sets[engine], **sets["dev"]}
    uninstall(sorted(had.keys() - known.keys()))
    kept = {name: pin for name, pin in had.items() if known.get(name) == pin}
    write_state({**place, "project": project_digest(), "pins": {**kept, **wanted}})
    say(f"set up in {time.monotonic() - began_s:.0f} s")


# --- what is wanted, and what is there ---


def has_cuda() -> bool:
    """Ask as the daemon does, which then runs the engine that is installed here."""
    sys.path.insert(0, str(ROOT / ".dev"))
    from preble.daemon.engine.hardware import detect

    return bool(detect().cuda_devices)


def read_pins(name: str) -> Pins:
    """Read one list, without those it includes."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().split("\n")
    pins = [line.strip() for line in lines if "==" in line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower(): pin for pin in pins}


def read_state() -> dict[str, Any] | None:
    """What the last set-up left; None if there was none."""
    try:
        return dict(json.loads(STATE.read_text()))
    except (OSError, ValueError):
        return None


def write_state(state: dict[str, Any]) -> None:
    """Replace it whole, so that a set-up cut short is not taken for done."""
    draft = STATE.with_suffix(".draft")
    draft.write_text(json.dumps(state, indent=1))
    draft.replace(STATE)


def is_set_up(state: dict[str, Any] | None, place: dict[str, str], wanted: Pins) -> bool:
    """Whether all that is wanted is in."""
    return (
        state is not None
        and {**state, **place} == state
        and state.get("project") == project_digest()
        and wanted.items() <= state["pins"].items()
        and PYTHON.exists()
    )


def project_digest() -> str:
    """Changes when Preble must be installed again: code is read from the checkout, commands and metadata are not."""
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()


# --- doing it ---


def make_venv(*, afresh: bool) -> None:
    """Make the environment or mend it; `afresh` for one that was moved here or is for other hardware."""
    command = [sys.executable, "-m", "venv", *(["--clear"] if afresh else []), str(VENV)]
    if STATE.exists() and PYTHON.exists() and not afresh:
        return
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made.returncode != 0:
        end(f"no virtual environment could be made; on Debian, `apt install python3.11-venv`.\n{made.stdout.strip()}")
    LOG.write_text("")


def install(wanted: Pins) -> None:
    """Install the pins; torch first, since a CPU build of it may have to come from elsewhere."""
    if wanted["torch"].endswith("+cpu"):
        install_torch_cpu(wanted["torch"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(wanted.values()))
        file.flush()
        if not pip("install", "--no-deps", "--requirement", file.name, watch=Progress(len(wanted))):
            end("the packages could not be installed:\n" + last_words())


def install_torch_cpu(pin: str) -> None:
    """From the configured index, else from PyTorch's own."""
    say(f"installing {pin}")
    if pip("install", "--no-deps", pin):
        return
    say(f"the configured package index has no {pin}; trying PyTorch's own CPU wheels at {TORCH_CPU_INDEX}")
    if not pip("install", "--no-deps", "--index-url", TORCH_CPU_INDEX, pin):
        end(f"{pin} can be had from neither the configured package index nor {TORCH_CPU_INDEX}; see {LOG}")


def install_project() -> None:
    """Install Preble so that its code is read from this checkout."""
    if not pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)):
        end("Preble itself could not be installed:\n" + last_words())


def install_postgresql() -> None:
    """Install Debian's package where we may: the tests of the store run on it too, or else say why they do not."""
    found = shutil.which("postgres") or list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    say("installing Debian's postgresql, for tests")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with LOG.open("a") as log:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "postgresql"]):
            command = ["apt-get", *arguments]
            print("$", *command, file=log, flush=True)
            ran = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
            if ran.returncode != 0:
                say(f"it cannot be installed (see {LOG}): some tests will be skipped")
                return


def uninstall(names: list[str]) -> None:
    """Remove what an earlier list had and this one has not."""
    if names:
        say(f"removing {', '.join(names)}")
        pip("uninstall", "--yes", *names)


def pip(*arguments: str, watch: Watch = lambda line: None) -> bool:
    """Run pip, its words going to the log and line by line to `watch`; say whether it succeeded."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        try:
            for line in process.stdout or ():
                log.write(line)
                watch(line)
            return process.wait() == 0
        finally:
            process.terminate()
            process.wait()


class Progress:
    """Tells how far pip is: one line that changes on a terminal, a line now and then elsewhere."""

    _STEP = re.compile(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)")

    def __init__(self, total: int) -> None:
        self._total = total
        self._seen = 0

    def __call__(self, line: str) -> None:
        """Take one line of pip's output."""
        if step := self._STEP.match(line):
            self._seen += 1
            self._show(step[1].rpartition("/")[2])
        elif line.startswith("Installing collected packages"):
            say("unpacking them, which takes a minute or two", over=True)

    def _show(self, what: str) -> None:
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            text = f"preble: getting package {self._seen} of {self._total}: {what}"
            print(f"\r\x1b[K{text[:width]}", end="", flush=True)
        elif self._seen % 50 == 0 or self._seen == self._total:
            say(f"getting packages: {self._seen} of {self._total}")


def last_words() -> str:
    """The end of pip's log."""
    return "\n".join(LOG.read_text().splitlines()[-12:])


def say(text: str, *, over: bool = False) -> None:
    """Print a line; `over` a line of progress, if there is one."""
    print(("\r\x1b[K" if over and sys.stdout.isatty() else "") + f"preble: {text}", flush=True)


def end(text: str) -> NoReturn:
    """Give up, saying why."""
    sys.exit(f"preble: set-up failed: {text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        end("interrupted; the next run goes on from here")
