"""The model behind whatever a user names as trained weights."""

from __future__ import annotations

from prs_med.export.as_folder import as_trained_folder
from prs_med.export.merged_model import is_merged, load_merged
from prs_med.model.errors import CheckpointError
from prs_med.model.trained_weights import TrainedModel, load_trained


def load_model(
    checkpoint: str,
    vlm_path: str | None = None,
    vision_tower: str | None = None,
    load_4bit: bool | None = None,
    sam_ckpt: str | None = None,
) -> TrainedModel:
    """Build the model, ready for evaluation.

    Args:
        checkpoint: a folder with trained weights, a merged model, a training checkpoint or a run.
        vlm_path: where the base model lies, if it has moved since training.
        vision_tower: the same for its CLIP tower, if training took one from elsewhere.
        load_4bit: whether the language model is loaded in 4 bits; None: as in training.
        sam_ckpt: where the encoder's file lies now, for a training checkpoint that froze it.

    Raises:
        SettingError: ``checkpoint`` is none of these.
        CheckpointError: naming the file that is missing, corrupt or of another model.
        BrokenCheckpointError, StorageError: a training checkpoint cannot be read.
    """
    with as_trained_folder(checkpoint, vlm_path, vision_tower, sam_ckpt) as folder:
        if not is_merged(folder):
            return load_trained(folder, vlm_path, vision_tower, load_4bit)
        if vlm_path or vision_tower:
            raise CheckpointError(
                f"{folder}: holds a whole model: drop --vlm_path and --vision_tower"
            )
        return load_merged(folder, load_4bit)
