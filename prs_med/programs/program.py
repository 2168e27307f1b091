"""What all programs have in common: quiet libraries, and what a user did wrong in one line."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prs_med.checked_settings import SettingError
from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.command_line import Answered
from prs_med.data.records import DataError
from prs_med.model.errors import CheckpointError
from prs_med.quiet import quieten
from prs_med.storage.store import StorageAwayError, StorageError

REPOSITORY = Path(__file__).resolve().parents[2]
"""Where ``launch/`` and ``ds_configs/`` lie."""
MISTAKE = 2
"""Exit status after a mistake in settings, data or weights."""
GO_ON_LATER = 75
"""Exit status after which the same command may succeed: EX_TEMPFAIL of sysexits.h, what a batch
script puts into the queue again."""
MISTAKES = (SettingError, DataError, CheckpointError, BrokenCheckpointError, StorageError)
"""What a user can mend, or can wait for."""


def program(body: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """``main(argv)`` of a program, from what it does with its arguments.

    The result returns the exit status: that of ``body``, 0 after ``--help``, ``MISTAKE`` after an
    error that is the user's, ``GO_ON_LATER`` where storage was away. It can be called again in the
    same process.
    """

    @functools.wraps(body)
    def main(argv: Sequence[str]) -> int:
        quieten()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names of files need not be text: what is none is printed as \udcff.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return body(argv)
        except Answered:
            return 0
        except MISTAKES as error:
            return refused(error)

    return main


def refused(error: Exception) -> int:
    """Say what was wrong, in one line for each mistake; the exit status."""
    lines = str(error).strip().splitlines()
    if not isinstance(error, SettingError):
        # From a loader's worker process, the message comes behind that process's traceback.
        lines = lines[-1:]
    kind = type(error)
    for line in lines:
        text = line.removeprefix(f"{kind.__module__}.{kind.__name__}: ")
        print(f"error: {text}", file=sys.stderr)
    return GO_ON_LATER if isinstance(error, StorageAwayError) else MISTAKE
