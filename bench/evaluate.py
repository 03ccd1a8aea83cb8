"""Everything that docs/evaluation.md shows: runs the simulations, then writes its tables and plots.

    .venv/bin/python bench/evaluate.py OUT --trace mooncake_synthetic.jsonl   # all of it, two processes at a time
    .venv/bin/python bench/evaluate.py OUT --only video,longdoc               # some workloads, to look at
    .venv/bin/python bench/evaluate.py OUT --write                            # and put tables and plots into docs/

OUT gets `runs.json` (a setting and its numbers for each run, the same whenever it is run), `tables.md` and SVGs. Runs
that OUT has already are not run again, as long as the code they came from, whose hash is kept with them, is the same.
The trace is FAST25-release/traces/synthetic_trace.jsonl of kvcache-ai/Mooncake; without it that part is left out.
"""

import argparse
from pathlib import Path

from evaluation.plots import draw_all
from evaluation.points import ROOT, plan
from evaluation.running import run_all
from evaluation.tables import all_tables, fill

DOCUMENT = ROOT / "docs/evaluation.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trace", type=Path, help="Mooncake's synthetic trace")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="workloads, with commas: runs them, and writes no tables")
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    points = list(plan(args.trace is not None))
    if args.only:
        points = [point for point in points if point.workload in args.only.split(",")]
    runs = run_all(points, args.out, args.trace, args.processes)
    if args.only:
        return
    tables = all_tables(runs, args.trace is not None)
    text = "\n\n".join(f"<!-- {name} -->\n{lines}\n<!-- end -->" for name, lines in tables.items())
    (args.out / "tables.md").write_text(text + "\n")
    draw_all(runs, ROOT / "docs/evaluation" if args.write else args.out)
    if args.write:
        DOCUMENT.write_text(fill(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
