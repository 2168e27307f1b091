"""``python -m tests.mutants [MODULE ...]``: change the pure core in small ways, see whether the
tests notice, and compare with what is recorded."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.mutants.functions import ROOT, try_functions
from tests.mutants.modules import CORE, LIMIT
from tests.mutants.outside import try_the_rest
from tests.mutants.record import Recorded, Result, read_record, result_of

FOLDER = ROOT / "build" / "mutants"


def main(argv: list[str]) -> int:
    """1 if a module's score is below the recorded one."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"all by default: {', '.join(CORE)}"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="mutants tried at a time"
    )
    options = parser.parse_args(argv)
    chosen = [name for names in options.modules for name in names.split(",")] or list(CORE)
    unknown = [name for name in chosen if name not in CORE]
    if unknown:
        parser.error(f"unknown module {', '.join(unknown)}: use some of {', '.join(CORE)}")
    # Small tensors: more threads only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    record = read_record()
    started = time.monotonic()
    worse = [
        name
        for name in chosen
        if not _holds(name, record.get(name, Recorded(0.0)), options.processes)
    ]
    print(f"took {(time.monotonic() - started) / 60:.1f} minutes")
    if worse:
        print(f"below the recorded score: {', '.join(worse)}")
    return int(bool(worse))


def _holds(name: str, recorded: Recorded, processes: int) -> bool:
    """Whether a module's score is at least the recorded one; says what it is."""
    started = time.monotonic()
    module, folder = CORE[name], FOLDER / name
    fates, possible = try_functions(module, folder, processes, LIMIT)
    sampled = f" (a sample of {len(fates)} of {possible} in functions)" if possible > LIMIT else ""
    fates += try_the_rest(module, folder)
    result = result_of(fates, recorded)
    print(_line(name, result, recorded, time.monotonic() - started) + sampled, flush=True)
    for survivor in result.survivors:
        print(f"    survived  {survivor}", flush=True)
    return result.score >= recorded.score


def _line(name: str, result: Result, recorded: Recorded, seconds: float) -> str:
    return (
        f"{name:16} score {result.score:5.1f} (recorded {recorded.score:5.1f})  "
        f"killed {result.killed:3}  timeouts {result.timeouts:2}  "
        f"survived {len(result.survivors):3}  equivalent {len(recorded.equivalent):2}  "
        f"{seconds:4.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
