"""How well the streamed order mixes, against a perfect shuffle.

    python benchmarks/shuffle.py

No data is read: the order is a function. For a dataset that was built with --shuffle false, so that
neighbours in the source are neighbours in the row groups, three numbers are compared with those of
a perfect shuffle of the same size:

- distance: mean distance in the source between neighbours of the sequence, as a share of a perfect
  shuffle's (1 is perfect, 0 is no shuffle);
- neighbours: pairs of samples of one row group (40 samples that may be slices of one patient) in a
  global batch, per batch;
- drift: standard deviation of the mean source position of 50 consecutive batches, in multiples of
  a perfect shuffle's (1 is perfect; above it, stretches of training see parts of the data more).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prs_med.data.stream.stream_order import StreamOrder

GROUPS, ROWS, BATCH, STRETCH = 2500, 40, 64, 50


def main() -> None:
    """Print the table."""
    print(f"{GROUPS * ROWS} samples, {ROWS} in a row group, global batch {BATCH}\n")
    print("| order | distance | neighbours per batch | drift |\n|---|---|---|---|")
    perfect = np.random.default_rng(0).permutation(GROUPS * ROWS)
    reference = numbers(perfect)
    show("perfect shuffle", reference, reference)
    for window in (1, 4, 16, 64, 128, 256, 1024):
        order = StreamOrder([ROWS] * GROUPS, 0, BATCH, window)
        steps = order.units // BATCH
        found = [unit.group * ROWS + unit.number for k in range(steps) for unit in order.batch(k)]
        show(f"--shuffle_window {window}", numbers(np.array(found)), reference)
    order = StreamOrder([ROWS] * GROUPS, 0, BATCH, 128)
    found = [unit.group * ROWS + unit.number for k in range(steps) for unit in order.batch(k)]
    stored = np.random.default_rng(1).permutation(GROUPS * ROWS)
    show("--shuffle_window 128, built with --shuffle", numbers(stored[found]), reference)
    show("none", numbers(np.arange(GROUPS * ROWS)), reference)


def numbers(sequence: np.ndarray) -> tuple[float, float, float]:
    """Distance, neighbours and drift of a sequence of source positions."""
    distance = float(np.abs(np.diff(sequence)).mean())
    batches = sequence[: len(sequence) // BATCH * BATCH].reshape(-1, BATCH)
    pairs = [sum(n * (n - 1) // 2 for n in Counter((b // ROWS).tolist()).values()) for b in batches]
    whole = len(batches) // STRETCH * STRETCH
    stretches = batches[:whole].reshape(-1, STRETCH * BATCH).mean(axis=1)
    return distance, float(np.mean(pairs)), float(stretches.std())


def show(name: str, found: tuple[float, ...], reference: tuple[float, ...]) -> None:
    """One line of the table."""
    drift = found[2] / reference[2]
    print(f"| {name} | {found[0] / reference[0]:.3f} | {found[1]:.2f} | {drift:.1f} |")


if __name__ == "__main__":
    main()
