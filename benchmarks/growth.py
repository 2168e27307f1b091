"""How a training step's cost grows with its batch, its texts, its images and the processes.

    pip install -r benchmarks/requirements-plots.txt
    python benchmarks/growth.py --plot growth.svg

Batch, tokens and image size: the small model's step on one CPU core as benchmarks/step.py has it
(medians of rounds in which all sizes take turns), beside the FLOPs of the published model, counted
on its real modules, and the time that the planner's model expects of it on one H200, which nobody
measured. Processes: what benchmarks/engines.py measures, beside the planner's model of H200s in
machines of eight with InfiniBand NDR.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prs_med.quiet import quieten  # noqa: E402

quieten()

from benchmarks import engines  # noqa: E402
from benchmarks.step_model import (  # noqa: E402
    ANSWER,
    IMAGE_TOKENS,
    PUBLISHED_SIDE,
    QUESTION,
    SMALL_SIDE,
    TEMPLATE,
    ModelSource,
    random_batch,
)
from benchmarks.step_recipes import RECIPES, Variant  # noqa: E402
from benchmarks.step_times import measure  # noqa: E402
from prs_med.batch import Batch  # noqa: E402
from prs_med.config import Settings  # noqa: E402
from prs_med.plan.candidates import Candidate, candidates, workload  # noqa: E402
from prs_med.plan.hardware import Cluster, cluster  # noqa: E402
from prs_med.plan.ranges import Range  # noqa: E402
from prs_med.plan.scaling import scaling  # noqa: E402
from prs_med.plan_config import PlanSettings  # noqa: E402
from prs_med.train.deepspeed_config import load_deepspeed_config  # noqa: E402

OWN = QUESTION + ANSWER
"""Tokens of a question, what follows it, and its answer."""
OTHER = 1 + IMAGE_TOKENS + TEMPLATE
BATCHES = (1, 2, 4, 8)
TEXTS = (43, 93, 193, 393, 793)
SIDES = (256, 512, 768, 1024)
PROCESSES = (1, 2)
MODELLED_BATCH = 8
"""Samples of a GPU's step where the batch is not what varies."""


@dataclass(frozen=True)
class Point:
    """One size."""

    x: int
    measured: float
    """Milliseconds of the small model's step."""
    flops: float
    """Of the published model's step."""
    modelled: Range
    """Seconds of the published model's step on an H200."""


def main() -> None:
    """Print tables, and draw them."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=7, help="timed rounds (default: 7)")
    made.add_argument("--plot", help="an image file to draw")
    options = made.parse_args()
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        made.error("--plot needs matplotlib: pip install -r benchmarks/requirements-plots.txt")
    torch.set_num_threads(1)
    axes = {
        "samples in a batch": growth(
            BATCHES,
            lambda size: random_batch(size, 1, SMALL_SIDE),
            lambda size: published(size),
            options.rounds,
        ),
        "tokens of a sequence": growth(
            [OTHER + text for text in TEXTS],
            lambda tokens: random_batch(1, 1, SMALL_SIDE, own_tokens=tokens - OTHER),
            lambda tokens: published(MODELLED_BATCH, tokens=tokens),
            options.rounds,
        ),
        "image size, pixels": growth(
            SIDES,
            lambda side: random_batch(1, 1, side),
            lambda side: published(MODELLED_BATCH, side=side),
            options.rounds,
        ),
    }
    for name, points in axes.items():
        print_axis(name, points)
    measured = engines.measured(list(PROCESSES), 1, options.rounds, 3)
    world = {
        name: {count: statistics.median(measured[count, name].ratios()) for count in PROCESSES}
        for name in engines.CONFIGS
    }
    modelled = {name: dict(modelled_world(file)) for name, file in engines.CONFIGS.items()}
    engines.print_table(measured)
    print()
    print_world(world, modelled)
    if options.plot:
        draw(axes, world, modelled, options.plot)


def growth(
    sizes: Sequence[int],
    batch_of: Callable[[int], Batch],
    planned: Callable[[int], tuple[float, Range]],
    rounds: int,
) -> list[Point]:
    """Along one axis."""
    with tempfile.TemporaryDirectory() as folder:
        variant = Variant(
            RECIPES["ours"], ModelSource(torch.device("cpu"), Path(folder), small=True)
        )
        with tqdm(total=rounds, desc="rounds", unit="round", leave=False) as bar:
            times = measure(
                {str(size): variant for size in sizes},
                {str(size): batch_of(size) for size in sizes},
                rounds,
                bar.update,
            )
    found = []
    for size in sizes:
        flops, modelled = planned(size)
        milliseconds = statistics.median(times[str(size)].milliseconds)
        found.append(Point(size, milliseconds, flops, modelled))
    return found


def published(
    batch: int, tokens: int = OTHER + OWN, side: int = PUBLISHED_SIDE
) -> tuple[float, Range]:
    """FLOPs and seconds of LLaVA-Med's and TinySAM's step on one H200."""
    candidate = planned_candidate("zero2.json", tokens, side, 1)
    return float(candidate.costs.flops(batch).sum()), candidate.step(batch, h200s(1)).total


def planned_candidate(config: str, tokens: int, side: int, gpus: int) -> Candidate:
    """As ``launch/plan.py`` has it."""
    settings = Settings(image_size=side)
    plan = dataclasses.replace(
        h200_settings(gpus),
        prompt_text_tokens=tokens - IMAGE_TOKENS - ANSWER,
        answer_tokens=ANSWER,
    )
    loaded = {config: load_deepspeed_config(ROOT / "ds_configs" / config, settings, gpus)}
    found = candidates(settings, plan, loaded, workload(settings, plan))
    return next(each for each in found if each.settings == settings)


def modelled_world(config: str) -> Iterator[tuple[int, float]]:
    """A step on more and more H200s, relative to one on one of them."""
    machines = h200s(8)
    candidate = planned_candidate(config, OTHER + OWN, PUBLISHED_SIDE, 8)
    points = scaling(candidate, MODELLED_BATCH, machines, 10**6)
    for point in points:
        yield point.gpus, point.step.middle / points[0].step.middle


def h200_settings(gpus: int) -> PlanSettings:
    """In machines of eight, with an adapter for each."""
    return PlanSettings(gpu="h200", gpus=gpus, network="infiniband-ndr")


def h200s(gpus: int) -> Cluster:
    """So many."""
    return cluster(h200_settings(gpus))


def print_axis(name: str, points: Sequence[Point]) -> None:
    """A table, each figure with what it is to the first one."""
    first = points[0]
    print(f"| {name} | small, ms | published, TFLOPs | published on an H200, ms (model) |")
    print("|---|---|---|---|")
    for point in points:
        best, worst = 1e3 * point.modelled.best, 1e3 * point.modelled.worst
        print(
            f"| {point.x} | {point.measured:.0f} ({point.measured / first.measured:.2f}) "
            f"| {point.flops / 1e12:.1f} ({point.flops / first.flops:.2f}) "
            f"| {best:.0f} to {worst:.0f} "
            f"({point.modelled.middle / first.modelled.middle:.2f}) |"
        )
    print(flush=True)


def print_world(
    world: Mapping[str, Mapping[int, float]], modelled: Mapping[str, Mapping[int, float]]
) -> None:
    """Both ways to see it."""
    counts = sorted({count for points in modelled.values() for count in points})
    print(f"| processes | {' | '.join(f'{name}, measured | {name}, model' for name in world)} |")
    print(f"|---|{2 * len(world) * '---|'}")
    for count in counts:
        cells = []
        for name in world:
            seen = world[name].get(count)
            cells += [f"{seen:.2f}" if seen else "", f"{modelled[name][count]:.2f}"]
        print(f"| {count} | {' | '.join(cells)} |")


def draw(
    axes: Mapping[str, Sequence[Point]],
    world: Mapping[str, Mapping[int, float]],
    modelled: Mapping[str, Mapping[int, float]],
    file: str,
) -> None:
    """Four panels."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": ""})
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, (name, points) in zip(panels, axes.items(), strict=False):
        xs, first = [point.x for point in points], points[0]
        panel.plot(
            xs, [p.measured / first.measured for p in points], "o-", label="small, measured on CPU"
        )
        panel.plot(xs, [p.flops / first.flops for p in points], "s--", label="published, FLOPs")
        panel.plot(
            xs,
            [p.modelled.middle / first.modelled.middle for p in points],
            "^:",
            label="published on an H200, model",
        )
        panel.set(xlabel=name, ylabel="a step, relative to the first", ylim=(0, None))
        panel.legend(fontsize="small")
    last = figure.axes[-1]
    for (name, points), colour in zip(world.items(), ("C0", "C1"), strict=True):
        last.plot(points.keys(), points.values(), "o-", color=colour, label=f"{name}, measured")
    for (name, points), colour in zip(modelled.items(), ("C0", "C1"), strict=True):
        last.plot(points.keys(), points.values(), ":", color=colour, label=f"{name}, model")
    last.set_xscale("log", base=2)
    last.set(xlabel="processes", ylabel="a step, relative to computing alone", ylim=(0, None))
    last.legend(fontsize="small")
    figure.savefig(file, metadata={"Date": None} if file.endswith(".svg") else None)


if __name__ == "__main__":
    main()
