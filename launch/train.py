"""Train PRS-Med: ``deepspeed launch/train.py --deepspeed ds_configs/zero2.json ...``

Settings come from the command line, from a YAML file (--config) and from a loss recipe (--preset),
the first of these that names a setting wins.
"""

from __future__ import annotations

import sys

from prs_med.quiet import quieten

quieten()

from prs_med.checkpoint.errors import BrokenCheckpointError  # noqa: E402
from prs_med.config import SettingError  # noqa: E402
from prs_med.data.records import DataError  # noqa: E402
from prs_med.model.errors import CheckpointError  # noqa: E402
from prs_med.settings_io import parse_training_settings  # noqa: E402
from prs_med.storage.store import StorageError  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.checkpoints import Superseded  # noqa: E402
from prs_med.train.loop import TrainingStopped  # noqa: E402
from prs_med.train.run import run  # noqa: E402

GO_ON_LATER = 75
"""EX_TEMPFAIL of sysexits.h: what a batch script puts into the queue again."""


def main() -> int:
    """Run and return the exit status: 0 done, 2 a mistake in settings or data, 3 stopped, 75 saved
    after a signal and to be started again."""
    try:
        signal = run(parse_training_settings(sys.argv[1:], __doc__ or ""))
        if signal:
            print(f"saved after {signal}; the same command with --resume auto goes on",
                  file=sys.stderr)  # fmt: skip
            return GO_ON_LATER
    except (SettingError, DataError, CheckpointError, BrokenCheckpointError, StorageError) as error:
        # From a loader's worker process, the message comes behind that process's traceback.
        line = str(error).strip().splitlines()[-1]
        kind = type(error)
        print(
            f"error: {line.removeprefix(f'{kind.__module__}.{kind.__name__}: ')}", file=sys.stderr
        )
        return 2
    except (TrainingStopped, Superseded) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    finally:
        distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
