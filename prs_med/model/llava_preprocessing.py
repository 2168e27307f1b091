"""How images are prepared for the CLIP tower, as a checkpoint's own description says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_hub import read_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_BICUBIC = 3
_FIXED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": _BICUBIC,
    "do_convert_rgb": True,
}
"""What is done to every image here; a description that says otherwise is of another model."""


@dataclass(frozen=True)
class Preparation:
    """What happens to an image before the CLIP tower sees it."""

    pad_to_square: bool
    """Pad with the mean colour (True) or crop the centre."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of pixels in 0..1, red, green, blue."""


def read_preparation(
    folder: Path, raw: Mapping[str, Any], vision_folder: Path | None, image_size: int
) -> Preparation:
    """What the model in ``folder`` expects; OpenAI's numbers where it says nothing.

    Args:
        raw: its config.json.
        vision_folder: the CLIP model that takes the place of the model's own tower.
        image_size: side in pixels of the tower's input.

    Raises:
        CheckpointError: naming file and entry, if images would have to be prepared in a way that
            is not known here.
    """
    file, described = _description(folder)
    pad = _pads(folder / "config.json", raw, file, described)
    if vision_folder is not None:
        file, described = _description(vision_folder)
    _refuse_unknown(file, described, image_size, pad)
    return Preparation(
        pad_to_square=pad,
        mean=_three(file, described, "image_mean", CLIP_MEAN),
        std=_three(file, described, "image_std", CLIP_STD),
    )


def _description(folder: Path) -> tuple[Path, dict[str, Any]]:
    own, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if own.is_file():
        return own, read_json(own)
    if whole.is_file():
        # transformers 5 writes one file for the tokenizer's and the images' side.
        inner = read_json(whole).get("image_processor")
        if isinstance(inner, dict):
            return whole, inner
    return own, {}


def _pads(config: Path, raw: Mapping[str, Any], file: Path, described: Mapping[str, Any]) -> bool:
    ratio = raw.get("image_aspect_ratio")
    if ratio not in (None, "pad", "square"):
        raise CheckpointError(
            f"{config}: image_aspect_ratio {ratio!r} is not supported, only 'pad' and 'square'"
        )
    if described.get("do_pad") and not _kind(described).startswith("Llava"):
        raise CheckpointError(f"{file}: do_pad is not supported for {_kind(described)}")
    return ratio == "pad" or (ratio is None and bool(described.get("do_pad")))


def _kind(described: Mapping[str, Any]) -> str:
    return str(
        described.get("image_processor_type")
        or described.get("feature_extractor_type")
        or "CLIPImageProcessor"
    )


def _refuse_unknown(file: Path, described: Mapping[str, Any], size: int, pad: bool) -> None:
    if not _kind(described).startswith(("CLIP", "LlavaImageProcessor")):
        raise CheckpointError(f"{file}: image processor {_kind(described)} is not supported")
    for name, wanted in _FIXED.items():
        if described.get(name) not in (None, wanted):
            raise CheckpointError(f"{file}: {name} {described[name]!r} is not supported")
    factor = described.get("rescale_factor") or 1 / 255
    if abs(float(factor) * 255 - 1) > 1e-4:
        raise CheckpointError(f"{file}: rescale_factor {factor!r} is not supported, only 1/255")
    resized, stretches = _side(file, described, "size", size)
    crops = described.get("do_center_crop") is not False
    cropped = _side(file, described, "crop_size", size)[0] if crops else resized
    if resized != size or cropped != size:
        raise CheckpointError(
            f"{file}: images of {cropped} pixels cut from {resized} do not fit the vision tower, "
            f"which takes {size}"
        )
    # Of an image that is square already, all ways to scale it are the same.
    if not pad and (stretches or not crops):
        raise CheckpointError(
            f"{file}: images are stretched to a square or left oblong, which is not supported: "
            f"size must be {{'shortest_edge': {size}}} with do_center_crop, or images padded"
        )


def _side(file: Path, described: Mapping[str, Any], name: str, default: int) -> tuple[int, bool]:
    """Side in pixels, and whether both sides of an image are scaled to it."""
    value = described.get(name) or default
    if isinstance(value, int):
        return value, False
    if isinstance(value, dict):
        if isinstance(value.get("shortest_edge"), int):
            return int(value["shortest_edge"]), False
        if isinstance(value.get("height"), int) and value["height"] == value.get("width"):
            return int(value["height"]), name == "size"
    raise CheckpointError(f"{file}: {name} {value!r} is not supported")


def _three(
    file: Path, described: Mapping[str, Any], name: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    values = described.get(name) or default
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError):
        raise CheckpointError(f"{file}: {name} {values!r} is not three numbers") from None
    if name == "image_std" and min(red, green, blue) <= 0:
        raise CheckpointError(f"{file}: {name} {values!r} is not three positive numbers")
    return red, green, blue
