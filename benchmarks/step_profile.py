"""Where a step's time goes: kernel by kernel on a GPU, operation by operation on a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.step_recipes import Variant
from prs_med.batch import Batch

ROWS = 60
NAME_WIDTH = 90


def write_profile(path: Path, variant: Variant, batch: Batch) -> None:
    """Profile one forward and backward pass: a table of kernels on a GPU, else of operations."""
    on_gpu = batch.input_ids.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        variant.run(batch)
        if on_gpu:
            torch.cuda.synchronize()
    for parameter in variant.parameters():
        parameter.grad = None
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table = found.key_averages().table(
        sort_by=order, row_limit=ROWS, max_name_column_width=NAME_WIDTH
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table, encoding="utf-8")
