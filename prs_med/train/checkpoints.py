"""When a run saves, what it saves, and how it goes on from there."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prs_med.checkpoint.copying import copy_share
from prs_med.checkpoint.errors import BrokenCheckpointError, UnfittingCheckpointError
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.mirror import Mirror
from prs_med.checkpoint.open_place import is_same
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.preflight import check_disk
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.retention import Pruner, Retention, scores_of
from prs_med.checkpoint.saver import Outcome, Saver
from prs_med.checkpoint.snapshot import Snapshot
from prs_med.config import Settings
from prs_med.data.order import Rank
from prs_med.storage.store import StorageAwayError, StorageError
from prs_med.train import distributed
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
        self._agreement = distributed.agreement()
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
            committed=self._committed,
        )
        self._pending = False
        self._saved_at = time.monotonic()
        self._last: CheckpointName | None = None
        """What training has gone on from, or has saved last, complete or not."""
        self._amended: CheckpointName | None = None
        """The last one that got its scores after it was complete; on process 0."""

    def start(
        self,
        step: int,
        resumed: CheckpointReader | None,
        state: Callable[[], dict[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        """Have the main place hold what training starts from as its newest checkpoint, and of a run
        that goes on the best one: a roll-back, a crash and the end find all there.

        Args:
            step: steps done.
            resumed: the checkpoint that was gone on from.
            state: as of :meth:`after_step`.
            say: told about sizes and what is missing.

        Raises:
            StorageError: it cannot be saved, which shows now and not after hours.
        """
        own = sum(engine_state.nbytes for engine_state in self._states.values())
        total = int(distributed.sum_over_ranks(torch.tensor(own, device=self._engines.device)))
        if self._rank.index == 0 and self._places.local is not None:
            check_disk(Path(self._settings.save_dir), total, self._settings.keep_last + 2)
        say(
            f"checkpoints: {total / 2**20:.1f} MiB each, {own / 2**20:.1f} MiB of memory on the "
            "host of each process"
        )
        if resumed is not None and distributed.once(lambda: self._is_newest(resumed)):
            self._last = resumed.name
        else:
            self._save(step, state())
            self._raise_unless_saved()
        if resumed is not None:
            self._bring_best(say)
        if self._rank.index == 0:
            self._pruner.clear_up()

    def _is_newest(self, reader: CheckpointReader) -> bool:
        main = self._places.main
        return is_same(reader.place, main) and main.checkpoints()[-1:] == [reader.name]

    def _bring_best(self, say: Callable[[str], None]) -> None:
        """Copy the best checkpoint from S3 to the folder, if that lacks it."""
        local, remote = self._places.local, self._places.remote
        if local is None or remote is None:
            return
        problem = ""
        try:
            name = distributed.once(lambda: self._better_on_s3(remote))
            if name is None:
                return
            manifest = distributed.once(lambda: CheckpointReader(remote, name).manifest)
            try:
                reader = CheckpointReader(remote, name, manifest)
                copy_share(reader, local, self._rank.index, self._rank.world)
            except (BrokenCheckpointError, OSError) as error:
                problem = str(error)
            problem = distributed.first_of(problem)
            end = local.discard if problem else lambda done: local.commit(done, manifest.dumps())
            distributed.once(lambda: end(name))
        except (BrokenCheckpointError, StorageError) as error:
            problem = str(error)
        if problem:
            say(f"WARNING: {problem}; the best checkpoint is sought in --save_dir alone")

    def _better_on_s3(self, remote: Place) -> CheckpointName | None:
        """The best of all checkpoints, if the folder does not hold it."""
        if self._places.unclaimed is not None:
            return None
        here = self._pruner.scores()
        best = self._retention.best({**scores_of(remote), **here})
        return None if best in here else best

    def settle(self) -> None:
        """Wait until what is being saved is complete on every process, or has failed."""
        self._saver.wait()
        distributed.barrier()

    def after_step(self, step: int, state: Callable[[], dict[str, Any]]) -> str:
        """Save if it is time; what asks training to end now, else nothing.

        Args:
            step: steps done.
            state: gives the JSON values to save; every process must be able to call it.

        Raises:
            Superseded: another attempt has taken over.
        """
        self._stop.step = step
        stop, late, busy = self._agree()
        due = late or self._schedule.falls_on(step) or self._pending
        if stop:
            self._saver.wait()
            self._save(step, state())
        elif due and not busy:
            self._save(step, state())
        else:
            self._pending = due
        return self._end(stop)

    def before_validation(self, step: int, state: Callable[[], dict[str, Any]]) -> str:
        """Save, since a validation may take long; arguments, result and errors as of
        :meth:`after_step`."""
        self._stop.step = step
        stop, _, _ = self._agree()
        if self._last is None or self._last.step != step:
            self._saver.wait()
            self._save(step, state())
        return self._end(stop)

    def after_validation(self, step: int, state: Callable[[], dict[str, Any]]) -> str:
        """Add the scores to the checkpoint of this step; arguments, result and errors as of
        :meth:`after_step`."""
        outcome = self._saver.wait()
        # Process 0 alone knows whether the checkpoint is complete.
        failed = self._rank.index == 0 and (outcome is None or bool(outcome.error))
        stop, _, _ = self._agree()
        if self._last != CheckpointName(self._places.attempt.number, step):
            self._save(step, state())
        elif self._agreement.any(failed)[0]:
            self._pending = True
        else:
            new = self._state(step, state())
            if self._rank.index == 0:
                self._amended = self._last
                self._saver.amend(self._last, new)
        return self._end(stop)

    def _agree(self) -> tuple[bool, bool, bool]:
        """Whether any process is asked to end, finds that it is time to save, or still saves.

        Raises:
            Superseded: another attempt has taken over.
        """
        minutes = self._schedule.every_minutes
        outcome = None if self._saver.busy else self._saver.wait()
        stop, late, busy, superseded = self._agreement.any(
            bool(self._stop.reason()),
            bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes,
            self._saver.busy,
            outcome is not None and outcome.superseded,
        )
        if stop:
            self._stop.hear()
        if superseded:
            raise Superseded("another attempt of this run has taken over; see the log")
        return stop, late, busy

    def _end(self, stop: bool) -> str:
        """Who asked for the end, once all is saved; nothing if nobody did."""
        if not stop:
            return ""
        self._saver.wait()
        return distributed.first_of(self._stop.reason())

    def finish(self, step: int, state: Callable[[], dict[str, Any]], stopped: bool) -> None:
        """Save the last state, unless that was done, and wait for it.

        Args:
            step, state: as of :meth:`after_step`.
            stopped: the run was asked to end, and goes on later from what could be saved.

        Raises:
            StorageError: it cannot be saved.
        """
        if stopped:
            self._stop.hear()
        self._saver.wait()
        if self._last is None or self._last.step != step:
            self._save(step, state())
        if not stopped:
            self._raise_unless_saved()
        elif (problem := self._problem()) and self._rank.index == 0:
            _logger.error("step %d is not saved, and computed again: %s", step, problem)

    def close(self, hurry: bool) -> None:
        """End what goes on in the background, after uploads; in a ``hurry`` few of them."""
        self._saver.wait()
        if self._mirror is not None:
            left = self._mirror.finish(
                self._hurried_seconds() if hurry else _UPLOAD_SECONDS,
                lambda: self._hurried_seconds() if self._stop.reason() else None,
            )
            if left and self._rank.index == 0:
                _logger.warning(
                    "not on S3 yet: %s; they are copied when the run goes on (--resume auto)",
                    ", ".join(map(str, left)),
                )

    def _hurried_seconds(self) -> float:
        """What of the budget of a run that was asked to end is left for uploads."""
        budget = self._settings.stop_seconds or math.inf
        return max(0.0, min(_HURRIED_UPLOAD_SECONDS, 0.7 * budget - self._stop.seconds_ago()))

    def best_and_last(self) -> dict[str, list[CheckpointName]]:
        """The checkpoints worth keeping for use: ``final``, and ``best`` if any was validated,
        with those to take in its place where it is damaged.

        Raises:
            StorageError: they cannot be listed.
        """
        assert self._last is not None, "the run is complete, and its last state saved"
        ranked = self._retention.ranked(self._pruner.scores())
        return {"final": [self._last], **({"best": ranked} if ranked else {})}

    def reader_of(self, name: CheckpointName) -> CheckpointReader:
        """A complete checkpoint of the main place.

        Raises:
            BrokenCheckpointError, StorageError: it cannot be read.
        """
        return CheckpointReader(self._places.main, name)

    def resume_from(self, reader: CheckpointReader) -> None:
        """Take over weights, moments and buffers. Every process must call it.

        A moving average that it does not hold starts from its weights.

        Raises:
            BrokenCheckpointError: on every process, if any finds something damaged.
            UnfittingCheckpointError: the checkpoint is of another model.
            StorageError: on every process, if any cannot read it.
        """
        extra = sorted(reader.manifest.groups.keys() - self._states.keys())
        if extra:
            raise UnfittingCheckpointError(
                f"{reader.where}: {extra[0]} was trained in it, and is not trained here"
            )
        problem: Exception | None = None
        has_average = True
        try:
            for name, engine_state in self._states.items():
                has_average &= engine_state.fill(reader, name)
            buffers = reader.buffers()
        except (BrokenCheckpointError, StorageError) as error:
            problem = error
        problems = [found for found in distributed.gathered(problem) if found is not None]
        # What cannot be reached may be whole.
        for found in sorted(problems, key=lambda one: isinstance(one, BrokenCheckpointError)):
            raise found
        if missing := sorted(self._engines.buffers().keys() - buffers.keys()):
            raise UnfittingCheckpointError(f"{reader.where}: does not hold {missing[0]}")
        for engine_state in self._states.values():
            engine_state.restore()
        updates = int(reader.manifest.state["average_updates"]) if has_average else 0
        self._engines.average_updates = updates
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
            snapshot.state = self._state(step, state)
            snapshot.files = {**self._fixed_files, **self._metrics_so_far()}
        self._last = CheckpointName(self._places.attempt.number, step)
        self._saver.save(self._last, snapshot)
        self._pending = False
        self._saved_at = time.monotonic()

    def _state(self, step: int, state: dict[str, Any]) -> dict[str, Any]:
        return {
            **self._fixed_state,
            **state,
            "step": step,
            "average_updates": self._engines.average_updates,
        }

    def _metrics_so_far(self) -> dict[str, bytes]:
        path = Path(self._settings.save_dir) / METRICS
        try:
            return {METRICS: path.read_bytes()} if path.exists() else {}
        except OSError as error:
            _logger.warning("%s: %s; the checkpoint is saved without it", path, error.strerror)
            return {}

    def _raise_unless_saved(self) -> None:
        outcome = self._saver.wait()
        away = distributed.gathered(outcome is not None and outcome.away)
        if problem := self._problem():
            raise StorageAwayError(problem) if any(away) else StorageError(problem)

    def _problem(self) -> str:
        """Why the last save failed, on any process; empty if it did not."""
        outcome: Outcome | None = self._saver.wait()
        return distributed.first_of(outcome.error if outcome is not None else "")

    def _committed(self, name: CheckpointName) -> None:
        self._pruner.prune()
        if self._mirror is not None and name == self._amended:
            self._mirror.changed(name)

    def _start_mirror(self) -> Mirror | None:
        places = self._places
        if places.local is None or places.remote is None:
            return None
        remote_pruner = Pruner(places.remote, self._retention)

        def clear_up() -> None:
            places.claim_copies()
            remote_pruner.clear_up()

        return Mirror(
            places.local,
            places.remote,
            self._rank.index,
            self._rank.world,
            places.attempt.number,
            may_commit=places.check,
            committed=remote_pruner.prune,
            clear_up=clear_up,
        )
