"""How images are prepared: what a checkpoint says is done, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_preprocessing import CLIP_MEAN, CLIP_STD, Preparation, read_preparation
from tests.unit.llava_variants import change_json

# As LLaVA-HF's checkpoints hold it.
PUBLISHED = {
    "crop_size": {"height": 336, "width": 336},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(CLIP_MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "image_std": list(CLIP_STD),
    "processor_class": "LlavaProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 336},
}
PADDED = {"image_processor_type": "LlavaImageProcessor", "do_pad": True}


def _read(folder: Path, **raw) -> Preparation:
    return read_preparation(folder, raw, None, 336)


def test_nothing_said(tmp_path) -> None:
    assert _read(tmp_path) == Preparation(False, CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize(("ratio", "pads"), [("pad", True), ("square", False), (None, False)])
def test_the_aspect_ratio_of_the_original(tmp_path, ratio, pads) -> None:
    assert _read(tmp_path, image_aspect_ratio=ratio).pad_to_square == pads


def test_an_unknown_aspect_ratio(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: image_aspect_ratio 'anyres' is not"):
        _read(tmp_path, image_aspect_ratio="anyres")


@pytest.mark.parametrize(
    ("changes", "pads"),
    [
        ({}, False),
        ({"size": 336, "crop_size": 336, "feature_extractor_type": "CLIPFeatureExtractor"}, False),
        ({"do_pad": False}, False),
        (PADDED, True),
        ({**PADDED, "size": {"height": 336, "width": 336}}, True),
        ({**PADDED, "do_center_crop": False, "crop_size": {"height": 7, "width": 7}}, True),
        ({"do_convert_rgb": None, "rescale_factor": None}, False),
        ({"size": {"height": None, "shortest_edge": 336, "width": None}}, False),
    ],
)
def test_published_descriptions(tmp_path, changes, pads) -> None:
    change_json(tmp_path / "preprocessor_config.json", **{**PUBLISHED, **changes})
    assert _read(tmp_path) == Preparation(pads, CLIP_MEAN, CLIP_STD)


def test_the_description_of_transformers_5(tmp_path) -> None:
    """One file for both sides of the processor."""
    described = {**PUBLISHED, **PADDED, "image_mean": [0.5, 0.25, 0.125]}
    change_json(
        tmp_path / "processor_config.json", image_processor=described, image_token="<image>"
    )
    assert _read(tmp_path) == Preparation(True, (0.5, 0.25, 0.125), CLIP_STD)


def test_what_the_configuration_says_of_padding_counts_first(tmp_path) -> None:
    change_json(tmp_path / "preprocessor_config.json", **{**PUBLISHED, **PADDED})
    assert not _read(tmp_path, image_aspect_ratio="square").pad_to_square
    change_json(tmp_path / "preprocessor_config.json", do_pad=False)
    assert _read(tmp_path, image_aspect_ratio="pad").pad_to_square


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": {"height": 224, "width": 224}}, "224 pixels cut from 336 do not fit"),
        ({"size": {"shortest_edge": 384}}, "336 pixels cut from 384 do not fit"),
        ({"size": {"height": 336, "width": 336}}, "stretched to a square"),
        ({"do_center_crop": False}, "left oblong"),
        ({"size": {"longest_edge": 336}}, "size {'longest_edge': 336} is not supported"),
        ({"crop_size": {"height": 336, "width": 224}}, "crop_size .* is not supported"),
        ({"resample": 2}, "resample 2 is not supported"),
        ({"do_normalize": False}, "do_normalize False is not supported"),
        ({"do_rescale": False}, "do_rescale False is not supported"),
        ({"do_resize": False}, "do_resize False is not supported"),
        ({"rescale_factor": 1.0}, r"rescale_factor 1\.0 is not supported"),
        ({"image_mean": [0.5]}, r"image_mean \[0\.5\] is not three numbers"),
        ({"image_std": "wide"}, "image_std 'wide' is not three numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std .* is not three positive"),
        ({"image_processor_type": "LlavaNextImageProcessor"}, "LlavaNextImageProcessor is not"),
        ({"image_processor_type": "SiglipImageProcessor"}, "SiglipImageProcessor is not"),
        ({"do_pad": True}, "do_pad is not supported for CLIPImageProcessor"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, changes, message) -> None:
    file = tmp_path / "preprocessor_config.json"
    change_json(file, **{**PUBLISHED, **changes})
    with pytest.raises(CheckpointError, match=message) as raised:
        _read(tmp_path)
    assert str(file) in str(raised.value)
