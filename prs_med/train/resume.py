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
from prs_med.storage import strict_json
from prs_med.storage.store import MissingFileError, StorageError
from prs_med.train import distributed
from prs_med.train.checkpoints import Checkpoints
from prs_med.train.metrics_log import whole_lines
from prs_med.train.resumed_settings import changes
from prs_med.train.save_places import AUTO, METRICS, SavePlaces


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
) -> CheckpointReader | None:
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
    if reader is None and places.attempt.number > 1:
        say("no start of this run has saved anything: training begins at step 0")
    distributed.once(lambda: _restore_metrics(settings, reader, say))
    return reader


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
    newest = replace(settings, resume=AUTO)
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
    by_name, found = distributed.once(lambda: _candidates(settings, places, say))
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
        except MissingFileError as error:
            if by_name:
                raise
            say(f"{error}: it was removed meanwhile; going on from the checkpoint before it")
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
) -> tuple[bool, list[tuple[str, CheckpointName]]]:
    """Whether the user has named the checkpoint to go on from; and those to try one after the
    other, by the names of their places."""
    if settings.resume != AUTO:
        place, name = locate(settings.resume or "")
        return True, [(place.store.uri, name)]
    found, away = [], None
    both: list[Place] = [place for place in (places.remote, places.local) if place is not None]
    for place in both:
        try:
            # What is in the folder comes before its copy.
            is_local = place is places.local
            found += [(name, is_local, place.store.uri) for name in place.checkpoints()]
        except StorageError as error:
            away = error
    told = places.beginning
    if told is not None and not any(name.attempt >= told.attempt for name, _, _ in found):
        say(f"attempt {told.attempt} was to go on from {told.checkpoint}, and saved nothing before "
            "it ended: going on from there")  # fmt: skip
        place, name = locate(told.checkpoint)
        return True, [(place.store.uri, name)]
    if away is not None:
        if not found:
            # There may be some: to begin at step 0 would be to lose them.
            raise away
        say(f"WARNING: {away}; looking for checkpoints in --save_dir alone")
    return False, [(uri, name) for name, _, uri in sorted(found, reverse=True)]


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


def _restore_metrics(
    settings: Settings, reader: CheckpointReader | None, say: Callable[[str], None]
) -> None:
    """Bring back the metrics so far, on process 0; what was logged after the checkpoint is logged
    again. No run ends for its log: where it is damaged, what can be read of it is kept."""
    path = Path(settings.save_dir) / METRICS
    content = b""
    if reader is not None:
        try:
            content = reader.file(METRICS) or b""
        except (BrokenCheckpointError, StorageError) as error:
            say(f"WARNING: {error}; the log goes on with what {path} holds up to this step")
            content = _own_metrics(path, reader.name.step)
        content = with_scores(content, reader.manifest.state)
    draft = path.with_name(f".{METRICS}")
    draft.write_bytes(content)
    draft.replace(path)


def _own_metrics(path: Path, step: int) -> bytes:
    try:
        lines = whole_lines(path.read_bytes(), step)
    except OSError:
        return b""  # There is none in a new folder.
    return b"".join(line + b"\n" for line in lines)


def with_scores(metrics: bytes, state: Mapping[str, Any]) -> bytes:
    """A log of metrics with the scores of a checkpoint, which are added to it after its log."""
    scores = state.get("scores") or {}
    line = strict_json.dumps({"step": state["step"], **scores}).encode() + b"\n"
    return metrics if not scores or line in metrics else metrics + line
