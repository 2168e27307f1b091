"""A saved model is the model again, and what is not one is refused by file name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prs_med.batch import Batch
from prs_med.model.errors import CheckpointError
from prs_med.model.mllm import Mllm, load_llava
from prs_med.model.prs_med import Outputs, forward
from prs_med.model.trained_weights import load_trained, save_trained
from tests.unit.assembled import Assembled, assemble


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


@pytest.fixture(scope="module")
def saved(model: Assembled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "best"
    model.save(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "best"))


def stored(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(str(file), framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


@torch.no_grad()
def outputs(mllm: Mllm, segmentation: torch.nn.Module, batch: Batch) -> Outputs:
    return forward(mllm, segmentation, batch)


def assert_same_outputs(one: Outputs, other: Outputs) -> None:
    for name in ("mask_logits", "text_logits", "modality_logits"):
        assert getattr(one, name).isfinite().all()
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"train_projector": True},
        {"lora_targets": "q_proj,gate_proj", "lora_rank": 4, "lora_alpha": 3},
        {"load_4bit": True},
        {"load_4bit": True, "precision": "bf16", "train_projector": True},
        {"load_8bit": True, "precision": "bf16"},
        {"finetune": "full"},
        {"finetune": "full", "precision": "bf16", "train_projector": True},
        {"freeze_encoder": True},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "lora",
)
def test_a_saved_model_gives_the_same_outputs(small, tmp_path: Path, changes) -> None:
    model = assemble(small, **changes)
    model.save(tmp_path / "final")
    loaded = load_trained(tmp_path / "final")
    assert not loaded.mllm.training
    assert not loaded.segmentation.training
    assert loaded.settings == model.settings
    assert loaded.modalities == model.modalities
    batch = model.batch(model.records[:3])
    assert_same_outputs(
        outputs(loaded.mllm, loaded.segmentation, batch),
        outputs(model.mllm, model.segmentation, batch),
    )


def test_training_made_a_difference(small, model) -> None:
    """Else equal outputs would prove nothing."""
    batch = model.batch(model.records[:2])
    base = Mllm(load_llava(model.layout, model.settings), model.layout).eval()
    untrained = outputs(base, model.segmentation, batch)
    trained = outputs(model.mllm, model.segmentation, batch)
    assert (untrained.text_logits - trained.text_logits).abs().max() > 0.1
    assert (untrained.mask_logits - trained.mask_logits).abs().max() > 1e-3


@pytest.mark.parametrize("train_projector", [False, True])
@torch.no_grad()
def test_the_adapter_loads_in_plain_peft(small, tmp_path: Path, train_projector: bool) -> None:
    model = assemble(small, train_projector=train_projector)
    model.save(tmp_path / "final")
    base = load_llava(model.layout, model.settings)
    plain = PeftModel.from_pretrained(base, str(tmp_path / "final" / "adapter")).eval()
    batch = model.batch(model.records[:2])
    arguments = (batch.input_ids, batch.attention_mask, batch.image_vlm, batch.label_index)
    for found, expected in zip(
        Mllm(plain, model.layout).eval()(*arguments), model.mllm(*arguments), strict=True
    ):
        assert torch.equal(found, expected)


def test_full_fine_tuning_loads_in_plain_transformers(small, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    model = assemble(small, finetune="full")
    model.save(tmp_path / "final")
    plain = LlavaForConditionalGeneration.from_pretrained(
        str(tmp_path / "final" / "mllm"), dtype=torch.float32
    )
    expected = model.mllm.llava.state_dict()
    found = plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("finetune", ["lora", "full"])
def test_no_file_can_hold_code(small, tmp_path: Path, finetune: str) -> None:
    assemble(small, finetune=finetune).save(tmp_path / "final")
    suffixes = {path.suffix for path in (tmp_path / "final").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".yaml", ".safetensors", ".model", ".md", ".jinja"}


def test_only_what_was_trained_is_saved(saved: Path, model: Assembled) -> None:
    adapter = saved / "adapter" / "adapter_model.safetensors"
    names = stored(adapter)
    trained = {n: p for n, p in model.mllm.named_parameters() if p.requires_grad}
    assert len(names) == len(trained)
    assert all("lora_" in name for name in names)
    numbers = sum(parameter.numel() for parameter in trained.values())
    assert adapter.stat().st_size < 4 * numbers + 100 * len(names) + 10_000
    assert stored(saved / "segmentation.safetensors").keys() == set(model.segmentation.state_dict())
    base = sum(file.stat().st_size for file in model.layout.folder.glob("*.safetensors"))
    weights = [
        file for file in saved.rglob("*.safetensors") if file.name != "segmentation.safetensors"
    ]
    assert sum(file.stat().st_size for file in weights) < base / 4


def test_the_folder_says_what_it_is(saved: Path, model: Assembled) -> None:
    about = json.loads((saved / "model.json").read_text())
    assert about == {
        "format_version": 1,
        "base_model": model.settings.vlm_path,
        "modalities": list(model.modalities),
        "results": {"val_dice": 0.5},
    }


def test_a_base_model_that_has_moved(small, copy: Path, model: Assembled, tmp_path: Path) -> None:
    about = json.loads((copy / "model.json").read_text())
    about["base_model"] = str(tmp_path / "gone")
    (copy / "model.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="gone"):
        load_trained(copy)
    loaded = load_trained(copy, vlm_path=str(small.llava_med))
    batch = model.batch(model.records[:2])
    assert_same_outputs(
        outputs(loaded.mllm, loaded.segmentation, batch),
        outputs(model.mllm, model.segmentation, batch),
    )


def test_saving_replaces_the_older_folder_as_a_whole(small, tmp_path: Path) -> None:
    folder = tmp_path / "best"
    assemble(small, finetune="full").save(folder)
    (folder / "leftover.txt").write_text("from before")
    model = assemble(small)
    model.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert not (folder / "leftover.txt").exists()
    assert not (folder / "mllm").exists()
    assert load_trained(folder).settings.finetune == "lora"


def test_a_save_that_fails_leaves_the_older_folder(model: Assembled, copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(TypeError):
        save_trained(
            copy,
            model.mllm,
            {n: p.detach() for n, p in model.mllm.named_parameters() if p.requires_grad},
            model.segmentation.state_dict(),
            model.tokenizer,
            model.settings,
            model.modalities,
            {"val_dice": object()},
        )
    assert {p.name: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    model.save(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("lost", ["model.json", "settings.yaml", "segmentation.safetensors"])
def test_a_missing_file_is_named(copy: Path, lost: str) -> None:
    (copy / lost).unlink()
    with pytest.raises(CheckpointError, match=lost):
        load_trained(copy)


def test_a_missing_adapter_is_named_and_not_looked_for_on_the_hub(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "adapter")
    # "best/adapter", as a relative path, has the form of a model's name on the hub.
    monkeypatch.chdir(copy.parent)
    with pytest.raises(CheckpointError, match=r"^best/adapter/.* not found"):
        load_trained(Path("best"))


def test_missing_full_weights_are_named_and_not_looked_for_on_the_hub(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assemble(small, finetune="full").save(tmp_path / "best")
    shutil.rmtree(tmp_path / "best" / "mllm")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^best/mllm/.* not found"):
        load_trained(Path("best"))


@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_missing_file_of_the_adapter_is_named(copy: Path, lost: str) -> None:
    (copy / "adapter" / lost).unlink()
    with pytest.raises(CheckpointError, match=str(copy / "adapter" / lost)):
        load_trained(copy)


def test_an_adapter_without_some_of_its_weights_is_refused(copy: Path) -> None:
    file = copy / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    name = next(iter(state))
    save_file({k: v for k, v in state.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"adapter: .*{name}"):
        load_trained(copy)
    save_file({**state, "surprise": torch.ones(3)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"adapter: .*surprise"):
        load_trained(copy)


def test_settings_that_are_not_allowed_are_refused_by_file_name(copy: Path) -> None:
    file = copy / "settings.yaml"
    file.write_text(file.read_text().replace("precision: fp32", "precision: fp8"))
    with pytest.raises(CheckpointError, match=r"settings\.yaml: --precision fp8"):
        load_trained(copy)


def test_rotary_frequencies_stay_fp32(small, tmp_path: Path) -> None:
    """Rounded to bf16 they turn far positions by the wrong angle."""
    model = assemble(small, precision="bf16")
    model.save(tmp_path / "final")
    for mllm in (model.mllm, load_trained(tmp_path / "final").mllm):
        frequencies = mllm.llava.model.language_model.rotary_emb.inv_freq
        assert frequencies.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["segmentation.safetensors", "adapter/adapter_model.safetensors", "model.json"]
)
def test_a_truncated_file_is_named(copy: Path, name: str) -> None:
    file = copy / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name.split("/")[0]):
        load_trained(copy)


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_format_version_is_refused(copy: Path, version) -> None:
    about = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**about, "format_version": version}))
    with pytest.raises(CheckpointError, match=r"model\.json: format version .*reads 1"):
        load_trained(copy)


@pytest.mark.parametrize("text", ["[]", '{"format_version": 1}', "3"])
def test_json_that_is_no_description_is_refused(copy: Path, text: str) -> None:
    (copy / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_trained(copy)


def test_weights_of_other_modalities_are_refused(copy: Path) -> None:
    about = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**about, "modalities": ["ct"]}))
    with pytest.raises(CheckpointError, match=r"segmentation\.safetensors.*cls"):
        load_trained(copy)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_trained(tmp_path / "nowhere")


def test_an_adapter_of_another_base_model_is_refused(saved: Path, small, tmp_path: Path) -> None:
    from prs_med.data.phantoms import phantom_texts
    from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med

    wider = tmp_path / "wider"
    write_llava_med(wider, phantom_texts(small.data), seed=2, size=TinyLlavaSize(width=256))
    with pytest.raises(CheckpointError, match=r"adapter: .* has the shape") as error:
        load_trained(saved, vlm_path=str(wider))
    assert len(str(error.value).splitlines()) == 1
    deeper = tmp_path / "deeper"
    write_llava_med(deeper, phantom_texts(small.data), seed=2, size=TinyLlavaSize(layers=3))
    with pytest.raises(CheckpointError, match=r"adapter: .*layers\.2\."):
        load_trained(saved, vlm_path=str(deeper))
