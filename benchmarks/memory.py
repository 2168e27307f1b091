"""The largest micro-batch on cards of several sizes, beside what the planner predicts of it.

    python benchmarks/memory.py             # needs a GPU; smaller cards are caps on its memory
    python benchmarks/memory.py --bases nf4 --cards l4

Models of published size with random weights take whole training steps (PyTorch's AdamW, sequences
of 676 tokens) with so much memory as the card would leave: its size without what CUDA takes here
outside of PyTorch. What DeepSpeed's engines keep besides by the planner's count is held by a tensor
of that size. `lasting` is what is held between two steps without it, `per sample` how much more
each sample of the micro-batch needs at the worst moment, both in GB, measured (predicted, without
allowances). Batches are the largest that fits (the planner's, with its allowances).
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# So that what one size has given back is of use to the next.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prs_med.quiet import quieten  # noqa: E402

quieten()

from benchmarks.step_model import (  # noqa: E402
    ANSWER,
    PUBLISHED_SIDE,
    QUESTION,
    TEMPLATE,
    published_model,
    random_batch,
)
from prs_med.config import Settings  # noqa: E402
from prs_med.model.objective import loss_terms  # noqa: E402
from prs_med.model.prs_med import forward  # noqa: E402
from prs_med.plan.candidates import Candidate, candidates, workload  # noqa: E402
from prs_med.plan.hardware import CARDS, COMPARED  # noqa: E402
from prs_med.plan.memory import Memory  # noqa: E402
from prs_med.plan.meta_model import MetaModel  # noqa: E402
from prs_med.plan_config import PlanSettings  # noqa: E402
from prs_med.train.deepspeed_config import load_deepspeed_config  # noqa: E402

BASES = ("bf16", "nf4")
CONFIG = "zero2.json"
PROBES = (1, 3)
"""Micro-batches that `per sample` is measured with."""


def main() -> None:
    """Print a table, one process after the other for each base."""
    options = parser().parse_args()
    if options.be:
        for line in rows(options):
            print(line, flush=True)
        return
    if not torch.cuda.is_available():
        sys.exit("there is no GPU; launch/plan.py predicts what fits on which")
    cards = options.cards.split(",")
    print(f"| base | checkpointing | lasting | per sample | {' | '.join(cards)} |")
    print(f"|---|---|---|---|{len(cards) * '---|'}", flush=True)
    for base in options.bases.split(","):
        subprocess.run([sys.executable, *sys.argv, "--be", base], check=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--bases", default=",".join(BASES), help=f"of {', '.join(BASES)}")
    made.add_argument("--cards", default=",".join(COMPARED), help=f"of {', '.join(CARDS)}")
    made.add_argument(
        "--checkpointing", default="no,encoder,both", help="of no, encoder, both (default: all)"
    )
    made.add_argument("--most", type=int, default=90, help="largest batch tried (default: 90)")
    made.add_argument("--be", choices=BASES, help=argparse.SUPPRESS)
    return made


def rows(options: argparse.Namespace) -> Iterator[str]:
    """Of the table, for one base."""
    trial = Trial(options.be)
    for candidate in planned(options.be):
        if candidate.checkpointing.title not in options.checkpointing.split(","):
            continue
        trial.recompute(candidate)
        predicted = candidate.memory(1)
        lasting, more = (counted(predicted.at(batch)) for batch in (0, 1))
        held = trial.lasting()
        trial.hold(lasting)
        cells = [
            candidate.checkpointing.title,
            f"{held / 1e9:.1f} ({lasting / 1e9:.1f})",
            f"{trial.per_sample() / 1e9:.2f} ({(more - lasting) / 1e9:.2f})",
        ]
        for card in options.cards.split(","):
            expected = predicted.largest_batch(CARDS[card].memory)
            found = trial.largest(CARDS[card].memory, expected, options.most)
            cells.append(f"{found} ({expected})")
        yield f"| {options.be} | {' | '.join(cells)} |"


def planned(base: str) -> Iterator[Candidate]:
    """By what is computed again, as ``launch/plan.py`` has them for one process."""
    settings = Settings(image_size=PUBLISHED_SIDE)
    plan = PlanSettings(gpus=1, prompt_text_tokens=1 + TEMPLATE + QUESTION, answer_tokens=ANSWER)
    loaded = {CONFIG: load_deepspeed_config(ROOT / "ds_configs" / CONFIG, settings, 1)}
    for candidate in candidates(settings, plan, loaded, workload(settings, plan)):
        if candidate.base == base:
            yield candidate


def counted(memory: Memory) -> float:
    """Bytes without the planner's allowances."""
    return sum(size for name, size in memory.parts.items() if not name.startswith("allowance"))


def largest_that_fits(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest number up to ``most`` that fits, 0 if none does; ``start`` is near it."""
    least, too_many = 0, most + 1
    at, pace = max(1, start), max(1, start // 12)
    while too_many - least > 1:
        if fits(at):
            least = at
        else:
            too_many = at
        if least and too_many <= most:
            at = (least + too_many) // 2
        else:
            at = min(least + pace, most) if least else max(1, too_many - pace)
            pace *= 2
    return least


def own_bytes() -> int:
    """What this process holds of the GPU's memory, CUDA's own included; where the driver does not
    tell, what all processes hold."""
    import pynvml  # in requirements-gpu.txt

    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
    except pynvml.NVMLError:
        running = []
    for process in running:
        if process.pid == os.getpid() and process.usedGpuMemory:
            return int(process.usedGpuMemory)
    free, total = torch.cuda.mem_get_info()
    return total - free


class Trial:
    """A model that takes steps in as much memory as it is told to have."""

    def __init__(self, base: str) -> None:
        self._device = torch.device("cuda")
        self._model: MetaModel = published_model(self._device, load_4bit=base == "nf4")
        modules = (self._model.mllm, self._model.segmentation)
        self._trained = [p for m in modules for p in m.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=0.0, fused=True)
        self._ballast = torch.empty(0)
        self._step(1)
        torch.cuda.empty_cache()
        self._total = torch.cuda.mem_get_info()[1]
        self._outside = own_bytes() - torch.cuda.memory_reserved()

    def recompute(self, candidate: Candidate) -> None:
        """What the candidate does; candidates compute more again from one to the next."""
        if candidate.settings.encoder_checkpointing:
            self._model.segmentation.recompute_encoder()
        if candidate.settings.gradient_checkpointing:
            self._model.mllm.llava.model.language_model.gradient_checkpointing_enable(
                {"use_reentrant": False}
            )

    def hold(self, lasting: float) -> None:
        """Hold so much between two steps, if it is more than is held anyway."""
        missing = max(0, int(lasting) - self.lasting())
        self._ballast = torch.empty(missing, dtype=torch.uint8, device=self._device)

    def lasting(self) -> int:
        """Bytes that are held between two steps, besides what :meth:`hold` adds."""
        gc.collect()
        return torch.cuda.memory_allocated() - self._ballast.nbytes

    def per_sample(self) -> float:
        """Bytes that a sample more needs at the worst moment."""
        peaks = []
        for batch in PROBES:
            torch.cuda.reset_peak_memory_stats()
            self._step(batch)
            peaks.append(torch.cuda.max_memory_allocated())
        return (peaks[1] - peaks[0]) / (PROBES[1] - PROBES[0])

    def largest(self, card: int, start: int, most: int) -> str:
        """The largest batch that fits on a card with so many bytes, looked for from ``start``."""
        share = min(1.0, (card - self._outside) / self._total)
        torch.cuda.set_per_process_memory_fraction(share)
        try:
            if start > most:
                return "not tried"
            found = largest_that_fits(self._fits, start, most)
            return f"at least {found}" if found == most else str(found)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def _fits(self, batch: int) -> bool:
        torch.cuda.empty_cache()
        try:
            self._step(batch)
        except torch.OutOfMemoryError:
            self._optimizer.zero_grad(set_to_none=True)
            return False
        return True

    def _step(self, batch: int) -> None:
        data = random_batch(batch, 1, PUBLISHED_SIDE).to(self._device)
        outputs = forward(self._model.mllm, self._model.segmentation, data)
        terms = loss_terms(outputs, data, self._model.settings)
        terms.total(self._model.settings, 0.0, data).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
