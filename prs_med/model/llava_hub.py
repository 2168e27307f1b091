"""Where a model's files lie: in a folder, or in the cache of the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from prs_med.model.errors import CheckpointError

_DESCRIPTIONS = ["*.json", "tokenizer.model"]


def local_folder(path_or_id: str, setting: str) -> Path:
    """The folder ``path_or_id``, or one with the files of the hub model of that name.

    Args:
        setting: command-line flag that named it, for messages.

    Raises:
        CheckpointError: if there is no such folder or model.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path_or_id.startswith(".") or path_or_id.count("/") != 1:
        raise CheckpointError(f"{setting} {path_or_id}: no such folder, and not a hub id")
    try:
        folder = Path(
            snapshot_download(path_or_id, allow_patterns=[*_DESCRIPTIONS, "*.safetensors"])
        )
        if not any(folder.glob("*.safetensors")):
            # Only then: many models are published in both forms, and one of them is enough.
            folder = Path(
                snapshot_download(path_or_id, allow_patterns=[*_DESCRIPTIONS, "pytorch_model*.bin"])
            )
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{setting} {path_or_id}: no such folder, and not to be had from the hub ({reason})"
        ) from error
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: if the file is missing, unreadable or holds something else.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; a model folder needs it") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return loaded
