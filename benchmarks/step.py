"""A training step: the older recipe, ours, and ours with each optimisation, side by side.

    python benchmarks/step.py              # times: published size on a GPU, a small model on a CPU
    python benchmarks/step.py --count      # FLOPs and kept bytes at published size, on any machine
    python benchmarks/step.py --batch 4 --nf4

Every recipe computes forward pass, losses, backward pass and optimizer step of the same batch with
the same weights, in sequences of 676 tokens. In each round all take one step each, in an order that
rotates. A time is the median over the rounds, a ratio the median of the rounds' ratios.

The small model has the published one's structure, and its language model 90 % of the FLOPs; on a
CPU it computes in fp32 on one core. Weights are random. The optimizer is PyTorch's AdamW at a
learning rate of 0, so that weights stay as they are; DeepSpeed's engines are not in it.

MFU is 4 N FLOPs for each token of the language model, over the time and over the rate of a large
matrix product in the same precision, measured here. N are the weights of the language model's
layers: 2 N for the forward pass and 2 N for the gradients of activations. What LoRA, attention, LM
head, CLIP, encoder and decoder compute is left out, so the use of the machine is better than that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_clock import PARTS, ceilings
from benchmarks.step_counts import Counts, counts
from benchmarks.step_model import META, ModelSource, random_batch
from benchmarks.step_recipes import RECIPES, SAME_COUNTS, Variant
from benchmarks.step_times import StepTimes, measure

BASELINE = "two_pass"
ON_GPU_ALONE = ("tf32", "compiled", "all", "all_shared")
"""Without an effect on a CPU, or after minutes of compiling for it alone."""


def main() -> None:
    """Print tables."""
    options = checked(parser())
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if options.count:
        device = META
    elif not on_gpu:
        torch.set_num_threads(1)
    names = options.recipes.split(",") if options.recipes else default_recipes(device)
    batch = options.batch or (1 if device.type == "cpu" else 8)
    with tempfile.TemporaryDirectory() as folder:
        small = options.small or device.type == "cpu"
        models = ModelSource(device, Path(folder), small=small, load_4bit=options.nf4)
        variants = {name: Variant(RECIPES[name], models) for name in names}
        if options.count:
            print_counts(variants, models, batch)
        else:
            print_times(variants, models, batch, options.steps)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--count", action="store_true", help="count instead of measuring")
    made.add_argument("--small", action="store_true", help="take the small model here, too")
    made.add_argument(
        "--batch",
        type=int,
        help="images of a step, with one question each or with the three of by_image and "
        "shared_prefix (default: 8, on a CPU 1)",
    )
    made.add_argument("--steps", type=int, default=20, help="timed rounds (default: 20)")
    made.add_argument("--nf4", action="store_true", help="keep the language model in 4 bits")
    made.add_argument("--recipes", help=f"comma-separated, of {', '.join(RECIPES)}")
    return made


def checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; a wrong one ends the program in one line."""
    options = parser.parse_args()
    for name in (options.recipes or BASELINE).split(","):
        if name not in RECIPES:
            parser.error(f"--recipes {name}: allowed are {', '.join(RECIPES)}")
    if options.nf4 and (options.count or not torch.cuda.is_available()):
        parser.error("--nf4 is timed on a GPU, and counts nothing else than bf16 does")
    return options


def default_recipes(device: torch.device) -> list[str]:
    """Those that tell something there."""
    left_out = {"cuda": (), "cpu": ON_GPU_ALONE, "meta": SAME_COUNTS}[device.type]
    return [name for name in RECIPES if name not in left_out]


def print_counts(variants: dict[str, Variant], models: ModelSource, images: int) -> None:
    """A table of what a question takes."""
    print("| recipe | GFLOPs of a question | kept, MB | FLOPs of `two_pass` to these |")
    print("|---|---|---|---|")
    of_baseline = None
    for name, variant in variants.items():
        found = count_of(variant, models, images)
        questions = images * variant.recipe.questions
        flops = found.flops / questions
        of_baseline = flops if name == BASELINE else of_baseline
        fewer = f"{of_baseline / flops:.2f}" if of_baseline else ""
        kept = found.kept / questions / 1e6
        print(f"| `{name}` | {flops / 1e9:,.1f} | {kept:,.1f} | {fewer} |")


def count_of(variant: Variant, models: ModelSource, images: int) -> Counts:
    """Of a batch of so many images."""
    recipe = variant.recipe
    batch = random_batch(images, recipe.questions, models.side, recipe.shares)
    return counts(variant, batch.to(models.device))


def print_times(
    variants: dict[str, Variant], models: ModelSource, images: int, rounds: int
) -> None:
    """Measure, and print a table of rates and one of parts."""
    limits = ceilings(models.device)
    print(", ".join(f"{name} {value:.3g}" for name, value in limits.items()) + "\n")
    batches = {
        name: random_batch(images, v.recipe.questions, models.side, v.recipe.shares).to(
            models.device
        )
        for name, v in variants.items()
    }
    with tqdm(total=rounds, desc="rounds", unit="round", leave=False) as bar:
        times = measure(variants, batches, rounds, bar.update)
    peak = 1e12 * limits[f"{models.precision} TFLOP/s"]
    print_rates(times, 4 * models.layer_weights() / peak)
    print_parts(times)


def print_rates(times: dict[str, StepTimes], ideal_seconds_per_token: float) -> None:
    """One row a recipe."""
    print(
        "| recipe | ms of a step | questions/s | tokens/s | MFU | peak GB "
        "| questions/s to `two_pass` (range) |\n|---|---|---|---|---|---|---|"
    )
    for name, row in times.items():
        seconds = statistics.median(row.milliseconds) / 1e3
        memory = f"{row.peak_bytes / 1e9:.1f}" if row.peak_bytes else ""
        print(
            f"| `{name}` | {1e3 * seconds:.0f} | {row.questions / seconds:.3g} "
            f"| {row.tokens / seconds:.4g} | {row.tokens * ideal_seconds_per_token / seconds:.0%} "
            f"| {memory} | {ratio(times[BASELINE], row) if BASELINE in times else ''} |"
        )


def ratio(baseline: StepTimes, row: StepTimes) -> str:
    """Of questions in the same time."""
    more = row.questions / baseline.questions
    each = [more * b / r for b, r in zip(baseline.milliseconds, row.milliseconds, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def print_parts(times: dict[str, StepTimes]) -> None:
    """Medians, in ms."""
    print(f"\n| recipe | {' | '.join(PARTS)} |\n|---|{len(PARTS) * '---|'}")
    for name, row in times.items():
        medians: Sequence[str] = [f"{row.median_of(part):.0f}" for part in PARTS]
        print(f"| `{name}` | {' | '.join(medians)} |")


if __name__ == "__main__":
    main()
