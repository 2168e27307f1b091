"""Which checkpoint a run goes on from, and whether it may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prs_med.checkpoint.errors import BrokenCheckpointError, UnfittingCheckpointError
from prs_med.checkpoint.manifest import CheckpointName, Manifest
from prs_med.checkpoint.open_place import open_place
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.config import SettingError, Settings
from prs_med.model.errors import CheckpointError
from prs_med.model.fingerprint import check_same
from prs_med.storage.store import StorageError
from prs_med.train import distributed
from prs_med.train.checkpoints import Checkpoints
from prs_med.train.resumed_settings import changes
from prs_med.train.save_places import METRICS, SavePlaces


def locate(text: str) -> tuple[Place, CheckpointName]:
    """The checkpoint that the user names: its folder, or its manifest on S3.

    Raises:
        SettingError: it is no name of one.
    """
    folder, _, last = text.rstrip("/").rpartition("/")
    name = CheckpointName.parse(last.removesuffix(".json"))
    if name is None:
        raise SettingError(
            f"{text}: not the name of a checkpoint, such as runs/a/checkpoints/step-00000500-01 or "
            "s3://bucket/a/manifests/step-00000500-01.json"
        )
    return open_place(folder.removesuffix("/manifests") if "://" in text else folder or "."), name


def resume(
    settings: Settings,
    places: SavePlaces,
    checkpoints: Checkpoints,
    expected: Mapping[str, Any],
    check_state: Callable[[Mapping[str, Any]], object],
    say: Callable[[str], None],
) -> Manifest | None:
    """Load the checkpoint to go on from; None if there is none. Every process must call it.

    With ``--resume auto`` a damaged checkpoint is passed over for the one before.

    Args:
        expected: what of the state must be as it is here: ``base`` and ``modalities``.
        check_state: raises if the state is that of a run that cannot go on here.

    Raises:
        CheckpointError: the checkpoint belongs to another model or to other settings, or is
            damaged.
        StorageError: the checkpoints cannot be listed or read.
    """
    if not settings.resume:
        return None
    reader = _load(settings, places, checkpoints, expected, check_state, say)
    _restore_metrics(settings, None if reader is None else reader.file(METRICS))
    return None if reader is None else reader.manifest


def go_back(
    settings: Settings,
    places: SavePlaces,
    checkpoints: Checkpoints,
    expected: Mapping[str, Any],
    check_state: Callable[[Mapping[str, Any]], object],
    say: Callable[[str], None],
) -> Manifest:
    """Load the newest checkpoint while training; the log of metrics keeps what was written since.

    Arguments and errors as of :func:`resume`.
    """
    checkpoints.settle()
    newest = replace(settings, resume="auto")
    reader = _load(newest, places, checkpoints, expected, check_state, say)
    assert reader is not None, "one is saved before the first step"
    return reader.manifest


def _load(
    settings: Settings,
    places: SavePlaces,
    checkpoints: Checkpoints,
    expected: Mapping[str, Any],
    check_state: Callable[[Mapping[str, Any]], object],
    say: Callable[[str], None],
) -> CheckpointReader | None:
    by_name = settings.resume != "auto"
    found = distributed.once(lambda: _candidates(settings, places, say))
    for uri, name in found:
        try:
            reader = _open(uri, name)
            state = reader.manifest.state
            check_state(state)
            changed = changes(state["settings"], settings, reader.where)
            _check(reader, expected)
            checkpoints.resume_from(reader)
        except BrokenCheckpointError as error:
            if by_name:
                raise CheckpointError(str(error)) from None
            say(f"WARNING: {error}; going on from the checkpoint before it, if there is one")
            continue
        except UnfittingCheckpointError as error:
            raise CheckpointError(
                f"{error}; the settings of model and training must be those of the run to go on "
                "with"
            ) from None
        for line in changed:
            say(line)
        return reader
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints can be used: see the warnings above"
        )
    return None


def _candidates(
    settings: Settings, places: SavePlaces, say: Callable[[str], None]
) -> list[tuple[str, CheckpointName]]:
    """Checkpoints to try one after the other, by the names of their places."""
    if settings.resume != "auto":
        place, name = locate(settings.resume or "")
        return [(place.store.uri, name)]
    found = []
    both: list[Place] = [place for place in (places.remote, places.local) if place is not None]
    for place in both:
        try:
            # What is in the folder comes before its copy.
            is_local = place is places.local
            found += [(name, is_local, place.store.uri) for name in place.checkpoints()]
        except StorageError as error:
            if places.local is None:
                raise
            say(f"WARNING: {error}; looking for checkpoints in --save_dir alone")
    return [(uri, name) for name, _, uri in sorted(found, reverse=True)]


def _open(uri: str, name: CheckpointName) -> CheckpointReader:
    """A checkpoint whose manifest one process has read for all."""
    place = open_place(uri)
    manifest = distributed.once(lambda: CheckpointReader(place, name).manifest)
    return CheckpointReader(place, name, manifest)


def _check(reader: CheckpointReader, expected: Mapping[str, Any]) -> None:
    state = reader.manifest.state
    for kind, ours in expected["base"].items():
        check_same(kind, ours, state["base"].get(kind, {}), reader.where)
    theirs, ours = state["modalities"], list(expected["modalities"])
    if theirs != ours:
        raise CheckpointError(
            f"{reader.where}: was trained on the modalities {', '.join(theirs)}, but the data here "
            f"has {', '.join(ours)}"
        )


def _restore_metrics(settings: Settings, content: bytes | None) -> None:
    """Bring back the metrics so far; what was logged after the checkpoint is logged again."""

    def write() -> None:
        path = Path(settings.save_dir) / METRICS
        draft = path.with_name(f".{METRICS}")
        draft.write_bytes(content or b"")
        draft.replace(path)

    distributed.once(write)
