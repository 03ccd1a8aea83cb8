"""What every file must keep to: its size, no trace of the machine it was written on, and links that lead somewhere."""

import ast
import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from tests.architecture.tree import ROOT, texts, tracked_files

MAX_LINES = 400
MAX_FUNCTION_LINES = 60
HOMES = ("/ro" + "ot/", "/ho" + "me/", "/wo" + "rk/", "/Us" + "ers/")  # in two, for this file is looked at too
OWN_PATH = re.compile("|".join(rf"(?<![\w.{{}}])(?:{home})\w" for home in HOMES) + r"|/t" + r"mp/[\w./-]*farm")
ADDRESS = re.compile(r"https?://[^\s\"'`<>()\[\]{}]+")
INDEX = re.compile(r"https?://(?:[^/]*(?:pypi|pythonhosted|pytorch)|.*/(?:simple|whl|pypi)(?:/|$))")
TORCH_CPU_INDEX = "https://" + "download.pytorch.org/whl/cpu"
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`((?:\.?[\w-]+/)*[\w.-]+\.(?:py|md|toml|txt|in|mako)|(?:[\w-]+/)+)`")
PLACES = ("daemon", "tui", "migrations", "tests", "docs", "bench", "requirements", ".ci", ".dev")


def functions(source: str):
    """Name and length of each function, without the strings that explain it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.body[0].lineno + 1


def bare_percents(source: str):
    """Lines where a number gets a percent sign without a blank before it, as Python's own format does."""
    for node in ast.walk(ast.parse(source)):
        for part, following in pairwise(node.values) if isinstance(node, ast.JoinedStr) else ():
            if isinstance(part, ast.FormattedValue) and str(getattr(following, "value", "")).startswith("%"):
                yield part.lineno
        spec = node.format_spec if isinstance(node, ast.FormattedValue) else None
        if isinstance(spec, ast.JoinedStr) and str(getattr(spec.values[-1], "value", "")).endswith("%"):
            yield spec.lineno


def code() -> list:
    found = [path for folder in ("daemon", "tui") for path in (ROOT / folder).rglob("*.py")]
    assert len(found) > 50
    return found


def own_paths(text: str) -> list[str]:
    return OWN_PATH.findall(text)


def indexes(text: str) -> list[str]:
    return [address for address in ADDRESS.findall(text) if INDEX.match(address)]


def missing(name: str, text: str) -> list[str]:
    """What a document names that is not there."""
    links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link and not link.startswith("#")]
    named = [path for path in NAMED_FILE.findall(text) if "/" not in path.strip("/") or path.split("/")[0] in PLACES]
    return [link for link in links if not ((ROOT / name).parent / link).exists()] + [
        path for path in named if not _is_somewhere(path)
    ]


def _is_somewhere(path: str) -> bool:
    return (ROOT / path).exists() or ("/" not in path and any(file.name == path for file in tracked_files()))


def documents() -> dict[str, str]:
    return {name: text for name, text in texts(tracked_files()).items() if name.endswith(".md")}


def test_no_module_is_too_long():
    too_long = {str(path): n for path in code() if (n := len(path.read_text().splitlines())) > MAX_LINES}
    assert not too_long


def test_no_function_is_too_long():
    too_long = [
        f"{path}: {name} has {lines} lines"
        for path in code()
        for name, lines in functions(path.read_text())
        if lines > MAX_FUNCTION_LINES
    ]
    assert not too_long


def test_no_file_knows_the_machine_it_was_written_on():
    found = {name: paths for name, text in texts(tracked_files()).items() if (paths := own_paths(text))}
    assert not found


def test_packages_come_from_the_users_own_index():
    found = {(name, index) for name, text in texts(tracked_files()).items() for index in indexes(text)}
    assert found == {("requirements/setup.py", TORCH_CPU_INDEX)}


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_pinned_lists_hold_names_and_versions_only(path):
    lines = path.read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#") and line != "-r base.txt"]
    assert pins
    assert not [line for line in pins if not PIN.fullmatch(line)]
    assert not [line for line in lines if "://" in line]
    assert pins == sorted(set(pins), key=lambda pin: pin.partition("==")[0].lower().replace("_", "-"))


def test_decisions_are_numbered_in_order():
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for number, record in enumerate(records, 1):
        assert record.read_text().startswith(f"# {number}. "), record.name
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", record.name)


def test_documents_name_only_what_there_is():
    found = {name: absent for name, text in documents().items() if (absent := missing(name, text))}
    assert not found


def test_percentages_are_written_with_a_blank():
    """As in `47 %`, which `preble.daemon.wire.percents` writes."""
    found = {str(path.relative_to(ROOT)): lines for path in code() if (lines := list(bare_percents(path.read_text())))}
    assert not found


def test_all_of_this_would_be_seen():
    """The patterns above, against what they are to find and what they are to let pass."""
    for home in HOMES:
        assert own_paths(f'PATH = "{home}somebody"')
        assert not own_paths(f"docs{home}x {{url}}{home}x")
    assert own_paths("/t" + "mp/a-farm")
    assert not own_paths("/tmp/x")
    assert indexes("see https://py" + "pi.org/simple and https://mirror.example/py" + "pi/simple/ there") != []
    assert not indexes("https://docs.vllm.ai https://arxiv.org/abs/2407.00023")
    assert not PIN.fullmatch("torch @ https://x")
    assert not PIN.fullmatch("torch>=2")
    assert PIN.fullmatch("torch==2.1+cpu")
    assert missing("README.md", "[a](docs/nothing.md) `daemon/nothing.py` `tests/nothing/` `nothing.toml`") == [
        "docs/nothing.md", "daemon/nothing.py", "tests/nothing/", "nothing.toml",
    ]  # fmt: skip
    assert not missing("README.md", "[a](LICENSE) [b](https://x.y) [c](#part) `daemon/app.py` `tests/sched/` `app.py`")
    assert list(bare_percents('f"{a:.0%} {b}% {c} %"')) == [1, 1]
    assert dict(functions("def f():\n    'x'\n    return 1\n")) == {"f": 2}


def test_no_property_is_held_to_a_time():
    """The machine may pause for seconds. One profile for all, in `tests/conftest.py`."""
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
    own = re.compile("dead" + "line=")
    others = {name: text for name, text in texts(tracked_files()).items() if name.startswith("tests/")}
    assert [name for name, text in others.items() if own.search(text)] == ["tests/conftest.py"]
