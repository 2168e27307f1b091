"""Run by the deepspeed launcher: writes what each process holds while the model is loaded and the
engines start, into the folder that is its last argument.

Before it stand a small and a large language model, the encoder and the DeepSpeed file.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from pathlib import Path
from typing import Any

from prs_med.quiet import quieten

quieten()

import torch  # noqa: E402
from bitsandbytes.nn import Params4bit  # noqa: E402

from prs_med.config import Settings  # noqa: E402
from prs_med.model.initial_weights import initial_mllm, initial_segmentation  # noqa: E402
from prs_med.model.llava_layouts import read_layout  # noqa: E402
from prs_med.train import distributed, engines, partition  # noqa: E402
from prs_med.train.deepspeed_config import load_deepspeed_config  # noqa: E402
from prs_med.train.engines import Engines  # noqa: E402
from prs_med.train.partition import is_partitioned  # noqa: E402


class Peak:
    """The most memory of its own that this process has from now on, beyond what it has now."""

    def __init__(self) -> None:
        gc.collect()
        self._before = own_bytes()
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """The most there was, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self._most = max(self._most, own_bytes() - self._before)


def own_bytes() -> int:
    """Memory that is no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the kernel tells nothing about RssAnon")


def start(vlm_path: str, sam_ckpt: str, deepspeed: str, load_4bit: bool = False) -> Engines:
    """Load and start as training does."""
    settings = Settings(
        vlm_path=vlm_path, sam_ckpt=sam_ckpt, deepspeed=deepspeed, image_size=64, batch_size=1,
        load_4bit=load_4bit,
    )  # fmt: skip
    world = torch.distributed.get_world_size()
    config = load_deepspeed_config(Path(settings.deepspeed), settings, world)
    mllm = initial_mllm(settings, read_layout(vlm_path), on_host=is_partitioned(config))
    segmentation = initial_segmentation(settings, mllm.hidden_size, ("",) * 6)
    return Engines(mllm, segmentation, settings, config)


def whole_layers_at_a_time(*arguments: str) -> list[int]:
    """How many layers in 4 bits are quantised and not divided yet, before each parameter moves."""
    found = []
    layers: list[Params4bit] = []
    of_module, move = engines.partition, partition._move

    def noting(module: torch.nn.Module, config: dict[str, Any]) -> None:
        layers.extend(p for p in module.parameters() if isinstance(p, Params4bit))
        of_module(module, config)

    def counting(parameter: torch.nn.Parameter, *more: Any) -> None:
        found.append(sum(bool(layer.bnb_quantized and layer.numel()) for layer in layers))
        move(parameter, *more)

    engines.partition, partition._move = noting, counting
    start(*arguments, load_4bit=True)
    engines.partition, partition._move = of_module, move
    assert all(layer.bnb_quantized for layer in layers)
    return found


def main() -> None:
    """Start small models first, so that what is imported and allocated once is there."""
    small, large, sam_ckpt, deepspeed, output = sys.argv[-5:]
    rank = distributed.start()
    layers = whole_layers_at_a_time(small, sam_ckpt, deepspeed)
    peak = Peak()
    parameters = list(start(large, sam_ckpt, deepspeed).language_model.parameters())
    found = {
        "layers": layers,
        "peak": peak.end(),
        "share": sum(p.ds_tensor.nbytes for p in parameters),
        "whole": sum(p.ds_numel * p.element_size() for p in parameters),
    }
    Path(output, f"{rank.index}.json").write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
