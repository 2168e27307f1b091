"""When a run saves, what it saves, and how it goes on from there."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prs_med.checkpoint.errors import BrokenCheckpointError, UnfittingCheckpointError
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.mirror import Mirror
from prs_med.checkpoint.preflight import check_disk
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.retention import Pruner, Retention
from prs_med.checkpoint.saver import Outcome, Saver
from prs_med.checkpoint.snapshot import Snapshot
from prs_med.config import Settings
from prs_med.data.order import Rank
from prs_med.storage.store import StorageAwayError, StorageError
from prs_med.train import distributed
from prs_med.train.agreement import Agreement
from prs_med.train.engine_state import EngineState, numpy_copy
from prs_med.train.engines import Engines
from prs_med.train.save_places import METRICS, SavePlaces
from prs_med.train.stop_requests import StopRequests
from prs_med.train.versions import versions

_UPLOAD_SECONDS = 600.0
_HURRIED_UPLOAD_SECONDS = 20.0

_logger = logging.getLogger("prs_med")


class Superseded(RuntimeError):
    """Another attempt has taken over; this one may not go on."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """At which steps there is something to save."""

    every_steps: int
    every_minutes: float
    epoch_steps: float
    """Steps between two saves by epochs; 0 for none."""

    def falls_on(self, step: int) -> bool:
        """Whether the step is one to save after, apart from the minutes."""
        by_steps = bool(self.every_steps) and step % self.every_steps == 0
        by_epochs = bool(self.epoch_steps) and (
            int(step / self.epoch_steps) > int((step - 1) / self.epoch_steps)
        )
        return by_steps or by_epochs


class Checkpoints:
    """Saves a run's state; every process makes the same calls."""

    def __init__(
        self,
        settings: Settings,
        rank: Rank,
        places: SavePlaces,
        engines: Engines,
        stop: StopRequests,
        *,
        epoch_steps: float,
        fixed_buffers: Mapping[str, np.ndarray],
        fixed_state: Mapping[str, Any],
        fixed_files: Mapping[str, bytes],
    ) -> None:
        """
        Args:
            epoch_steps: steps of an epoch.
            fixed_buffers: whole arrays to keep in every checkpoint.
            fixed_state: JSON values to keep in every checkpoint.
            fixed_files: further files to keep in every checkpoint, by name.
        """
        self._settings = settings
        self._rank = rank
        self._places = places
        self._engines = engines
        self._stop = stop
        self._fixed_buffers = dict(fixed_buffers)
        self._fixed_state = {**fixed_state, "settings": dataclasses.asdict(settings)}
        self._fixed_state["versions"] = versions()
        self._fixed_files = dict(fixed_files)
        self._states = {
            name: EngineState(engine, engines.averages_of)
            for name, engine in engines.trained.items()
        }
        self._schedule = Schedule(
            settings.save_every_steps,
            settings.save_every_minutes,
            settings.save_every_epochs * epoch_steps,
        )
        self._agreement = Agreement()
        self._retention = Retention(
            settings.keep_last, settings.best_metric, settings.higher_is_better
        )
        self._pruner = Pruner(places.main, self._retention)
        self._mirror = self._start_mirror()
        self._saver = Saver(
            places.main,
            rank.index,
            rank.world,
            places.attempt.run,
            may_commit=places.check,
            committed=lambda name: self._pruner.prune(),
        )
        self._pending = False
        self._saved_at = time.monotonic()
        self._last: CheckpointName | None = None

    def start(self, state: Callable[[], dict[str, Any]], say: Callable[[str], None]) -> None:
        """Save before the first step, so that what is wrong with the places shows now.

        Raises:
            StorageError: it cannot be saved.
        """
        own = sum(engine_state.nbytes for engine_state in self._states.values())
        total = int(distributed.sum_over_ranks(torch.tensor(own, device=self._engines.device)))
        if self._rank.index == 0 and self._places.local is not None:
            check_disk(Path(self._settings.save_dir), total, self._settings.keep_last + 2)
        say(
            f"checkpoints: {total / 2**20:.1f} MiB each, {own / 2**20:.1f} MiB of memory on the "
            "host of each process"
        )
        self._save(0, state())
        self._raise_unless_saved()
        if self._rank.index == 0:
            self._pruner.clear_up()

    def settle(self) -> None:
        """Wait until what is being saved is complete on every process, or has failed."""
        self._saver.wait()
        distributed.barrier()

    def restored(self, step: int) -> None:
        """Take note that training goes on from a checkpoint of this step."""
        self._last = CheckpointName(self._places.attempt.number, step)
        if self._rank.index == 0:
            self._pruner.clear_up()

    def after_step(self, step: int, validated: bool, state: Callable[[], dict[str, Any]]) -> str:
        """Save if it is time; what asks training to end now, else nothing.

        Args:
            step: steps done.
            validated: whether there are scores of this very state; then it is always saved.
            state: gives the JSON values to save; every process must be able to call it.

        Raises:
            Superseded: another attempt has taken over.
        """
        minutes = self._schedule.every_minutes
        outcome = None if self._saver.busy else self._saver.wait()
        asked = self._stop.reason()
        stop, late, busy, superseded = self._agreement.any(
            bool(asked),
            bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes,
            self._saver.busy,
            outcome is not None and outcome.superseded,
        )
        if superseded:
            raise Superseded("another attempt of this run has taken over; see the log")
        due = late or self._schedule.falls_on(step) or self._pending
        if stop or validated:
            self._saver.wait()
            self._save(step, state())
        elif due and not busy:
            self._save(step, state())
        else:
            self._pending = due
        if not stop:
            return ""
        self._saver.wait()
        return distributed.first_of(asked)

    def finish(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Save the last state, unless that was done, and wait for it.

        Raises:
            StorageError: it cannot be saved.
        """
        self._saver.wait()
        if self._last is None or self._last.step != step:
            self._save(step, state())
        self._raise_unless_saved()

    def close(self, hurry: bool) -> None:
        """End what goes on in the background, after uploads; in a ``hurry`` few of them."""
        self._saver.wait()
        if self._mirror is not None:
            left = self._mirror.finish(_HURRIED_UPLOAD_SECONDS if hurry else _UPLOAD_SECONDS)
            if left and self._rank.index == 0:
                _logger.warning(
                    "not on S3 yet: %s; they are copied when the run goes on (--resume auto)",
                    ", ".join(map(str, left)),
                )

    def best_and_last(self) -> dict[str, CheckpointReader]:
        """The checkpoints worth keeping for use: ``final``, and ``best`` if any was validated.

        Raises:
            StorageError, BrokenCheckpointError: they cannot be read.
        """
        place = self._places.main
        scores = self._pruner.scores()
        best = self._retention.best(scores)
        names = {"final": max(scores), **({"best": best} if best else {})}
        return {kind: CheckpointReader(place, name) for kind, name in names.items()}

    def resume_from(self, reader: CheckpointReader) -> None:
        """Take over weights, moments and buffers. Every process must call it.

        Raises:
            BrokenCheckpointError: on every process, if any finds something damaged.
            UnfittingCheckpointError: the checkpoint is of another model.
        """
        extra = sorted(reader.manifest.groups.keys() - self._states.keys())
        if extra:
            raise UnfittingCheckpointError(
                f"{reader.where}: {extra[0]} was trained in it, and is not trained here"
            )
        problem = ""
        try:
            for name, engine_state in self._states.items():
                reader.fill(name, engine_state.owned)
            buffers = reader.buffers()
        except (BrokenCheckpointError, StorageError) as error:
            problem = str(error)
        problem = distributed.first_of(problem)
        if problem:
            raise BrokenCheckpointError(problem)
        for engine_state in self._states.values():
            engine_state.restore()
        self._engines.average_updates = int(reader.manifest.state["average_updates"])
        self._engines.restore_buffers(buffers)

    def _save(self, step: int, state: dict[str, Any]) -> None:
        groups = {name: engine_state.snapshot() for name, engine_state in self._states.items()}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        snapshot = Snapshot(groups)
        if self._rank.index == 0:
            snapshot.buffers = {
                **self._fixed_buffers,
                **{name: numpy_copy(value) for name, value in self._engines.buffers().items()},
            }
            snapshot.state = {
                **self._fixed_state,
                **state,
                "step": step,
                "average_updates": self._engines.average_updates,
            }
            snapshot.files = {**self._fixed_files, **self._metrics_so_far()}
        self._last = CheckpointName(self._places.attempt.number, step)
        self._saver.save(self._last, snapshot)
        self._pending = False
        self._saved_at = time.monotonic()

    def _metrics_so_far(self) -> dict[str, bytes]:
        path = Path(self._settings.save_dir) / METRICS
        return {METRICS: path.read_bytes()} if path.exists() else {}

    def _raise_unless_saved(self) -> None:
        outcome: Outcome | None = self._saver.wait()
        away = distributed.gathered(outcome is not None and outcome.away)
        problem = distributed.first_of(outcome.error if outcome is not None else "")
        if problem:
            raise StorageAwayError(problem) if any(away) else StorageError(problem)

    def _start_mirror(self) -> Mirror | None:
        places = self._places
        if places.local is None or places.remote is None:
            return None
        remote_pruner = Pruner(places.remote, self._retention)
        return Mirror(
            places.local,
            places.remote,
            self._rank.index,
            self._rank.world,
            places.attempt.number,
            may_commit=places.check,
            committed=remote_pruner.prune,
            clear_up=remote_pruner.clear_up,
        )
