"""What DeepSpeed's engines cost in a training step, in one process and in several.

    python benchmarks/engines.py

In each run, every process takes the same step of the same model in turn: without DeepSpeed (forward
and backward pass and PyTorch's AdamW, as benchmarks/step.py has it), and by both engines as
training does, under ZeRO-2 or ZeRO-3, with what the engines send between processes. Every step has
a batch of this size in each process, so more processes do more. On GPUs the model has its published
size; on a CPU it is the small one, each process on one core. Weights stay as they are: the learning
rate is 0.

Runs of different numbers of processes and of both stages take turns, too. A time is the median over
all rounds, of the slowest process in each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prs_med.quiet import quieten  # noqa: E402

quieten()

import torch.distributed as dist  # noqa: E402

from benchmarks.step_model import ModelSource, random_batch  # noqa: E402
from benchmarks.step_recipes import RECIPES, Variant  # noqa: E402
from prs_med.batch import Batch  # noqa: E402
from prs_med.model.objective import loss_terms  # noqa: E402
from prs_med.plan.meta_model import MetaModel  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.deepspeed_config import load_deepspeed_config  # noqa: E402
from prs_med.train.engines import Engines  # noqa: E402

CONFIGS = {"ZeRO-2": "zero2.json", "ZeRO-3": "zero3.json"}
WARM_UP = 2


@dataclass
class Times:
    """Milliseconds, one entry a round."""

    plain: list[float] = field(default_factory=list)
    """Without DeepSpeed."""
    engines: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Of each round."""
        return [one / plain for one, plain in zip(self.engines, self.plain, strict=True)]


def main() -> None:
    """Print a table, or be one of the processes that it is about."""
    options = parser().parse_args()
    if options.be:
        be_one(Path(options.be), options.config, options.batch, options.rounds)
        return
    counts = [int(count) for count in options.processes.split(",")]
    print_table(measured(counts, options.batch, options.rounds, options.repeats))


def print_table(found: Mapping[tuple[int, str], Times]) -> None:
    """By number of processes and configuration."""
    print("| processes | engines | ms without DeepSpeed | ms with it | ratio (range) |")
    print("|---|---|---|---|---|")
    for (count, name), times in found.items():
        ratios = times.ratios()
        print(
            f"| {count} | {name} | {statistics.median(times.plain):.0f} "
            f"| {statistics.median(times.engines):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--processes", default="1,2", help="numbers of processes (default: 1,2)")
    made.add_argument("--batch", type=int, default=1, help="samples of a step, in each process")
    made.add_argument("--rounds", type=int, default=8, help="timed in each run (default: 8)")
    made.add_argument("--repeats", type=int, default=3, help="runs of each number (default: 3)")
    made.add_argument("--be", help=argparse.SUPPRESS)
    made.add_argument("--config", choices=CONFIGS, help=argparse.SUPPRESS)
    made.add_argument("--local_rank", help=argparse.SUPPRESS)
    return made


def measured(
    counts: list[int], batch: int, rounds: int, repeats: int
) -> dict[tuple[int, str], Times]:
    """By number of processes and name of the configuration."""
    found = {(count, name): Times() for count in counts for name in CONFIGS}
    for _ in range(repeats):
        for (count, name), times in found.items():
            run = one_run(count, name, batch, rounds)
            times.plain += run["plain"]
            times.engines += run["engines"]
    return found


def one_run(processes: int, name: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Start processes that step together; the fields of :class:`Times`."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"),
                *("--num_gpus", str(processes), "--master_port", "29657"),
                *(__file__, "--be", folder, "--config", name),
                *("--batch", str(batch), "--rounds", str(rounds)),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            times: dict[str, list[float]] = json.loads(line)
            return times
    sys.exit(done.stdout + done.stderr)


def be_one(folder: Path, name: str, batch: int, rounds: int) -> None:
    """Of several processes; the first prints what they found."""
    rank = distributed.start()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    if not on_gpu:
        torch.set_num_threads(1)
    data, steps = None, {}
    for way in ("plain", "engines"):
        own = folder / f"{way}-{rank.index}"
        own.mkdir()
        models = ModelSource(device, own, small=not on_gpu)
        data = random_batch(batch, 1, models.side).to(device) if data is None else data
        if way == "plain":
            steps[way] = without_engines(Variant(RECIPES["ours"], models), data)
        else:
            model = models.model(batch_size=batch)
            steps[way] = with_engines(model, data, CONFIGS[name], rank.world)
    for _ in range(WARM_UP):
        for take in steps.values():
            take()
    times = [{way: timed(take, device) for way, take in steps.items()} for _ in range(rounds)]
    if rank.index == 0:
        print(json.dumps({way: [each[way] for each in times] for way in steps}), flush=True)
    distributed.stop()


def without_engines(variant: Variant, batch: Batch) -> Callable[[], object]:
    """PyTorch alone."""
    trained = [p for p in variant.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)

    def take() -> None:
        variant.run(batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return take


def with_engines(model: MetaModel, batch: Batch, config: str, world: int) -> Callable[[], object]:
    """As the training loop steps."""
    settings = model.settings
    path = ROOT / "ds_configs" / config
    engines = Engines(
        model.mllm, model.segmentation, settings, load_deepspeed_config(path, settings, world)
    )
    engines.train()

    def take() -> None:
        terms = loss_terms(engines.forward(batch), batch, settings)
        engines.backward(terms.total(settings, 0.0, batch))
        engines.step(0.0)

    return take


def timed(take: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of the slowest process, all of them starting together."""
    finish(device)
    dist.barrier()
    begun = time.perf_counter()
    take()
    finish(device)
    slowest = torch.tensor(1e3 * (time.perf_counter() - begun), device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def finish(device: torch.device) -> None:
    """All that has been asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
