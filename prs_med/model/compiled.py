"""torch.compile, region by region."""

from __future__ import annotations

from collections.abc import Collection

from prs_med.model.mllm import Mllm
from prs_med.model.segmentation import SegmentationBranch


def compile_regions(mllm: Mllm, segmentation: SegmentationBranch, regions: Collection[str]) -> None:
    """Compile the named regions (``encoder``, ``decoder``, ``language_model``) in place; names of
    parameters stay as they are.

    The language model is compiled layer by layer: its layers are alike, so that one compilation
    serves all, and what DeepSpeed and gradient checkpointing do between layers stays outside. It is
    compiled for sequences of any length at once: else the second length would compile it again.
    """
    if "encoder" in regions:
        segmentation.image_encoder.compile()
    if "decoder" in regions:
        segmentation.mask_decoder.compile()
    if "language_model" in regions:
        for layer in mllm.llava.model.language_model.layers:
            layer.compile(dynamic=True)
