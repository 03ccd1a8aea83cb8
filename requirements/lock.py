"""Renews the pinned sets from the `.in` files and pyproject.toml; `make lock` runs it in `.venv`.

pip resolves, reading metadata only. A package that both engines want in the same version is pinned in base.txt, all
others in the file of the engine, or of the tools, that wants them: so each pin stands in one place.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
Pins = dict[str, str]  # name -> "Name==version"

WITHOUT_ON_CPU = {"torchaudio", "torchcodec", "torchvision", "triton"}
"""torchvision is a CUDA build that breaks the import of transformers; the others are large and for GPUs."""

HEADS = {
    "base": "What every machine gets.",
    "cpu": "The engine on a machine without a GPU. This set ran.",
    "cuda": "The engine on a machine with CUDA GPUs. This set was resolved, but has not been run.",
    "dev": "What `make test` needs beyond the daemon.",
}


def main() -> None:
    """Resolve all sets, then write all files."""
    cpu = {name: pin for name, pin in resolve("base", "cpu").items() if name not in WITHOUT_ON_CPU}
    cuda = resolve("base", "cuda")
    base = {name: pin for name, pin in cpu.items() if cuda.get(name) == pin}
    tools = resolve("dev", among=base)
    sets = {"base": base, "cpu": less(cpu, base), "cuda": less(cuda, base), "dev": less(tools, base)}
    for engine in ("cpu", "cuda"):
        refuse_conflicts(sets[engine], sets["dev"])
    for name, pins in sets.items():
        write(name, pins)


def resolve(*names: str, among: Pins | None = None) -> Pins:
    """Pin what the `.in` files want and all that it needs; `among` holds versions that it has to keep to."""
    print(f"resolving {' + '.join(names)}", flush=True)
    wanted = project_dependencies() if "base" in names else []
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join((among or {}).values()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--use-feature", "fast-deps", "--report", str(report), "--constraint", str(constraints), *wanted]
        for name in names:
            command += ["--requirement", str(HERE / f"{name}.in")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"lock: {' + '.join(names)} cannot be resolved:\n{done.stderr.strip()[-2000:]}")
        installs = json.loads(report.read_text())["install"]
    pins = {}
    for package in (item["metadata"] for item in installs):
        pins[normal(package["name"])] = f"{package['name']}=={package['version']}"
    return pins


def project_dependencies() -> list[str]:
    """What pyproject.toml says that the daemon and the console need."""
    document = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    return list(document["project"]["dependencies"])


def less(pins: Pins, others: Pins) -> Pins:
    """Leave out what `others` pin."""
    return {name: pin for name, pin in pins.items() if name not in others}


def refuse_conflicts(engine: Pins, tools: Pins) -> None:
    """Stop if an engine and the tools want different versions of a package."""
    for name in engine.keys() & tools.keys():
        if engine[name] != tools[name]:
            sys.exit(f"lock: {engine[name]} for an engine, {tools[name]} for the tools; pin it in dev.in")


def write(name: str, pins: Pins) -> None:
    """Write one list, in the order of the names."""
    lines = [f"# {HEADS[name]} Written by `make lock`; Linux on x86-64, Python 3.11."]
    lines += ["-r base.txt"] if name in ("cpu", "cuda") else []
    lines += [pins[key] for key in sorted(pins)]
    (HERE / f"{name}.txt").write_text("\n".join(lines) + "\n")
    print(f"{name}.txt: {len(pins)} packages", flush=True)


def normal(name: str) -> str:
    """Spell a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
