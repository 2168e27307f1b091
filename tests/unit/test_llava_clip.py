"""The CLIP tower from among the weights, or from a CLIP model of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from prs_med.config import DataSettings, ModelSettings
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import CLIP_MEAN, read_layout
from prs_med.model.mllm import load_llava, load_tokenizer
from tests.unit.llava_variants import (
    CLIP_FORMS,
    CONTAINERS,
    Source,
    State,
    change_json,
    one_weight_file,
    running_state,
    write_clip,
    write_variant,
)

FP32 = ModelSettings(precision="fp32")
TOWER = "model.vision_tower."


@pytest.fixture(scope="module")
def source(small) -> Source:
    return Source(small.llava_med, read_layout(str(small.llava_med)).config)


@pytest.fixture(scope="module")
def tower(source) -> State:
    state = running_state(source.folder)
    return {k.removeprefix(TOWER): v for k, v in state.items() if k.startswith(TOWER)}


def _drop_tower(state: State) -> None:
    for name in [name for name in state if "vision_tower" in name]:
        del state[name]


def _weights(folder: Path, vision_tower: str | None = None) -> State:
    return load_llava(read_layout(str(folder), vision_tower), FP32).state_dict()


def _assert_equal(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", CLIP_FORMS)
@pytest.mark.parametrize("layout", ["original", "transformers_4"])
def test_a_tower_from_elsewhere_completes_the_model(
    source, tower, tmp_path, layout, form, container
) -> None:
    folder = write_variant(source, tmp_path / "m", layout, "bin", _drop_tower)
    clip = write_clip(tmp_path / "clip", tower, source.config, form, container)
    _assert_equal(_weights(folder, str(clip)), running_state(source.folder))


@pytest.mark.parametrize("layout", ["original", "transformers_4", "mixed"])
def test_it_takes_the_place_of_the_one_in_the_shards(source, tower, tmp_path, layout) -> None:
    folder = write_variant(source, tmp_path / "m", layout, "safetensors_shards")
    other = {name: value + 1 for name, value in tower.items()}
    clip = write_clip(tmp_path / "clip", other, source.config, "whole_model", "bin")
    found = _weights(folder, str(clip))
    for name, value in running_state(source.folder).items():
        assert torch.equal(found[name], value + 1 if name.startswith(TOWER) else value)


def test_its_sizes_come_from_its_own_description(source, tower, tmp_path) -> None:
    """One layer more, and larger images: more features, more image tokens."""
    deeper = {
        **tower,
        **{
            n.replace("layers.1.", "layers.2."): v + 1 for n, v in tower.items() if "layers.1." in n
        },
        "embeddings.position_embedding.weight": torch.randn(26, 128),
    }
    clip = write_clip(tmp_path / "clip", deeper, source.config, "vision_model", "safetensors")
    change_json(clip / "config.json", num_hidden_layers=3, image_size=70, hidden_act="gelu")
    layout = read_layout(str(source.folder), str(clip))
    model = load_llava(layout, FP32)
    assert len(model.model.vision_tower.encoder.layers) == 3
    assert model.config.vision_config.hidden_act == "gelu"
    assert image_sizes(layout, ModelSettings()).vlm == 70
    encoder = prompt_encoder(load_tokenizer(layout), layout, DataSettings(data_root="/"))
    assert encoder.prompt("Where?").count(-200) == 25


def test_its_pixel_statistics_come_from_its_own_description(source, tower, tmp_path) -> None:
    clip = write_clip(tmp_path / "clip", tower, source.config, "vision_model", "safetensors")
    assert read_layout(str(source.folder), str(clip)).image_mean == CLIP_MEAN
    change_json(
        clip / "preprocessor_config.json",
        feature_extractor_type="CLIPFeatureExtractor",
        size=56,
        crop_size=56,
        resample=3,
        do_center_crop=True,
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
    )
    layout = read_layout(str(source.folder), str(clip))
    assert (layout.image_mean, layout.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert layout.pad_to_square  # that is the language model's training, not the tower's


def test_four_bits_with_a_tower_from_elsewhere(source, tower, tmp_path) -> None:
    folder = write_variant(source, tmp_path / "m", "original", "bin_shards", _drop_tower)
    clip = write_clip(tmp_path / "clip", tower, source.config, "whole_model", "bin")
    model = load_llava(read_layout(str(folder), str(clip)), ModelSettings(load_4bit=True))
    assert sum(isinstance(module, Linear4bit) for module in model.modules()) == 2 * 7
    name = "encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[TOWER + name], tower[name].bfloat16())


@pytest.mark.parametrize("layout", ["original", "transformers_4"])
def test_no_tower_anywhere(source, tmp_path, layout) -> None:
    folder = write_variant(source, tmp_path / "m", layout, "bin", _drop_tower)
    message = r"no CLIP tower among .*--vision_tower openai/clip-vit-large-patch14-336$"
    with pytest.raises(CheckpointError, match=message):
        read_layout(str(folder))
    change_json(folder / "config.json", mm_vision_tower="some/clip")
    with pytest.raises(CheckpointError, match=r"--vision_tower some/clip$"):
        read_layout(str(folder))


def test_half_a_tower_is_not_a_tower(source, tmp_path) -> None:
    def drop_some(state: State) -> None:
        for name in [name for name in state if "vision_model.embeddings.p" in name]:
            del state[name]

    folder = write_variant(source, tmp_path / "o", "original", "bin", drop_some)
    with pytest.raises(CheckpointError, match=r"incomplete \('.*patch_embedding\.weight'\)"):
        read_layout(str(folder))
    folder = write_variant(source, tmp_path / "t", "transformers_4", "bin", drop_some)
    with pytest.raises(CheckpointError, match=r"missing: .*patch_embedding\.weight"):
        _weights(folder)


@pytest.mark.parametrize("layout", ["original", "transformers_4"])
def test_a_tower_of_another_width(source, tower, tmp_path, layout) -> None:
    folder = write_variant(source, tmp_path / "m", layout, "bin")
    clip = write_clip(tmp_path / "clip", tower, source.config, "vision_model", "bin")
    change_json(clip / "config.json", hidden_size=64)
    message = r"--vision_tower .*clip: its features have 64 channels, .* takes 128; "
    with pytest.raises(CheckpointError, match=message):
        read_layout(str(folder), str(clip))


@pytest.mark.parametrize("container", CONTAINERS)
def test_damage_to_it_is_named(source, tower, tmp_path, container) -> None:
    folder = write_variant(source, tmp_path / "m", "original", "bin")
    for number, (change, message) in enumerate(
        [
            (lambda t: t.pop("pre_layrnorm.bias"), r"missing: .*pre_layrnorm\.bias$"),
            (
                lambda t: t.update({"text_models.x": torch.zeros(1)}),
                r"unexpected: (vision_model\.)?text_models\.x in \S*model",
            ),
            (
                lambda t: t.update({"pre_layrnorm.bias": torch.zeros(3)}),
                r"of another shape: \S*pre_layrnorm\.bias in .* \(3,\) instead of \(128,\)",
            ),
        ]
    ):
        changed = dict(tower)
        change(changed)
        clip = write_clip(
            tmp_path / f"clip{number}", changed, source.config, CLIP_FORMS[number], container
        )
        with pytest.raises(CheckpointError, match=message) as raised:
            _weights(folder, str(clip))
        assert str(clip) in str(raised.value)
    file = one_weight_file(clip)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=re.escape(str(file))):
        _weights(folder, str(clip))


def test_what_is_no_clip_model(source, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"^--vision_tower /no/where: no such folder"):
        read_layout(str(source.folder), "/no/where")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(CheckpointError, match=r"'siglip'; --vision_tower needs a CLIP model"):
        read_layout(str(source.folder), str(tmp_path))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip_vision_model", "hidden_size": "wide"})
    )
    with pytest.raises(CheckpointError, match=r"config\.json: describes no model"):
        read_layout(str(source.folder), str(tmp_path))
