"""A training step: the older recipe, ours, and ours with each optimisation, side by side.

    python benchmarks/step.py              # times: published size on a GPU, a small model on a CPU
    python benchmarks/step.py --count      # FLOPs and kept bytes at published size, on any machine
    python benchmarks/step.py --count --gpu h200   # and the times that the planner's model expects
    python benchmarks/step.py --batch 1,2,4,8,16 --recipes two_pass,ours,all,nf4_all

Every recipe computes forward pass, losses, backward pass and optimizer step of the same batch with
the same weights, in sequences of 676 tokens. In each round all take one step each, in an order that
rotates. On a GPU the host only queues them, as in training, and reads the times after the round. A
time is the median over the rounds, a ratio the median of the rounds' ratios. A recipe that fails,
as where memory does not suffice, has its error in its row.

The small model has the published one's structure, and its language model 90 % of the FLOPs; on a
CPU it computes in fp32 on one core. Weights are random. The optimizer is PyTorch's AdamW at a
learning rate of 0, so that weights stay as they are; DeepSpeed's engines are not in it.

MFU is 4 N FLOPs for each token of the language model, over the time and over the rate of a large
matrix product in the same precision, measured here; on a GPU whose data sheet the planner knows,
`MFU (data sheet)` is over its peak. N are the weights of the language model's layers: 2 N for the
forward pass and 2 N for the gradients of activations. What LoRA, attention, LM head, CLIP, encoder
and decoder compute is left out, so the use of the machine is better than that. A token counts once,
also where the older recipe computes it twice. `outside the LM` is the share of the time that is
neither the language model's forward nor its backward pass.

The recipe `liger` needs benchmarks/requirements-gpu.txt.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

# So that what one recipe has given back is of use to one that asks for other sizes.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_clock import IN_LANGUAGE_MODEL, PARTS, ceilings
from benchmarks.step_counts import Counts, counts
from benchmarks.step_model import META, ModelSource, random_batch
from benchmarks.step_modelled import print_model
from benchmarks.step_profile import write_profile
from benchmarks.step_recipes import OTHER_ARITHMETIC, RECIPES, SAME_COUNTS, Variant
from benchmarks.step_times import StepTimes, measure
from prs_med.batch import Batch
from prs_med.plan.hardware import CARDS
from prs_med.train.throughput import peak_bf16_flops

BASELINE = "two_pass"
ON_GPU_ALONE = (
    "tf32", "channels_first_fast", "liger", "fast", "compiled_lm", "compiled_lm_bf16",
    "compiled", "fast_compiled", "all", "all_checkpointing", "nf4", "nf4_all",
    "nf4_all_checkpointing", "by_image_fast", "shared_prefix_fast", "all_shared",
)  # fmt: skip
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
    names = options.recipes.split(",") if options.recipes else default_recipes(device, options)
    batches = options.batch or ([1] if device.type == "cpu" else [8])
    with tempfile.TemporaryDirectory() as folder:
        small = options.small or device.type == "cpu"
        models = ModelSource(device, Path(folder), small=small)
        variants = {name: Variant(RECIPES[name], models) for name in names}
        if options.count:
            counted = {n: count_of(v, models, batches[0]) for n, v in variants.items()}
            questions = {n: batches[0] * v.recipe.questions for n, v in variants.items()}
            print_counts(counted, questions)
            if options.gpu:
                print_model(counted, questions, CARDS[options.gpu], BASELINE)
            return
        limits = ceilings(device)
        print(", ".join(f"{name} {value:.4g}" for name, value in limits.items()))
        found = {}
        for batch in batches:
            print(f"\nbatch {batch}\n", flush=True)
            data = {
                name: random_batch(batch, v.recipe.questions, models.side, v.recipe.shares).to(
                    device
                )
                for name, v in variants.items()
            }
            found[batch] = timed(variants, data, options)
            print_rates(found[batch], ideal_seconds(models, limits))
            print_parts(found[batch])
            sys.stdout.flush()
            if options.output:
                write_times(Path(options.output) / "times.json", limits, found)
            for name in options.profile:
                if not found[batch][name].failure:
                    path = Path(options.output) / f"{name}_{batch}.txt"
                    write_profile(path, variants[name], data[name])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--count", action="store_true", help="count instead of measuring")
    made.add_argument(
        "--gpu",
        choices=CARDS,
        help="with --count: also the times that the planner's model expects on this card, from its "
        "best case to its worst; no optimizer, and nothing that compiled or Liger's kernels gain",
    )
    made.add_argument("--small", action="store_true", help="take the small model here, too")
    made.add_argument(
        "--batch",
        type=lambda text: [int(each) for each in text.split(",")],
        metavar="N[,N...]",
        help="images of a step, with one question each or with the three of by_image and "
        "shared_prefix; several are timed one after another (default: 8, on a CPU 1)",
    )
    made.add_argument("--steps", type=int, default=20, help="timed rounds (default: 20)")
    made.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="begin no further round after so long (default: no limit)",
    )
    made.add_argument("--recipes", help=f"comma-separated, of {', '.join(RECIPES)}")
    made.add_argument(
        "--output", metavar="FOLDER", help="where all times go, as times.json, and profiles"
    )
    made.add_argument(
        "--profile",
        type=lambda text: text.split(","),
        default=[],
        metavar="RECIPE[,RECIPE...]",
        help="write which operations and kernels take the time of these",
    )
    return made


def checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; a wrong one ends the program in one line."""
    options = parser.parse_args()
    for name in (options.recipes or BASELINE).split(","):
        if name not in RECIPES:
            parser.error(f"--recipes {name}: allowed are {', '.join(RECIPES)}")
        if options.count and name in not_counted(options):
            parser.error(f"--recipes {name}: it counts what another recipe does")
        if RECIPES[name].nf4 and not torch.cuda.is_available():
            parser.error(f"--recipes {name}: it is timed on a GPU")
    if options.gpu and not options.count:
        parser.error("--gpu is about what is modelled: add --count")
    if options.count and (options.output or options.profile):
        parser.error("--output and --profile are about times: drop --count")
    for name in options.profile:
        if name not in (options.recipes or ",".join(RECIPES)).split(","):
            parser.error(f"--profile {name}: it is not among the recipes that are timed")
    if options.profile and not options.output:
        parser.error("--profile needs a folder to write to: name it with --output")
    return options


def default_recipes(device: torch.device, options: argparse.Namespace) -> list[str]:
    """Those that tell something there."""
    left_out = {"cuda": (), "cpu": ON_GPU_ALONE, "meta": not_counted(options)}[device.type]
    return [name for name in RECIPES if name not in left_out]


def not_counted(options: argparse.Namespace) -> list[str]:
    """Those whose counts, and modelled times if asked for, are those of others."""
    return [name for name in SAME_COUNTS if not options.gpu or name not in OTHER_ARITHMETIC]


def print_counts(found: Mapping[str, Counts], questions: Mapping[str, int]) -> None:
    """A table of what a question takes; ``questions`` are those of a step."""
    print("| recipe | GFLOPs of a question | kept, MB | FLOPs of `two_pass` to these |")
    print("|---|---|---|---|")
    flops = {name: each.flops / questions[name] for name, each in found.items()}
    for name, each in found.items():
        fewer = f"{flops[BASELINE] / flops[name]:.2f}" if BASELINE in flops else ""
        kept = each.kept / questions[name] / 1e6
        print(f"| `{name}` | {flops[name] / 1e9:,.1f} | {kept:,.1f} | {fewer} |")


def count_of(variant: Variant, models: ModelSource, images: int) -> Counts:
    """Of a batch of so many images."""
    recipe = variant.recipe
    batch = random_batch(images, recipe.questions, models.side, recipe.shares)
    return counts(variant, batch.to(models.device))


def timed(
    variants: Mapping[str, Variant],
    batches: Mapping[str, Batch],
    options: argparse.Namespace,
) -> dict[str, StepTimes]:
    """Measure, with a progress bar."""
    with tqdm(total=options.steps, desc="rounds", unit="round", leave=False) as bar:
        return measure(variants, batches, options.steps, bar.update, options.seconds)


def ideal_seconds(models: ModelSource, limits: Mapping[str, float]) -> dict[str, float]:
    """Of a token, by the name of what MFU is relative to."""
    flops = 4 * models.layer_weights()
    found = {"MFU": flops / (1e12 * limits[f"{models.precision} TFLOP/s"])}
    peak = peak_bf16_flops()
    if peak and models.precision == "bf16":
        found["MFU (data sheet)"] = flops / peak
    return found


def print_rates(times: Mapping[str, StepTimes], ideal: Mapping[str, float]) -> None:
    """One row a recipe."""
    print(
        f"| recipe | ms of a step | questions/s | tokens/s | {' | '.join(ideal)} "
        "| outside the LM | peak GB | questions/s to `two_pass` (range) |\n"
        f"|---|---|---|---|{'---|' * len(ideal)}---|---|---|"
    )
    for name, row in times.items():
        if row.failure:
            print(f"| `{name}` | {row.failure} |")
            continue
        seconds = statistics.median(row.milliseconds) / 1e3
        memory = f"{row.peak_bytes / 1e9:.1f}" if row.peak_bytes else ""
        shares = [f"{row.tokens * each / seconds:.1%}" for each in ideal.values()]
        print(
            f"| `{name}` | {1e3 * seconds:.1f} | {row.questions / seconds:.3g} "
            f"| {row.tokens / seconds:.4g} | {' | '.join(shares)} "
            f"| {1 - row.share_of(IN_LANGUAGE_MODEL):.1%} "
            f"| {memory} | {ratio(times[BASELINE], row) if BASELINE in times else ''} |"
        )


def ratio(baseline: StepTimes, row: StepTimes) -> str:
    """Of questions in the same time."""
    if baseline.failure:
        return ""
    more = row.questions / baseline.questions
    each = [more * b / r for b, r in zip(baseline.milliseconds, row.milliseconds, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def print_parts(times: Mapping[str, StepTimes]) -> None:
    """Medians, in ms."""
    print(f"\n| recipe | {' | '.join(PARTS)} |\n|---|{len(PARTS) * '---|'}")
    for name, row in times.items():
        if not row.failure:
            medians = [f"{row.median_of(part):.1f}" for part in PARTS]
            print(f"| `{name}` | {' | '.join(medians)} |")


def write_times(
    path: Path, limits: Mapping[str, float], found: Mapping[int, Mapping[str, StepTimes]]
) -> None:
    """All times, by number of images and recipe."""
    rows = {
        images: {name: dataclasses.asdict(row) for name, row in times.items()}
        for images, times in found.items()
    }
    about = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "ceilings": limits, "batches": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
