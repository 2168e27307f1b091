"""What saving costs: checkpoints of this project beside torch.save, DeepSpeed's and PyTorch's.

    deepspeed --num_gpus 2 benchmarks/checkpoint.py --stage 2
    deepspeed --num_gpus 2 benchmarks/checkpoint.py --stage 3

(--num_gpus is the number of processes, also on a CPU.) All methods save the state of one DeepSpeed
engine, in another order every round, so that what else the machine does meets all of them.
No language model is needed: the trained tensors are random, in the shapes of a full run (LoRA of
rank 16 on q, k, v and o of Mistral-7B's 32 layers, TinySAM's encoder, mask decoder, modality head).
Frozen bf16 tensors of --frozen_mb stand for the language model, which has about 15 GB: what saves
them would take that much more.

Measured of each save, the slowest process counting:

- blocked: until the call returned, so that the weights may change;
- complete: from the start until the last byte was handed to the file system and every process had
  been heard of, while training steps run. Ours and DCP bring each file to disk before (fsync),
  torch.save and DeepSpeed do not, so 'then fsync' says what that takes after the steps;
- steps after: --steps training steps (forward, backward, AdamW) right after the call returned, less
  the same steps without a save in the same round. On a CPU the background work takes cores from
  training, which it does not where a GPU computes;
- CPU time: of all processes until both are over, less that of the same steps without a save.

The next save begins after the last one is complete and removed. The first save of each method is
reported by itself, since memory is set aside then. 'DCP, kept stager' is DCP as its documentation
recommends: the staging memory is kept between saves, and pinned on a GPU, as ours is.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prs_med.quiet import quieten

quieten()

import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributed.checkpoint import async_save  # noqa: E402
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # noqa: E402

from prs_med.checkpoint.directory_place import DirectoryPlace  # noqa: E402
from prs_med.checkpoint.manifest import CheckpointName  # noqa: E402
from prs_med.checkpoint.saver import Saver  # noqa: E402
from prs_med.checkpoint.snapshot import Snapshot  # noqa: E402
from prs_med.model.encoders.tinyvit import TinyVit  # noqa: E402
from prs_med.model.segmentation import SegmentationBranch  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.engine_state import MOMENTS, EngineState  # noqa: E402
from prs_med.train.zero_optimizer import flat_masters  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
OURS, NOTHING = "prs_med", "no save"
SAVE_EVERY = 10
"""Steps between two saves, where the share of training time is given."""

Finish = Callable[[], float]
"""Waits for a save; gives the time.monotonic() at which it was complete."""
Save = Callable[[Path, int], Finish]
"""Saves to a folder of its own, with a number; returns as soon as the weights may change."""


def main() -> None:
    """Measure all methods in turns, print a table and write results-zeroN.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", default="runs/checkpoint-benchmark", help="checkpoints go here")
    parser.add_argument("--stage", type=int, choices=(2, 3), default=2, help="ZeRO stage")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frozen_mb", type=int, default=500, help="megabytes of frozen weights")
    parser.add_argument("--steps", type=int, default=3, help="training steps after each save")
    parser.add_argument(
        "--step_ms", type=float, default=1000.0, help="an assumption: a real training step"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rank = distributed.start()
    output = Path(arguments.output).resolve() / f"zero{arguments.stage}"
    distributed.once(lambda: check_disk(output, arguments.frozen_mb))
    engine = start_engine(arguments.stage, arguments.frozen_mb)
    methods = start_methods(engine, output)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    order = random.Random(0)
    for number in range(arguments.rounds + 1):  # The first is for warming up.
        for name in order.sample(list(methods), len(methods)):
            result = measure(engine, methods[name], output / name, number, arguments.steps)
            results[name].append(result)
            if rank.index == 0:
                figures = ", ".join(f"{key} {value:.3f}" for key, value in result.items())
                print(f"round {number} {name}: {figures}", flush=True)
    if rank.index == 0:
        found = {"settings": {**vars(arguments), "processes": rank.world}, "results": results}
        path = output.parent / f"results-zero{arguments.stage}.json"
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(report(results, engine, arguments, rank.world))
        shutil.rmtree(output)
    distributed.stop()


def check_disk(output: Path, frozen_mb: int) -> None:
    """End if the largest checkpoint might not fit."""
    output.mkdir(parents=True, exist_ok=True)
    needed = 2 * (frozen_mb + 400) * 10**6
    if shutil.disk_usage(output).free < needed:
        raise SystemExit(f"{output}: needs {needed / 1e9:.1f} GB free")


# What is saved.


class Weights(nn.Module):
    """Trained tensors that each contribute to the loss, so that all have a gradient."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        for number, shape in enumerate(shapes):
            self.register_parameter(f"w{number}", nn.Parameter(0.02 * torch.randn(shape)))

    def forward(self) -> Tensor:
        """A number that depends on all of them."""
        return torch.stack([p.float().square().sum() for p in self.parameters()]).sum()


class Model(nn.Module):
    """Everything that a full run trains, and frozen tensors."""

    def __init__(self, frozen_mb: int) -> None:
        super().__init__()
        with torch.device("meta"):
            branch = SegmentationBranch(TinyVit(), 4096, 8, 0.1)
        lora: list[tuple[int, ...]] = [
            shape
            for outputs in (4096, 1024, 1024, 4096)  # q, k, v, o
            for shape in ((16, 4096), (outputs, 16))
        ]
        parts: list[nn.Module] = [branch.image_encoder, branch.mask_decoder, branch.cls]
        shapes = [[tuple(p.shape) for p in part.parameters()] for part in parts]
        self.trained = nn.ModuleList(Weights(part) for part in [*([lora] * 32), *shapes])
        count = round(frozen_mb * 10**6 / (2 * 4096 * 4096))
        self.frozen = nn.ParameterList(
            nn.Parameter(torch.randn(4096, 4096, dtype=torch.bfloat16), requires_grad=False)
            for _ in range(count)
        )

    def forward(self) -> Tensor:
        """A loss."""
        return torch.stack([part() for part in self.trained]).sum()


def start_engine(stage: int, frozen_mb: int) -> Any:
    """A DeepSpeed engine as in training, two steps old, so that AdamW has its moments."""
    config = json.loads((ROOT / f"ds_configs/zero{stage}.json").read_text(encoding="utf-8"))
    config |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    torch.manual_seed(0)
    model = Model(frozen_mb)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1e-5),
        config=config,
        dist_init_required=False,
    )
    train(engine, 2)
    return engine


def train(engine: Any, steps: int) -> None:
    """Some steps of training."""
    for _ in range(steps):
        engine.backward(engine())
        engine.step()


def trained_state(engine: Any) -> dict[str, Tensor]:
    """Masters and moments that this process owns, under names that no other process uses."""
    adam = engine.optimizer.optimizer.state
    return {
        f"{dist.get_rank()}/{number}/{kind}": tensor.detach()
        for number, master in enumerate(flat_masters(engine.optimizer))
        for kind, tensor in (("master", master), *((kind, adam[master][kind]) for kind in MOMENTS))
    }


# How it is saved.


def start_methods(engine: Any, output: Path) -> dict[str, Save | None]:
    """All methods by name; None does not save."""
    group = dist.new_group(backend="gloo")
    on_gpu = torch.cuda.is_available()
    kept = DefaultStager(
        StagingOptions(
            use_pinned_memory=on_gpu,
            use_shared_memory=False,
            use_async_staging=False,
            use_non_blocking_copy=on_gpu,
        )
    )
    return {
        NOTHING: None,
        OURS: save_ours(engine, output / OURS),
        "torch.save": save_plainly(engine),
        "DeepSpeed": save_by_deepspeed(engine, exclude_frozen=False),
        "DeepSpeed, exclude_frozen_parameters": save_by_deepspeed(engine, exclude_frozen=True),
        "DCP async_save": save_by_dcp(engine, group, None),
        "DCP async_save, kept stager": save_by_dcp(engine, group, kept),
    }


def save_ours(engine: Any, folder: Path) -> Save:
    """As in training."""
    state = EngineState(engine, None)
    saver = Saver(DirectoryPlace(folder), dist.get_rank(), dist.get_world_size(), "benchmark")

    def save(folder: Path, number: int) -> Finish:
        snapshot = Snapshot({"mllm": state.snapshot()})
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun = time.monotonic()
        saver.save(CheckpointName(1, number), snapshot)

        def finish() -> float:
            outcome = saver.wait()
            assert outcome is not None
            assert not outcome.error, outcome.error
            return begun + outcome.seconds

        return finish

    return save


def save_plainly(engine: Any) -> Save:
    """One file for each process."""

    def save(folder: Path, number: int) -> Finish:
        torch.save(trained_state(engine), folder / f"{dist.get_rank()}.pt")
        return time.monotonic

    return at_once(save)


def save_by_deepspeed(engine: Any, *, exclude_frozen: bool) -> Save:
    """DeepSpeed's own."""

    def save(folder: Path, number: int) -> Finish:
        engine.save_checkpoint(folder, str(number), exclude_frozen_parameters=exclude_frozen)
        return time.monotonic

    return at_once(save)


def at_once(save: Save) -> Save:
    """For methods that are complete when they return."""

    def timed(folder: Path, number: int) -> Finish:
        save(folder, number)
        ended = time.monotonic()
        return lambda: ended

    return timed


def save_by_dcp(engine: Any, group: Any, stager: DefaultStager | None) -> Save:
    """PyTorch's distributed checkpoints, which need a process group on the CPU."""

    def save(folder: Path, number: int) -> Finish:
        ended: queue.SimpleQueue[float] = queue.SimpleQueue()
        future = async_save(
            trained_state(engine),
            checkpoint_id=folder / str(number),
            process_group=group,
            async_stager=stager,
        )
        assert isinstance(future, Future), "staging is over"
        future.add_done_callback(lambda _: ended.put(time.monotonic()))

        def finish() -> float:
            future.result()
            return ended.get()

        return finish

    return save


# Measuring.


def measure(
    engine: Any, save: Save | None, folder: Path, number: int, steps: int
) -> dict[str, float]:
    """Seconds of one save and of the steps after it, and the bytes that it left."""
    distributed.once(lambda: folder.mkdir(exist_ok=True))
    synchronise()
    distributed.barrier()
    begun, worked = time.monotonic(), time.process_time()
    finish = save(folder, number) if save else lambda: begun
    synchronise()
    blocked = time.monotonic() - begun
    train(engine, steps)
    synchronise()
    after = time.monotonic() - begun - blocked
    complete = finish() - begun
    cpu = torch.tensor(time.process_time() - worked, device=engine.device)
    dist.all_reduce(cpu)
    seconds = torch.tensor([blocked, after, complete], device=engine.device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    size, on_disk = distributed.once(lambda: bring_to_disk(folder))
    distributed.once(lambda: shutil.rmtree(folder))
    blocked, after, complete = seconds.tolist()
    return {
        "blocked": blocked,
        "steps": after,
        "complete": complete,
        "fsync": on_disk,
        "cpu": float(cpu),
        "bytes": size,
    }


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bring_to_disk(folder: Path) -> tuple[int, float]:
    """Bytes in a folder, and the seconds that an fsync of all of them takes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    begun = time.monotonic()
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return sum(path.stat().st_size for path in files), time.monotonic() - begun


def report(
    results: dict[str, list[dict[str, float]]],
    engine: Any,
    arguments: argparse.Namespace,
    processes: int,
) -> str:
    """Medians without the first save, and of the ratios within each round."""
    quiet, ours = results[NOTHING][1:], results[OURS][1:]
    steps = [run["steps"] for run in quiet]
    lines = [
        f"ZeRO-{arguments.stage}, {processes} processes on {engine.device}, medians of "
        f"{arguments.rounds} rounds. {arguments.steps} steps of the benchmark take "
        f"{statistics.median(steps):.2f} s ({min(steps):.2f} to {max(steps):.2f}) without a save.",
        f"Random weights; {arguments.frozen_mb} MB of them frozen, where a real run has about "
        "15 GB. The share of training",
        f"is that of a save every {SAVE_EVERY} steps of {arguments.step_ms:.0f} ms, which is an "
        "assumption.",
        "",
        "| method | blocked, ms (range) | this / ours | first save, ms | share of training blocked "
        "| MB | complete after, s | then fsync, s | steps after take longer by, s | CPU time, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (first, *runs) in results.items():
        if name == NOTHING:
            continue
        blocked = [1000 * run["blocked"] for run in runs]
        middle = statistics.median(blocked)
        ratio = statistics.median(
            a["blocked"] / b["blocked"] for a, b in zip(runs, ours, strict=True)
        )
        longer, cpu = (
            statistics.median(a[key] - b[key] for a, b in zip(runs, quiet, strict=True))
            for key in ("steps", "cpu")
        )
        share = middle / (middle + SAVE_EVERY * arguments.step_ms)
        complete, fsync = (statistics.median(r[key] for r in runs) for key in ("complete", "fsync"))
        lines.append(
            f"| {name} | {middle:.0f} ({min(blocked):.0f} to {max(blocked):.0f}) | {ratio:.1f} "
            f"| {1000 * first['blocked']:.0f} | {share:.2%} | {runs[-1]['bytes'] / 1e6:.0f} "
            f"| {complete:.2f} | {fsync:.2f} | {longer:.2f} | {cpu:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
