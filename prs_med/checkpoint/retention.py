"""Which checkpoints are kept, and the removal of the others."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import CheckpointName, parse_manifest
from prs_med.checkpoint.place import Place
from prs_med.storage.store import MissingFileError, StorageError

SWEEP_SECONDS = 24 * 3600.0
"""Age from which on leftovers of crashes are removed."""

_logger = logging.getLogger("prs_med.checkpoint")


@dataclass(frozen=True)
class Retention:
    """What to keep: the last ones, and the best."""

    keep_last: int
    metric: str
    """Name of the score by which one is the best."""
    higher_is_better: bool

    def best(
        self, scores: Mapping[CheckpointName, Mapping[str, float | None]]
    ) -> CheckpointName | None:
        """The checkpoint with the best score, the newest of equals; None if none has one."""
        return next(iter(self.ranked(scores)), None)

    def ranked(
        self, scores: Mapping[CheckpointName, Mapping[str, float | None]]
    ) -> list[CheckpointName]:
        """Those with a score, the best first, the newest of equals."""
        sign = 1 if self.higher_is_better else -1
        rated = []
        for name, found in scores.items():
            score = found.get(self.metric)
            if score is not None and math.isfinite(score):
                rated.append((sign * score, name))
        return [name for _, name in sorted(rated, reverse=True)]

    def superfluous(
        self, scores: Mapping[CheckpointName, Mapping[str, float | None]]
    ) -> list[CheckpointName]:
        """Those that need not be kept, oldest first; ``scores`` names all that there are."""
        ordered = sorted(scores)
        kept = {*ordered[-self.keep_last :], self.best(scores)}
        return [name for name in ordered if name not in kept]


class Pruner:
    """Removes what a :class:`Retention` does not keep from one place."""

    def __init__(self, place: Place, retention: Retention) -> None:
        self._place = place
        self._retention = retention
        self._scores: dict[CheckpointName, Mapping[str, float | None]] = {}

    def scores(self) -> dict[CheckpointName, Mapping[str, float | None]]:
        """The scores of all complete checkpoints; each that has some is read once."""
        return scores_of(self._place, self._scores)

    def prune(self) -> None:
        """Remove what need not be kept. Failures are logged; nothing is removed when the list of
        checkpoints or their scores cannot be read."""
        try:
            superfluous = self._retention.superfluous(self.scores())
        except StorageError as error:
            _logger.warning("old checkpoints were not removed: %s", error)
            return
        for name in superfluous:
            try:
                self._place.remove(name)
                _logger.debug("removed checkpoint %s", name)
            except (StorageError, BrokenCheckpointError) as error:
                # The others are tried: a damaged one stands in the way of all until it is gone.
                _logger.warning("an old checkpoint was not removed: %s", error)

    def clear_up(self) -> None:
        """At the start of a run: remove what earlier ones would have removed if they had not been
        killed. Failures are logged."""
        self.prune()
        try:
            self._place.sweep(SWEEP_SECONDS)
        except (OSError, BrokenCheckpointError) as error:
            _logger.warning("leftovers of earlier runs were not removed: %s", error)


def scores_of(
    place: Place, known: dict[CheckpointName, Mapping[str, float | None]] | None = None
) -> dict[CheckpointName, Mapping[str, float | None]]:
    """The scores of all complete checkpoints; ``known`` is added to, so that each that has some is
    read once. Others are read again: a validation may have given them some.

    A damaged one has no scores: it is no candidate for the best, and goes when it is old.

    Raises:
        StorageError: the list, or a manifest, cannot be read.
    """
    known = {} if known is None else known
    present = place.checkpoints()
    for name in present:
        if not known.get(name):
            try:
                state = parse_manifest(place.manifest(name), place.where(name)).state
                known[name] = state.get("scores", {})
            except MissingFileError:
                known.pop(name, None)  # It has been removed since it was listed.
            except BrokenCheckpointError as error:
                _logger.log(logging.DEBUG if name in known else logging.WARNING, "%s", error)
                known[name] = {}
    return {name: known[name] for name in present if name in known}
