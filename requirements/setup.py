"""Makes `.venv` from the pinned lists beside this file (`install`), or renews the lists (`lock`).

Runs on the standard library alone, since nothing else is there yet. Changes nothing outside the checkout.
"""

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
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
STAMP = VENV / "preble-setup.json"
LOG = VENV / "preble-setup.log"

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch's CPU builds are when the configured package index has only those for CUDA."""

NOT_ON_CPU = ("torchaudio", "torchcodec", "torchvision", "triton", "cuda-", "nvidia-")
"""Parts for CUDA that the CPU engine declares, does not need, and in torchvision's case cannot live with."""

LINUX_TAGS = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]
LINUX_TAGS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


class SetupError(Exception):
    """The set-up cannot go on; the message is for the user."""


def main() -> None:
    """Do what the one argument says."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if sys.version_info[:2] != (3, 11):
            raise SetupError("the pinned packages are for Python 3.11: run make PYTHON=/path/to/python3.11 ...")
        {"install": install, "lock": lock}[sys.argv[1]]()
    except SetupError as error:
        sys.exit(f"set-up: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def say(text: str) -> None:
    """Tell the user what happens."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def _terminated(*_: object) -> NoReturn:
    sys.exit(143)


# --- install ---


def install() -> None:
    """Bring `.venv` up to the lists; at once where it is."""
    holder = os.open(HERE, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)  # two set-ups at once would spoil each other's work; ends with this process
    engine = "cuda" if has_gpu() else "cpu"
    lists = [HERE / f"{name}.txt" for name in ("base", engine, "dev")]
    wanted = {"engine": engine, "sources": digest([*lists, ROOT / "pyproject.toml"]), "root": str(ROOT)}
    found = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    if found == wanted:
        return
    if found.get("engine", engine) != engine or not can_run_pip():
        shutil.rmtree(VENV, ignore_errors=True)
    if not VENV.exists():
        say("making .venv")
        run([sys.executable, "-m", "venv", str(VENV)], "no virtual environment could be made")
    STAMP.unlink(missing_ok=True)
    pins = [pin for path in lists for pin in read_pins(path)]
    say(f"{len(pins)} packages for {'CUDA' if engine == 'cuda' else 'CPU'} engines; the first time takes minutes")
    if engine == "cpu":
        install_cpu_torch(next(pin for pin in pins if pin.startswith("torch==")))
    pip_install([word for path in lists for word in ("-r", str(path))], progress(len(pins)))
    pip_install(["--no-build-isolation", "-e", str(ROOT)])
    STAMP.write_text(json.dumps(wanted))
    say("done")


def has_gpu() -> bool:
    """Whether the driver lists a CUDA GPU: the same question that the daemon asks at start."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        found = False
    else:
        found = told.returncode == 0 and told.stdout.startswith("GPU ")
    if not found and Path("/dev/nvidia0").exists():
        say("there is /dev/nvidia0, but nvidia-smi lists no GPU: going on without")
    return found


def digest(paths: Iterable[Path]) -> str:
    """One hash over the files' contents."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def can_run_pip() -> bool:
    """Whether `.venv` is whole enough to go on with, which after an interrupted start it may not be."""
    asked = [str(VENV / "bin/python"), "-m", "pip", "--version"]
    try:
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def install_cpu_torch(pin: str) -> None:
    """Install torch ahead of the rest, since its CPU build is not in every package index."""
    try:
        pip_install([pin])
    except SetupError:
        say(f"the package index has no {pin}: taking it from {TORCH_CPU_INDEX}")
        pip_install(["--index-url", TORCH_CPU_INDEX, pin])


def pip_install(arguments: list[str], each_line: Callable[[str], None] = lambda _: None) -> None:
    """Install just what is named: the lists are complete, and resolving anew would bring CUDA's parts in."""
    command = [str(VENV / "bin/python"), "-m", "pip", "install", "--no-deps", "--disable-pip-version-check"]
    run([*command, "--progress-bar", "off", *arguments], f"pip could not install {arguments[-1]}", each_line)


def progress(total: int) -> Callable[[str], None]:
    """A listener to pip's lines that says now and then how far it is."""
    seen = 0

    def hear(line: str) -> None:
        nonlocal seen
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            seen += 1
            if seen % 50 == 0:
                say(f"fetched {seen} of {total}")
        elif line.startswith("Installing collected packages"):
            say("unpacking")

    return hear


def run(command: list[str], failed: str, each_line: Callable[[str], None] = lambda _: None) -> None:
    """Run to the end, with all output in LOG. Raises `SetupError` with the command's own last words."""
    LOG.parent.mkdir(exist_ok=True)
    last = ""
    piped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
    with LOG.open("a") as log, piped as process:
        try:
            for line in process.stdout or ():
                log.write(line)
                each_line(line)
                last = line.strip() or last
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SetupError(f"{failed}: {last}\nset-up: all of it is in {LOG.relative_to(ROOT)}")


# --- lock ---


def lock() -> None:
    """Write the lists anew with the newest versions that pip finds to go together."""
    daemon = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    dev = ["-r", str(HERE / "dev.in")]
    say("resolving for CPU")
    everything = without_cuda(resolve([*daemon, *dev, "-r", str(HERE / "cpu.in")]))
    base = resolve(daemon, everything)
    tools = minus(resolve([*daemon, *dev], everything), base)
    say("resolving for CUDA")
    elsewhere = [word for tag in LINUX_TAGS for word in ("--platform", tag)]
    elsewhere += ["--python-version", "3.11", "--only-binary=:all:"]
    cuda = resolve([*daemon, *dev, "-r", str(HERE / "cuda.in")], base | tools, elsewhere)
    write_list("base", base, "the daemon and its console")
    write_list("dev", tools, "tests and linters")
    write_list("cpu", minus(everything, base | tools), "the engine without a GPU")
    write_list("cuda", minus(cuda, base | tools), "the engine on CUDA GPUs. Resolved, never run: no GPU was at hand")


def resolve(wanted: list[str], fixed: Mapping[str, str] | None = None, options: Iterable[str] = ()) -> dict[str, str]:
    """Ask pip which versions it would install; `fixed` ones stay. Downloads metadata only."""
    with tempfile.TemporaryDirectory() as scratch:
        report, constraints = Path(scratch, "report.json"), Path(scratch, "constraints.txt")
        constraints.write_text("\n".join(pins_of(fixed or {})))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--target", scratch]
        command += ["--report", str(report), "-c", str(constraints), *options, *wanted]
        run(command, "pip could not resolve")
        installs = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {canonical(entry["name"]): entry["version"] for entry in installs}


def canonical(name: str) -> str:
    """A package's name as the packaging standard normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def without_cuda(versions: Mapping[str, str]) -> dict[str, str]:
    """Leave CUDA's parts out and name torch's CPU build, whichever build pip saw."""
    kept = {name: version for name, version in versions.items() if not name.startswith(NOT_ON_CPU)}
    return kept | {"torch": kept["torch"].partition("+")[0] + "+cpu"}


def minus(versions: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """The entries whose names `others` does not have."""
    return {name: version for name, version in versions.items() if name not in others}


def write_list(name: str, versions: Mapping[str, str], what: str) -> None:
    """Write NAME.txt: names and versions only, so that any package index may serve them."""
    head = f"# {what[0].upper()}{what[1:]}.\n# Written by `make lock`; installed with --no-deps.\n"
    (HERE / f"{name}.txt").write_text(head + "\n".join(pins_of(versions)) + "\n")
    say(f"{name}.txt: {len(versions)} packages")


def pins_of(versions: Mapping[str, str]) -> list[str]:
    """As lines of a requirements file, in alphabetic order."""
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def read_pins(path: Path) -> list[str]:
    """The lines of a list without its comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    main()
