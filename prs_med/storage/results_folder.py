"""Where a command writes its results: whether it can, and whose results lie there already.

No command replaces what another one made, unless its user says so. What a folder holds is told by
``made_by.json``, which is written before anything else: the name of the command, the checkpoint or
data that it was about, and an ``identity`` that differs where the results would.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from prs_med.checked_settings import SettingError

MADE_BY = "made_by.json"


def check_folder(flag: str, value: str) -> Path:
    """A folder to write, there or not; nothing is made yet.

    Args:
        flag: the setting that names it, without dashes.
        value: what it names.

    Raises:
        SettingError: no folder of this name can be written.
    """
    path = _local(flag, value, "a folder")
    return _check(flag, path, path, "name a folder that can be written")


def check_file(flag: str, value: str) -> Path:
    """A file to write, there or not; otherwise as :func:`check_folder`."""
    path = _local(flag, value, "a file")
    try:
        if path.is_dir():
            raise SettingError(f"--{flag} {value}: is a folder; name a file")
    except OSError as error:
        raise SettingError(f"--{flag} {value}: {error.strerror}; name a file") from None
    return _check(flag, path, path.parent, "name a file that can be written")


def _local(flag: str, value: str, what: str) -> Path:
    if not value:
        raise SettingError(f"--{flag} is empty: name {what}")
    if "://" in value:
        raise SettingError(f"--{flag} {value}: is an address; name {what} of this machine")
    return Path(value)


def _check(flag: str, named: Path, folder: Path, allowed: str) -> Path:
    try:
        nearest = folder.absolute()
        # Of a name that is too long, this tells; a link that leads nowhere is there, too.
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(nearest)
        while not os.path.lexists(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            reason = f"{nearest} is no folder"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            reason = f"{nearest} cannot be written"
        else:
            return named
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise SettingError(f"--{flag} {named}: {reason}; {allowed}")


def claim_folder(
    flag: str,
    folder: Path,
    made_by: dict[str, Any],
    results: Sequence[str],
    *,
    overwrite: bool | None = None,
) -> None:
    """Make a folder one's own, before anything is written into it. Several processes of one command
    may do so at once, and an interrupted one again.

    Args:
        flag: the setting that names the folder, without dashes.
        folder: made if need be.
        made_by: ``command``, what it was about, and ``identity``; JSON values.
        results: what this command writes into the folder: names, or patterns of names.
        overwrite: take it even if another command's results are there; None where the command
            has no such setting.

    Raises:
        SettingError: they are there, and ``overwrite`` is not True; or it cannot be written.
    """
    try:
        check_unclaimed(flag, folder, made_by, results, overwrite=overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{MADE_BY}.{uuid4().hex}.draft"
        draft.write_text(json.dumps(made_by, indent=2) + "\n", encoding="utf-8")
        draft.replace(folder / MADE_BY)
    except OSError as error:
        raise SettingError(
            f"--{flag} {folder}: {error.strerror}; name a folder that can be written"
        ) from None


def check_unclaimed(
    flag: str,
    folder: Path,
    made_by: dict[str, Any],
    results: Sequence[str],
    *,
    overwrite: bool | None = None,
) -> None:
    """Refuse a folder with another command's results. Of ``made_by``, only what is known so far
    need be given; otherwise as :func:`claim_folder`.

    Raises:
        SettingError: there are such results, and ``overwrite`` is not True.
    """
    # In this order: another process of this command writes results only once it has the folder.
    there = [name for name in results if any(map(_holds_a_file, folder.glob(name)))]
    found = made_by_in(folder)
    if found and found.get("command") != made_by["command"]:
        # Whatever that writes: two commands in one folder could not tell whose it is.
        there += [name for name in os.listdir(folder) if name != MADE_BY]
    if overwrite or not there or (found and made_by.items() <= found.items()):
        return
    or_overwrite = "" if overwrite is None else ", or --overwrite to replace it"
    raise SettingError(
        f"--{flag} {folder}: holds {description(found) or f'{there[0]} of unknown origin'}; give "
        f"another folder{or_overwrite}"
    )


def _holds_a_file(path: Path) -> bool:
    """A command that failed before its first result leaves empty folders, which are nobody's."""
    return not path.is_dir() or any(map(_holds_a_file, path.iterdir()))


def made_by_in(folder: Path) -> dict[str, Any]:
    """What `claim_folder` left in a folder; empty where it did not, or something else is there."""
    try:
        found = json.loads((folder / MADE_BY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def description(made_by: dict[str, Any]) -> str:
    """In words: what a command made of which checkpoint and data; empty if nothing tells."""
    if not made_by:
        return ""
    about = [
        f"{name} {value}"
        for name, value in made_by.items()
        if name not in ("command", "identity") and value
    ]
    return f"what '{made_by.get('command')}' made of {', '.join(about)}"
