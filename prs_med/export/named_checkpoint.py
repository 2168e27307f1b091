"""From the name that a user gives to the training checkpoints behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from prs_med.checkpoint.manifest import MANIFEST, CheckpointName
from prs_med.checkpoint.open_place import open_place
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.config import SettingError

_CHECKPOINTS, _MANIFESTS = "checkpoints", "manifests"
_ALLOWED = (
    "give a checkpoint (runs/a/checkpoints/step-00000500-01, "
    "s3://bucket/a/manifests/step-00000500-01.json) or a run (runs/a, s3://bucket/a)"
)


@dataclass(frozen=True)
class NamedCheckpoints:
    """What a name stands for: one checkpoint, or the complete ones of a run."""

    place: Place
    names: list[CheckpointName]
    """Oldest first; at least one."""

    @property
    def newest(self) -> CheckpointName:
        """The one to use."""
        return self.names[-1]

    def open(self) -> CheckpointReader:
        """The newest one.

        Raises:
            BrokenCheckpointError: its manifest is damaged.
            StorageError: it cannot be read.
        """
        return CheckpointReader(self.place, self.newest)


def find_checkpoints(text: str) -> NamedCheckpoints:
    """The checkpoints that ``text`` names: the folder or S3 manifest of one, or a run's folder,
    checkpoints folder, or prefix on S3.

    Raises:
        SettingError: it names none; says what was found and what is allowed.
        StorageError: it cannot be listed.
    """
    scheme, separator, _ = text.partition("://")
    if separator and scheme != "s3":
        raise SettingError(f"{text}: {scheme}:// is not known here; {_ALLOWED}")
    return _on_s3(text.rstrip("/")) if separator else _in_folder(Path(text))


def is_checkpoint(text: str) -> bool:
    """Whether ``text`` has the form of a training checkpoint or a run; S3 holds nothing else."""
    path = Path(text)
    return "://" in text or bool(
        path.name == MANIFEST
        or CheckpointName.parse(path.name)
        or (path / MANIFEST).exists()
        or (path / _CHECKPOINTS).is_dir()
        or _complete_in(path)
    )


def _on_s3(text: str) -> NamedCheckpoints:
    folder, _, last = text.rpartition("/")
    name = CheckpointName.parse(last.removesuffix(".json"))
    if name is None:
        return _run(text.removesuffix(f"/{_MANIFESTS}"), text)
    place = open_place(folder.removesuffix(f"/{_MANIFESTS}"))
    if name not in place.checkpoints():
        raise SettingError(f"{text}: there is no such checkpoint; {_ALLOWED}")
    return NamedCheckpoints(place, [name])


def _in_folder(path: Path) -> NamedCheckpoints:
    if path.name == MANIFEST:
        path = path.parent
    if (path / MANIFEST).is_file():
        return _one(path)
    if CheckpointName.parse(path.resolve().name):
        state = f"has no {MANIFEST}, so it is not complete" if path.is_dir() else "does not exist"
        raise SettingError(f"{path}: {state}; {_ALLOWED}")
    if (path / _CHECKPOINTS).is_dir():
        return _run(str(path / _CHECKPOINTS), str(path))
    if _complete_in(path):
        return _run(str(path), str(path))
    raise SettingError(f"{path}: {_found(path)}; {_ALLOWED}")


def _one(folder: Path) -> NamedCheckpoints:
    folder = folder.resolve()
    name = CheckpointName.parse(folder.name)
    if name is None:
        try:
            own = json.loads((folder / MANIFEST).read_bytes())["name"]
        except (OSError, ValueError, KeyError, TypeError):
            own = "step-........-.."
        raise SettingError(
            f"{folder}: a checkpoint must be in a folder of its own name: rename it to {own}"
        )
    return NamedCheckpoints(open_place(str(folder.parent)), [name])


def _run(uri: str, text: str) -> NamedCheckpoints:
    place = open_place(uri)
    names = place.checkpoints()
    if not names:
        raise SettingError(f"{text}: holds no complete checkpoint; {_ALLOWED}")
    return NamedCheckpoints(place, names)


def _complete_in(folder: Path) -> bool:
    return folder.is_dir() and any(
        CheckpointName.parse(entry.name) and (entry / MANIFEST).is_file()
        for entry in folder.iterdir()
    )


def _found(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    if path.is_file():
        return "is a file"
    if (path / "model.json").is_file():
        return "is a folder with trained weights, not a training checkpoint"
    return "is a folder without checkpoints"
