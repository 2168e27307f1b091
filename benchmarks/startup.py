"""What it takes to start: seconds and memory until the language model is ready to train.

    python benchmarks/startup.py

Writes random bf16 weights as wide as LLaVA-Med v1.5, with fewer layers, and loads them in real
DeepSpeed processes, as training does, under ZeRO-2 and ZeRO-3, also with a 4-bit base. Memory
is what a process holds for itself (`Anonymous` of /proc/self/smaps_rollup) beyond what it held
before, in shares of the weights in the files. Pages of the files are not in it: they are the
kernel's, there once for all processes of a machine, and given up when memory is short. `cold` reads
the files from the disk, `warm` from the kernel's cache. On a GPU, the time of the engine is that
until the weights are there, and `GPU` the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prs_med.quiet import quieten

quieten()

import deepspeed  # noqa: E402

from prs_med.config import Settings  # noqa: E402
from prs_med.model.initial_weights import initial_mllm  # noqa: E402
from prs_med.model.llava_layouts import read_layout  # noqa: E402
from prs_med.plan.published import published_layout  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.partition import is_partitioned, partition  # noqa: E402

CASES = {
    "zero2": (2, False),
    "zero3": (3, False),
    "zero2_4bit": (2, True),
    "zero3_4bit": (3, True),
}
"""Stage, and whether the base is kept in 4 bits."""
SHARD = 2 * 10**9


def main() -> None:
    """Print a table, or be one of the processes that it is about."""
    options = parser().parse_args()
    if options.be:
        row = json.dumps(start(Path(options.weights), *CASES[options.be]))
        print(
            f"{json.dumps(start(Path(options.weights), *CASES[options.be]))}\n", end="", flush=True
        )
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        size = write_weights(Path(folder), options.layers)
        print(f"weights: {size / 1e9:.2f} GB, {options.layers} layers")
        print(
            "| case | files | process | load, s | engine, s | peak while loading | peak in all "
            "| GPU |\n|---|---|---|---|---|---|---|---|"
        )
        for case in options.cases:
            for files in options.files:
                if files == "cold":
                    forget(Path(folder))
                for rank, row in enumerate(processes(case, folder, options.processes)):
                    shares = (f"{row[key] / size:.2f}" for key in ("loading", "all", "gpu"))
                    print(
                        f"| {case} | {files} | {rank} | {row['load_s']:.1f} "
                        f"| {row['engine_s']:.1f} | {' | '.join(shares)} |",
                        flush=True,
                    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--layers", type=int, default=8, help="of the published 32 (default: 8)")
    made.add_argument("--processes", type=int, default=2)
    for name, allowed in (("--files", ("cold", "warm")), ("--cases", tuple(CASES))):
        made.add_argument(
            name,
            type=partial(some_of, allowed),
            default=allowed,
            help=f"comma-separated, of {', '.join(allowed)} (default: all)",
        )
    made.add_argument("--folder", help="where the weights are written for the time being")
    made.add_argument("--be", choices=CASES, help=argparse.SUPPRESS)
    made.add_argument("--weights", help=argparse.SUPPRESS)
    made.add_argument("--local_rank", help=argparse.SUPPRESS)
    return made


def some_of(allowed: Sequence[str], text: str) -> Sequence[str]:
    """Names that are separated by commas.

    Raises:
        argparse.ArgumentTypeError: one of them is not allowed.
    """
    names = text.split(",")
    for name in names:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"{name}: allowed are {', '.join(allowed)}")
    return names


def write_weights(folder: Path, layers: int) -> int:
    """Random ones, shard by shard; their bytes. A GPU draws them, if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = published_layout().config
    config.text_config.num_hidden_layers = layers
    with torch.device("meta"):
        model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}
    total = 0
    for name, shape in ((n, t.shape) for n, t in model.state_dict().items()):
        drawn = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=0.02)
        shard[name] = drawn.cpu()
        weight_map[name] = f"model-{total // SHARD:05d}.safetensors"
        total += shard[name].nbytes
        if total // SHARD != (total - shard[name].nbytes) // SHARD:
            save_file(shard, folder / weight_map[name])
            shard = {}
    if shard:
        save_file(shard, folder / list(weight_map.values())[-1])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(
        json.dumps(config.to_dict() | {"architectures": ["LlavaForConditionalGeneration"]})
    )
    return total


def forget(folder: Path) -> None:
    """Let the kernel drop the files from its cache."""
    os.sync()
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def processes(case: str, folder: str, count: int) -> list[dict[str, float]]:
    """Start them, and what each found."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"),
            *("--num_gpus", str(count), "--master_port", "29655"),
            *(__file__, "--be", case, "--weights", folder),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(found) != count:
        sys.exit(done.stderr)
    return sorted(found, key=lambda row: row["rank"])


class Peak:
    """The most that this process holds for itself from now on, looked at every 20 ms."""

    def __init__(self) -> None:
        self._before = own_bytes()
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def look(self) -> int:
        """The most so far."""
        self.most = max(self.most, own_bytes() - self._before)
        return self.most

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.02)


def own_bytes() -> int:
    """Memory that is neither a file's nor another process's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the kernel tells nothing about Anonymous memory")


def start(weights: Path, stage: int, load_4bit: bool) -> dict[str, float]:
    """Load and partition, as training does."""
    distributed.start()
    on_gpu = torch.cuda.is_available()
    settings = Settings(data="none", sam_ckpt="none", vlm_path=str(weights), load_4bit=load_4bit)
    peak = Peak()
    begun = time.perf_counter()
    layout = read_layout(settings.vlm_path)
    mllm = initial_mllm(settings, layout, on_host=stage == 3)
    loaded = time.perf_counter()
    loading = peak.look()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
    }
    trained = [p for p in mllm.parameters() if p.requires_grad]
    if is_partitioned(config):
        partition(mllm, config)
    elif not load_4bit:
        mllm.use_one_precision()
    deepspeed.initialize(
        model=mllm,
        optimizer=torch.optim.AdamW(trained),
        config=config,
        dist_init_required=False,
    )
    if on_gpu:
        torch.cuda.synchronize()
    return {
        "rank": torch.distributed.get_rank(),
        "load_s": loaded - begun,
        "engine_s": time.perf_counter() - loaded,
        "loading": loading,
        "all": peak.look(),
        "gpu": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


if __name__ == "__main__":
    main()
