"""Plan a training: memory, time, traffic and money, before anything is rented.

python launch/plan.py --gpu a100-80 --gpus 8 --price 2.50
    What fits on which GPU, what to run, how long it takes and what it costs. Takes seconds on a
    laptop, without weights: the real model is built and run on shapes alone.

python launch/plan.py --gpu h100 --gpus 64 --encoder_type sam2 --lora_rank 64 --epochs 10
    All settings of launch/train.py are understood, from --config and --preset too, and count as
    there. With --deepspeed FILE this one file is planned for, and the settings exactly as given;
    otherwise those in ds_configs/ are compared.

python launch/plan.py --vlm_path DIR --sam_ckpt FILE --data s3://bucket/dataset
    Sizes are read from config.json, from the encoder's file and from dataset.json.

python launch/plan.py --check --vlm_path DIR --sam_ckpt FILE --data URI --checkpoint_uri URI
    Where training will run: are versions, GPUs, storage, data and model as they should be? Each
    line says pass, warn or fail, and what to do. Under deepspeed, torchrun or srun the
    communication between the processes is tested too.

Times are ranges between what good kernels reach and what is still ordinary; nothing of this was
measured on a GPU yet (docs/scale.md says what is modelled and how). Exit status: 0 done, 1 --check
found a failure or nothing fits, 2 a mistake in settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prs_med.checked_settings import SettingError
from prs_med.config import Settings
from prs_med.plan_config import PLAN_GROUPS, PlanSettings
from prs_med.programs.program import REPOSITORY, program
from prs_med.settings_io import parse_training_settings_and
from prs_med.train.deepspeed_config import load_deepspeed_config

CONFIGS = REPOSITORY / "ds_configs"
SIMPLEST_FIRST = ("zero2.json", "zero3.json", "zero2_offload.json", "zero3_offload.json")


@program
def main(argv: Sequence[str]) -> int:
    """Run and return the exit status."""
    settings, plan = parse_training_settings_and(
        PlanSettings, PLAN_GROUPS, argv, __doc__ or "", "python launch/plan.py"
    )
    return check(settings, plan) if plan.check else show_plan(settings, plan)


def show_plan(settings: Settings, plan: PlanSettings) -> int:
    """Make a plan and print it."""
    from prs_med.plan.planning import make_plan
    from prs_med.plan.report import report

    made = make_plan(settings, plan, configurations(settings, plan))
    print(report(made))
    if plan.json:
        try:
            Path(plan.json).write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingError(
                f"--json {plan.json}: cannot be written ({error.strerror})"
            ) from None
    return 0 if made.recommended else 1


def configurations(settings: Settings, plan: PlanSettings) -> dict[str, dict[str, Any]]:
    """The DeepSpeed configurations to choose from, by the name of their file."""
    if settings.deepspeed:
        path = Path(settings.deepspeed)
        return {path.name: load_deepspeed_config(path, settings, plan.gpus)}
    # Compared are 4 bits too, which go where 8 bits do not.
    settings = replace(settings, load_8bit=False)
    return {
        name: load_deepspeed_config(CONFIGS / name, settings, plan.gpus) for name in SIMPLEST_FIRST
    }


def check(settings: Settings, plan: PlanSettings) -> int:
    """Test the surroundings and print what was found."""
    from prs_med.plan.surroundings import check_surroundings

    return check_surroundings(settings, plan)
