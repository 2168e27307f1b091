"""What a plan costs: CPU-seconds of ``launch/plan.py``, in two checkouts by turns.

    python benchmarks/plan_time.py --before ../prs-med-before
    python benchmarks/plan_time.py --before ../prs-med-before --runs 5 -- --gpu l4 --gpus 1

Starts the same command in the other checkout and in this one, one after the other, as often as
``--runs`` says, and prints for each the CPU-seconds of its fastest run and the ratio. What both
print and write with ``--json`` must be the same byte for byte; exit status 1 if it is not. What
stands behind ``--`` are settings of ``launch/plan.py``.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
EXAMPLE = ("--gpu", "a100-80", "--gpus", "8", "--price", "2.50")


def main() -> int:
    """Measure, print and return the exit status."""
    options = parser().parse_args()
    trees = {"before": options.before.resolve(), "after": HERE}
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    written = {}
    for _ in range(options.runs):
        for name, tree in trees.items():
            spent, written[name] = run(tree, options.settings or list(EXAMPLE))
            seconds[name].append(spent)
            print(f"{name:6}  {spent:6.1f} CPU-seconds", flush=True)
    before, after = (min(seconds[name]) for name in trees)
    print(f"fastest: {before:.1f} before, {after:.1f} after: {before / after:.1f} times faster")
    if written["before"] != written["after"]:
        print("the plans are not the same", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--before", type=Path, required=True, help="the other checkout's folder")
    made.add_argument("--runs", type=int, default=3, help="runs in each (default: 3)")
    made.add_argument("settings", nargs="*", help="of launch/plan.py, behind --")
    return made


def run(tree: Path, settings: list[str]) -> tuple[float, tuple[bytes, bytes]]:
    """CPU-seconds of a plan with the checkout in ``tree``; what it printed and what it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        printed = subprocess.run(
            [sys.executable, "launch/plan.py", *settings, "--json", str(file)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        plan = file.read_bytes()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, (printed, plan)


if __name__ == "__main__":
    sys.exit(main())
