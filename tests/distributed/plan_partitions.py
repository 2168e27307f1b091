"""Run by the deepspeed launcher: writes how many elements each process updates, as DeepSpeed has
them and as a plan predicts them, into the folder that is its last argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prs_med.quiet import quieten

quieten()

from prs_med.model.initial_weights import initial_mllm, initial_segmentation  # noqa: E402
from prs_med.model.llava_layouts import read_layout  # noqa: E402
from prs_med.plan.candidates import candidates, workload  # noqa: E402
from prs_med.plan_config import PLAN_GROUPS, PlanSettings  # noqa: E402
from prs_med.settings_io import parse_training_settings_and  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.deepspeed_config import load_deepspeed_config  # noqa: E402
from prs_med.train.engines import Engines  # noqa: E402
from prs_med.train.zero_optimizer import flat_masters  # noqa: E402


def main() -> None:
    """Build the engines as training does, and compare."""
    *arguments, output = sys.argv[1:]
    settings, plan = parse_training_settings_and(PlanSettings, PLAN_GROUPS, arguments, "")
    rank = distributed.start()
    config = load_deepspeed_config(Path(settings.deepspeed), settings, rank.world)
    configs = {"given": load_deepspeed_config(Path(settings.deepspeed), settings, rank.world)}
    (candidate, *_) = candidates(settings, plan, configs, workload(settings, plan))
    predicted = candidate.memory(rank.world).shares()
    mllm = initial_mllm(settings, read_layout(settings.vlm_path))
    segmentation = initial_segmentation(settings, mllm.hidden_size, ("",) * 6)
    engines = Engines(mllm, segmentation, settings, config)
    found = [
        sum(master.numel() for master in flat_masters(engine.optimizer))
        for engine in engines.trained.values()
    ]
    result = json.dumps({"found": found, "predicted": predicted})
    Path(output, f"{rank.index}.json").write_text(result)
    distributed.stop()


if __name__ == "__main__":
    main()
