"""CPU-seconds until the programs have answered: a question, a misspelt flag, a refused value.

    python benchmarks/answer_times.py

Each command is started afresh; the table has the user and system time of its process and the
children it waited for, the least of three starts. `--repository DIR` measures another checkout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = (
    *("train.py --help", "train.py --batch_sise 4", "train.py --batch_size 0"),
    *("plan.py --help", "plan.py --gpuss 4", "plan.py --gpus 0"),
    *("eval.py --help", "eval.py compare --help", "eval.py --split all"),
    *("infer.py --help", "infer.py --top_p 0"),
    *(
        "data.py --help",
        "data.py build --help",
        "data.py check --help",
        "data.py stats --pictures -1",
    ),
    *("export.py --help", "export.py inspect --help", "export.py merged --dtype fp8"),
    *("demo.py --help", "demo.py --steps x"),
)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=ROOT, help="checkout to measure")
    parser.add_argument("--times", type=int, default=3, help="starts of each command")
    options = parser.parse_args()
    print("| command | CPU-seconds |\n|---|---|")
    for command in ANSWERS:
        least = min(cpu_seconds(options.repository, command) for _ in range(options.times))
        print(f"| `{command}` | {least:.2f} |", flush=True)


def cpu_seconds(repository: Path, command: str) -> float:
    """Of one start."""
    program, *arguments = command.split()
    before = os.times()
    subprocess.run(
        [sys.executable, f"launch/{program}", *arguments],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        check=False,
    )
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


if __name__ == "__main__":
    main()
