"""Whatever a user names as trained weights, as a folder with trained weights."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prs_med.config import SettingError
from prs_med.export.named_checkpoint import find_checkpoints, is_checkpoint
from prs_med.export.trained_folder import export_trained

DESCRIPTION = "model.json"

_logger = logging.getLogger("prs_med")


@contextmanager
def as_trained_folder(
    text: str,
    vlm_path: str | None = None,
    vision_tower: str | None = None,
    sam_ckpt: str | None = None,
) -> Iterator[Path]:
    """The folder itself, or one with the weights of a training checkpoint for as long as the
    context lasts, in ``TMPDIR``.

    Args:
        text: a folder with trained weights, or as in
            :func:`prs_med.export.named_checkpoint.find_checkpoints`.
        vlm_path: where the base model of a training checkpoint lies, if it has moved.
        vision_tower: the same for its CLIP tower.
        sam_ckpt: the same for the file of a frozen encoder.

    Raises:
        SettingError: it is neither; says what was found and what is allowed.
        BrokenCheckpointError, StorageError, CheckpointError: as
            :func:`prs_med.export.trained_folder.export_trained`.
    """
    folder = Path(text)
    if (folder / DESCRIPTION).exists():
        yield folder
        return
    if not is_checkpoint(text):
        lacking = "is a file" if folder.is_file() else f"{folder / DESCRIPTION} is not there"
        raise SettingError(
            f"--checkpoint {text}: {lacking}; give a folder with trained weights (runs/a/best), a "
            "training checkpoint (runs/a/checkpoints/step-00000500-01, "
            "s3://bucket/a/manifests/step-00000500-01.json) or a run, for its newest one (runs/a, "
            "s3://bucket/a)"
        )
    reader = find_checkpoints(text).open()
    _logger.info("weights of %s", reader.where)
    with tempfile.TemporaryDirectory(prefix="prs_med-", ignore_cleanup_errors=True) as temporary:
        made = Path(temporary) / str(reader.name)
        export_trained(
            reader, made, vlm_path=vlm_path, vision_tower=vision_tower, sam_ckpt=sam_ckpt
        )
        yield made
