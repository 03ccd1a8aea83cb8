"""`preble simulate`: the numbers of the contract, the same whatever runs them, plots, and what is refused."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from struct import unpack
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from tests.cli.running import preble

from preble.daemon.cli.output import Exit
from preble.daemon.sched.policies import POLICIES
from preble.daemon.sim.workloads import WORKLOADS

QUICK = ("simulate", "--workload", "tool", "--requests", "150", "--rate", "6", "--jobs", "1")


def runs_of(*arguments):
    result = preble(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)["runs"]


def test_the_json_has_what_the_contract_promises():
    (run,) = runs_of(*QUICK, "--policy", "e2", "--gpus", "3", "--seed", "7")
    told = {key: run[key] for key in ("workload", "policy", "fairness", "gpus", "rate", "seed", "requests")}
    assert told == {
        "workload": "tool",
        "policy": "e2",
        "fairness": "d2lpm",
        "gpus": 3,
        "rate": 6.0,
        "seed": 7,
        "requests": 150,
    }
    assert 0 < run["mean_ttft_s"] < run["mean_latency_s"] < run["p99_latency_s"]
    assert run["mean_ttft_s"] < run["p99_ttft_s"]
    assert 0 < run["hit_ratio"] <= run["oracle_hit_ratio"] < 1
    tenant = run["tenants"]["default"]
    assert (tenant["requests"], tenant["p99_ttft_s"]) == (150, run["p99_ttft_s"])
    assert tenant["gpu_s"] > 0


def test_runs_come_by_rate_then_policy_then_seed():
    lists = ("--policy", "round_robin,e2", "--rate", "9,6", "--seed", "2,1,2", "--requests", "20")
    told = [(run["rate"], run["policy"], run["seed"]) for run in runs_of(*QUICK, *lists)]
    assert told == [(rate, policy, seed) for rate in (9, 6) for policy in ("round_robin", "e2") for seed in (2, 1)]


def test_processes_change_neither_numbers_nor_their_order():
    lists = ("--policy", "e2,round_robin", "--seed", "1,2")
    assert runs_of(*QUICK, *lists, "--jobs", "3") == runs_of(*QUICK, *lists)


def test_every_policy_gets_the_same_requests_and_every_seed_others():
    runs = runs_of(*QUICK, "--policy", ",".join(POLICIES), "--seed", "1,2")
    bounds = {(run["policy"], run["seed"]): run["oracle_hit_ratio"] for run in runs}
    assert len(bounds) == 2 * len(POLICIES)
    assert len({bound for (_, seed), bound in bounds.items() if seed == 1}) == 1
    assert len(set(bounds.values())) == 2
    assert len({run["mean_latency_s"] for run in runs}) > len(POLICIES)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_runs_and_no_policy_beats_the_oracle(workload):
    for run in runs_of("simulate", "--workload", workload, "--requests", "60", "--jobs", "1"):
        assert run["requests"] == 60
        assert run["hit_ratio"] <= run["oracle_hit_ratio"]


def test_more_load_takes_longer_and_bursts_longer_still():
    calm, busy = runs_of(*QUICK, "--policy", "e2", "--rate", "2,40", "--requests", "400")
    (bursts,) = runs_of(*QUICK, "--policy", "e2", "--rate", "2", "--requests", "400", "--arrivals", "azure")
    assert busy["p99_latency_s"] > 2 * calm["p99_latency_s"]
    assert bursts["p99_latency_s"] > 1.2 * calm["p99_latency_s"]


def test_the_scheduler_can_be_configured(tmp_path):
    config = tmp_path / "preble.toml"
    config.write_text("[scheduler]\nmax_waiting_requests = 1\n")
    flood = (*QUICK, "--policy", "e2", "--rate", "1000", "--requests", "600")
    (bounded,) = runs_of(*flood, "--config", str(config))
    (free,) = runs_of(*flood)
    assert (bounded["refused"] > 0, free["refused"]) == (True, 0)


def test_a_prompt_too_long_for_the_model_is_refused_and_counts_in_no_ratio(tmp_path):
    lines = []
    for number, blocks in enumerate(([1, 2], list(range(1000, 1100)), [1, 2])):
        line = {"timestamp": number * 9000, "input_length": 512 * len(blocks), "output_length": 5, "hash_ids": blocks}
        lines.append(json.dumps(line))
    trace = tmp_path / "long.jsonl"
    trace.write_text("\n".join(lines))
    (run,) = runs_of("simulate", "--trace", str(trace), "--policy", "e2", "--jobs", "1")
    assert (run["requests"], run["refused"]) == (3, 1)
    assert run["hit_ratio"] == run["oracle_hit_ratio"] == pytest.approx(0.5, abs=0.01)


def test_people_get_policies_side_by_side():
    result = preble(*QUICK, "--policy", "e2,round_robin")
    title, columns, *rows = result.stdout.splitlines()
    assert title.startswith("tool: 150 requests on 2 x a6000-mistral-7b")
    assert columns.split() == ["req/s", "measure", "e2", "round_robin"]
    assert rows[0].split()[:4] == ["6", "mean", "latency", "s"]
    assert "*" in result.stdout
    assert result.stderr == ""


def test_tenants_get_a_table_where_there_are_several():
    result = preble("simulate", "--workload", "noisy_neighbour", "--requests", "200", "--jobs", "1")
    assert "p99 TTFT in s, by tenant" in result.stdout
    assert "flooder" in result.stdout
    alone = preble("simulate", "--workload", "noisy_neighbour", "--requests", "200", "--jobs", "1", "--flood", "0")
    assert "tenant7" in alone.stdout
    assert "flooder" not in alone.stdout


def test_a_written_trace_can_be_simulated(tmp_path):
    trace = tmp_path / "tool.jsonl"
    written = preble(*QUICK, "--write-trace", str(trace))
    assert (written.exit_code, written.stdout) == (0, "")
    assert "150 requests" in written.stderr
    own, faster = (
        runs_of("simulate", "--trace", str(trace), "--jobs", "1", "--policy", "e2", *rate)
        for rate in ((), ("--rate", "60"))
    )
    assert (own[0]["workload"], own[0]["requests"], own[0]["arrivals"]) == ("tool", 150, "trace")
    assert own[0]["rate"] == pytest.approx(6.0, rel=0.3)
    assert faster[0]["rate"] == 60
    assert faster[0]["duration_s"] < 0.75 * own[0]["duration_s"]
    (capped,) = runs_of("simulate", "--trace", str(trace), "--jobs", "1", "--policy", "e2", "--requests", "9")
    assert capped["requests"] == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--workload", "tool", "--trace", __file__), "either --workload or --trace"),
        ((), "either --workload or --trace"),
        (("--workload", "tools"), "'tools' is not one of"),
        (("--workload", "tool", "--policy", "e2,best"), "'best' is none of e2, e2_paper"),
        (("--workload", "tool", "--rate", "6,0"), "a rate is a number from 1e-06 to 1e+06"),
        (("--workload", "tool", "--rate", "nan"), "a rate is a number from 1e-06 to 1e+06"),
        (("--workload", "tool", "--rate", "1e-300"), "a rate is a number from 1e-06 to 1e+06"),
        (("--workload", "tool", "--rate", "fast"), "could not convert"),
        (("--workload", "tool", "--seed", "-1"), "a seed is not negative"),
        (("--workload", "tool", "--seed", ""), "invalid literal"),
        (("--workload", "tool", "--gpus", "0"), "is not in the range"),
        (("--workload", "tool", "--requests", "0"), "is not in the range"),
        (("--workload", "tool", "--fairness", "lottery"), "'lottery' is none of none, vtc, d2lpm"),
        (("--workload", "tool", "--weight", "a"), "'a' is not a tenant, =, and a weight from 0.001 to 1000"),
        (("--workload", "tool", "--weight", "a=0"), "'a=0' is not a tenant, =, and a weight"),
        (("--workload", "tool", "--fit", "b200"), "a6000-mistral-7b"),
        (("--workload", "tool", "--config", "nowhere.toml"), "there is no such file"),
        (("--workload", "agent", "--items", "5"), "--items: the workload agent has none"),
        (("--workload", "video", "--popularity", "zipf"), "--popularity: only the workload tool"),
        (("--workload", "agent", "--flood", "0"), "--flood: only the workload noisy_neighbour"),
        (("--workload", "noisy_neighbour", "--flood", "2"), "is not in the range"),
        (("--trace", "nowhere.jsonl"), "does not exist"),
        (("--trace", __file__), "test_simulate.py:1: Expected `object`"),
        (("--trace", __file__, "--seed", "1,2"), "leaves nothing to chance"),
        (("--trace", __file__, "--write-trace", "x"), "test_simulate.py:1"),
        (("--workload", "tool", "--rate", "1,2", "--write-trace", "x"), "one rate and one seed"),
        (("--workload", "tool", "--write-trace", "/nowhere/x"), "No such file"),
        (("--workload", "tool", "--plot", "/proc/plots"), "--plot: /proc/plots"),
    ],
)
def test_bad_input_is_named_with_exit_code_2(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = preble("simulate", "--requests", "5", *arguments)  # the last of an option given twice counts
    assert (result.exit_code, result.stdout) == (Exit.USAGE, ""), result.output
    assert says in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_plots_are_drawn_as_png_and_svg(tmp_path):
    folder = tmp_path / "new" / "plots"
    arguments = (*QUICK, "--policy", "e2,round_robin", "--rate", "3,6,9", "--seed", "1,2", "--requests", "40")
    result = preble(*arguments, "--plot", str(folder), "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["runs"]) == 12
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{name}.{suffix}" for name in ("hit_ratio", "latency", "load") for suffix in ("png", "svg")
    ]
    assert [line.removeprefix("wrote ") for line in sorted(result.stderr.splitlines())] == sorted(
        str(path) for path in folder.iterdir()
    )
    for path in folder.glob("*.png"):
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        assert unpack(">I", header[16:20])[0] >= 1000
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.fixture
def drawn(monkeypatch):
    """Each plot by its name, kept as it is saved."""
    figures = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.setdefault(path.stem, figure))
    return figures


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_plots_say_what_they_show_and_in_which_unit(drawn, tmp_path):
    assert preble(*QUICK, "--policy", "e2,round_robin", "--rate", "3,6", "--plot", str(tmp_path)).exit_code == 0
    for name, labels in (
        ("latency", [("rate (req/s)", "latency (s)")] * 2),
        ("hit_ratio", [("rate (req/s)", "hit ratio (% of prompt tokens)")]),
        ("load", [("", "requests"), ("time (s)", "requests")]),
    ):
        assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in drawn[name].axes] == labels
    assert legend_of(drawn["latency"]) == ["e2", "round_robin"]
    assert [line.get_marker() for line in drawn["latency"].axes[0].get_lines()] == ["o", "^"]
    assert legend_of(drawn["load"]) == ["gpu0", "gpu1"]


def test_many_gpus_are_drawn_as_a_range(drawn, tmp_path):
    assert preble(*QUICK, "--gpus", "12", "--plot", str(tmp_path)).exit_code == 0
    assert legend_of(drawn["load"]) == ["least to most loaded GPU", "median GPU"]


@pytest.mark.parametrize("more", [("--gpus", "12"), ("--workload", "noisy_neighbour"), ("--fit", "cpu-demo")])
def test_plots_can_be_drawn_of_one_rate_many_gpus_and_many_tenants(tmp_path, more):
    arguments = (*QUICK, "--requests", "40", "--seed", "1,2", "--plot", str(tmp_path), *more)
    assert preble(*arguments).exit_code == 0
    assert (tmp_path / "tenants.svg").exists() == ("noisy_neighbour" in more)


def test_equal_runs_make_equal_plots(tmp_path):
    for name in ("once", "again"):
        assert preble(*QUICK, "--requests", "30", "--plot", str(tmp_path / name)).exit_code == 0
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_help_comes_without_heavy_imports():
    code = "import sys; from preble.daemon.cli.main import main; main(['simulate', '-h'], standalone_mode=False); "
    code += "print([name for name in ('numpy', 'matplotlib', 'rich', 'preble.daemon.sim') if name in sys.modules])"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert lines.splitlines()[-1] == "[]"


def test_progress_is_shown_on_a_terminal_and_only_there():
    """Long enough for the bar to come; stderr is a terminal, stdout is not."""
    arguments = ["simulate", "--workload", "tool", "--requests", "2500", "--policy", "e2", "--jobs", "1", "--json"]
    controller, terminal = pty.openpty()
    try:
        command = [Path(sys.executable).parent / "preble", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True) as process:
            os.close(terminal)
            seen = b""
            while True:
                try:
                    chunk = os.read(controller, 4096)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                seen += chunk
            out = process.stdout.read()
    finally:
        os.close(controller)
    assert process.returncode == 0
    assert b"simulating" in seen
    assert len(json.loads(out)["runs"]) == 1
