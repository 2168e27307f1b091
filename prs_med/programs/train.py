"""Train PRS-Med.

Example: deepspeed launch/train.py --deepspeed ds_configs/zero2.json --data_root data/posmed \\
    --vlm_path microsoft/llava-med-v1.5-mistral-7b --sam_ckpt weights/tinysam_42.3.pth

Settings come from the command line, from a YAML file (--config) and from a loss recipe (--preset),
the first of these that names a setting wins. Exit status: 0 done, 2 a mistake in settings or data,
3 stopped, 75 to be started again: saved after a signal, or storage was away.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from prs_med.config import Settings
from prs_med.programs.program import GO_ON_LATER, MISTAKES, program, refused
from prs_med.settings_io import parse_training_settings
from prs_med.storage.results_folder import check_folder

STOPPED = 3
"""Exit status of a training that cannot usefully go on."""


@program
def main(argv: Sequence[str]) -> int:
    """Run and return the exit status: 0 done, 2 a mistake in settings or data, 3 stopped, 75 to be
    started again."""
    settings = parse_training_settings(argv, __doc__ or "", "deepspeed launch/train.py")
    settings.require()
    return train(settings)


def train(settings: Settings) -> int:
    """Train as the settings say; the exit status."""
    check_folder("save_dir", settings.save_dir)
    from prs_med.train import distributed
    from prs_med.train.checkpoints import Superseded
    from prs_med.train.loop import TrainingStopped
    from prs_med.train.run import run

    try:
        # What is said of a training stands on stderr. Parts of DeepSpeed print.
        with contextlib.redirect_stdout(sys.stderr):
            signal = run(settings)
        if signal:
            print(f"saved after {signal}; the same command with --resume auto goes on",
                  file=sys.stderr)  # fmt: skip
            return GO_ON_LATER
    except MISTAKES as error:
        # Told before the group is left, which may take a while.
        return refused(error)
    except (TrainingStopped, Superseded) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return STOPPED
    finally:
        distributed.stop()
    return 0
