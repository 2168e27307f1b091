"""Released PRS-Med checkpoints: import, use, export."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prs_med.config import Settings
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mask_decoder import MaskDecoder
from prs_med.model.mllm import load_llava
from prs_med.model.released import RELEASED_MODALITIES, export_released, import_released
from prs_med.model.tiny_llava import write_llava_med
from prs_med.model.trained_weights import load_trained
from tests.unit.assembled import assemble
from tests.unit.released_layout import ALPHA, RANK, write_released


@pytest.fixture(scope="module")
def released(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "llm_seg_20"
    write_released(folder, small)
    return folder


@pytest.fixture(scope="module")
def imported(released: Path, small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "trained"
    import_released(released, folder, str(small.llava_med))
    # The small base model computes in fp32 here, so that results can be compared closely.
    settings = folder / "settings.yaml"
    settings.write_text(settings.read_text().replace("precision: bf16", "precision: fp32"))
    return folder


def copy_with(released: Path, folder: Path, file: str, change) -> Path:
    """A copy of the checkpoint in which ``change`` was applied to the tensors of one file."""
    shutil.copytree(released, folder)
    path = folder / file
    if path.suffix == ".safetensors":
        save_file(change(load_file(path)), path)
    else:
        torch.save(change(torch.load(path, weights_only=True)), path)
    return folder


def merged_by_hand(small, released: Path, folder: Path) -> Path:
    """The base model with W + (alpha / r) B A written into its original shards."""
    shutil.copytree(small.llava_med, folder)
    lora = load_file(released / "lora_adapter" / "adapter_model.safetensors")
    for shard in folder.glob("*.safetensors"):
        state = load_file(shard)
        for name, weight in state.items():
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in lora:
                a, b = lora[f"{stem}.lora_A.weight"], lora[f"{stem}.lora_B.weight"]
                state[name] = weight + ALPHA / RANK * (b @ a)
        save_file(state, shard, metadata={"format": "pt"})
    return folder


def test_the_imported_model_computes_what_the_released_weights_say(
    small, released: Path, imported: Path, tmp_path: Path
) -> None:
    model = load_trained(imported)
    merged = load_llava(
        read_layout(str(merged_by_hand(small, released, tmp_path / "merged"))),
        Settings(precision="fp32"),
    ).eval()
    base = load_llava(model.layout, Settings(precision="fp32")).eval()
    ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.mllm.llava.model.language_model(ids).last_hidden_state
        expected = merged.model.language_model(ids).last_hidden_state
        untrained = base.model.language_model(ids).last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (ours - untrained).abs().max() > 0.1

    decoder = MaskDecoder(model.mllm.hidden_size)
    decoder.load_state_dict(torch.load(released / "mask_decoder.pth", weights_only=True))
    encoder = load_encoder("tinysam", str(small.tinysam))
    branch = model.segmentation
    for mine, theirs in ((branch.mask_decoder, decoder), (branch.image_encoder, encoder)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value), name


def test_imported_settings_are_those_it_was_trained_with(imported: Path) -> None:
    model = load_trained(imported)
    settings = model.settings
    assert (settings.prompt_tokens, settings.prompt_template) == ("all", "released")
    assert (settings.lora_rank, settings.lora_alpha) == (RANK, ALPHA)
    assert set(settings.lora_targets.split(",")) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert (settings.encoder_type, settings.image_size) == ("tinysam", 1024)
    assert model.modalities == RELEASED_MODALITIES


def assert_equal_checkpoints(one: Path, other: Path) -> None:
    for name in ("image_encoder.pth", "mask_decoder.pth", "cls.pth"):
        a = torch.load(one / name, weights_only=True)
        b = torch.load(other / name, weights_only=True)
        assert a.keys() == b.keys(), name
        assert all(torch.equal(a[key], b[key]) for key in a), name
    a, b = (load_file(f / "lora_adapter" / "adapter_model.safetensors") for f in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    for file in (one / "tokenizer").iterdir():
        assert file.read_bytes() == (other / "tokenizer" / file.name).read_bytes()
    configs = [
        json.loads((f / "lora_adapter" / "adapter_config.json").read_text()) for f in (one, other)
    ]
    for key in ("r", "lora_alpha", "lora_dropout", "bias", "peft_type"):
        assert configs[0][key] == configs[1][key]
    assert set(configs[0]["target_modules"]) == set(configs[1]["target_modules"])


def test_import_and_export_give_the_same_files(
    released: Path, imported: Path, tmp_path: Path
) -> None:
    export_released(imported, tmp_path / "again")
    assert_equal_checkpoints(released, tmp_path / "again")


def test_export_and_import_give_the_same_model(small, tmp_path: Path) -> None:
    model = assemble(small)
    model.save(tmp_path / "ours")
    export_released(tmp_path / "ours", tmp_path / "released")
    import_released(
        tmp_path / "released", tmp_path / "back", str(small.llava_med), model.modalities
    )
    for file in ("segmentation.safetensors", "adapter/adapter_model.safetensors"):
        one, other = load_file(tmp_path / "ours" / file), load_file(tmp_path / "back" / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    export_released(tmp_path / "back", tmp_path / "again")
    assert_equal_checkpoints(tmp_path / "released", tmp_path / "again")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_in_names_are_taken_off(
    prefix: str, small, released: Path, imported: Path, tmp_path: Path
) -> None:
    folder = released
    for number, file in enumerate(("image_encoder.pth", "mask_decoder.pth", "cls.pth")):
        folder = copy_with(
            folder,
            tmp_path / str(number),
            file,
            lambda state: {f"{prefix}{name}": value for name, value in state.items()},
        )
    import_released(folder, tmp_path / "out", str(small.llava_med))
    one = load_file(imported / "segmentation.safetensors")
    other = load_file(tmp_path / "out" / "segmentation.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_encoder_without_the_rest_of_sam(small, released: Path, tmp_path: Path) -> None:
    folder = copy_with(
        released,
        tmp_path / "short",
        "image_encoder.pth",
        lambda state: {n: t for n, t in state.items() if n.startswith("image_encoder.")},
    )
    import_released(folder, tmp_path / "out", str(small.llava_med))


def test_an_old_adapter_file(small, released: Path, imported: Path, tmp_path: Path) -> None:
    shutil.copytree(released, tmp_path / "old")
    file = tmp_path / "old" / "lora_adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    import_released(tmp_path / "old", tmp_path / "out", str(small.llava_med))
    one = load_file(imported / "adapter" / "adapter_model.safetensors")
    other = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def without(part: str):
    return lambda state: {n: t for n, t in state.items() if part not in n}


def plus(name: str):
    return lambda state: {**state, name: torch.zeros(1)}


def clip_learnt(state):
    name = next(n for n in state if "vision_tower" in n and n.endswith("lora_B.weight"))
    return {**state, name: torch.ones_like(state[name])}


def another_alias(state):
    name = "image_encoder.neck.0.weight"
    return {**state, name: state[name] + 1}


LORA = "lora_adapter/adapter_model.safetensors"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("mask_decoder.pth", plus("fusion.weight"), r"mask_decoder.pth: .*unexpected: fusion"),
        ("mask_decoder.pth", without("out_dec.bias"), r"mask_decoder.pth: .*missing: out_dec.bias"),
        ("cls.pth", plus("4.weight"), r"cls.pth: .*unexpected: 4.weight"),
        ("image_encoder.pth", plus("sam.extra.weight"), r"image_encoder.pth: .*extra.weight"),
        ("image_encoder.pth", plus("decoder.weight"), r"image_encoder.pth: decoder.weight belongs"),
        ("image_encoder.pth", another_alias, r"image_encoder.neck.0.weight and sam.image_enc"),
        ("image_encoder.pth", without("layers.2.blocks.0.attn.qkv"), "missing: layers.2"),
        (LORA, without("layers.1.self_attn.q_proj.lora_A"), r"missing: .*layers.1"),
        (LORA, plus("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"), "left over"),
        (LORA, plus("base_model.model.lm_head.lora_A.weight"), "belongs to no known module"),
        (LORA, clip_learnt, "changes the CLIP tower"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    file: str, change, message: str, small, released: Path, tmp_path: Path
) -> None:
    folder = copy_with(released, tmp_path / "bad", file, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_released(folder, tmp_path / "out", str(small.llava_med))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lora_adapter/adapter_config.json", "tokenizer", "cls.pth"])
def test_a_missing_part_is_named(name: str, small, released: Path, tmp_path: Path) -> None:
    shutil.copytree(released, tmp_path / "bad")
    part = tmp_path / "bad" / name
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(CheckpointError, match=f"{part}: not found"):
        import_released(tmp_path / "bad", tmp_path / "out", str(small.llava_med))


def test_another_tokenizer_is_refused(small, released: Path, tmp_path: Path) -> None:
    shutil.copytree(released, tmp_path / "bad")
    other = [f"{letter * 3} {letter * 5}" for letter in "abcdefghij"]
    write_llava_med(tmp_path / "other", other, seed=1)
    for file in (tmp_path / "other").glob("*token*"):
        shutil.copy(file, tmp_path / "bad" / "tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer: another tokenizer than that of"):
        import_released(tmp_path / "bad", tmp_path / "out", str(small.llava_med))


def test_another_number_of_classes(small, released: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="head of 6 classes, but 2 modalities"):
        import_released(released, tmp_path / "out", str(small.llava_med), ("ct", "mri"))


def test_a_checkpoint_of_the_other_network_is_explained(small, tmp_path: Path) -> None:
    (tmp_path / "best_model_epoch_3.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="fusion module, and cannot be converted"):
        import_released(tmp_path / "best_model_epoch_3.pth", tmp_path / "out", str(small.llava_med))


class _Danger:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_no_code_in_a_file_is_run(small, released: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    shutil.copytree(released, tmp_path / "bad")
    with (tmp_path / "bad" / "mask_decoder.pth").open("wb") as file:
        pickle.dump(_Danger(marker), file, protocol=2)
    with pytest.raises(CheckpointError, match=r"mask_decoder.pth: cannot be read"):
        import_released(tmp_path / "bad", tmp_path / "out", str(small.llava_med))
    assert not marker.exists()


def test_nothing_is_overwritten(small, released: Path, imported: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        import_released(released, imported, str(small.llava_med))
    with pytest.raises(CheckpointError, match="exists already"):
        export_released(imported, released)
