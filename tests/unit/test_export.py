"""A training checkpoint becomes other forms of the same model."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from prs_med.answering_config import UsedModelSettings
from prs_med.batch import Batch
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.config import SettingError
from prs_med.data.images import load_image
from prs_med.data.samples import prepare_images
from prs_med.data.stored_split import StoredSplit
from prs_med.evaluate.answering import Answerer
from prs_med.export.load import load_model
from prs_med.export.merged_model import export_merged
from prs_med.export.named_checkpoint import find_checkpoints
from prs_med.export.trained_folder import export_trained
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import load_tokenizer
from prs_med.model.normalise import normalise
from prs_med.model.prs_med import Outputs, forward
from prs_med.model.tiny_encoders import write_tinysam
from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med
from prs_med.settings_io import parse_training_settings
from tests.unit.assembled import Assembled, assemble
from tests.unit.training_checkpoint import write_checkpoint

KINDS = {
    "lora": {},
    "bf16": {"precision": "bf16"},
    "projector": {"train_projector": True},
    "other_layers": {"lora_targets": "q_proj,gate_proj", "lora_rank": 4, "lora_alpha": 3},
    "full": {"finetune": "full"},
    "full_projector": {"finetune": "full", "train_projector": True},
    "frozen_encoder": {"freeze_encoder": True},
    "nf4": {"load_4bit": True},
}


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


@pytest.fixture(scope="module")
def run(model: Assembled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with two checkpoints, the newer one of ``model``."""
    folder = tmp_path_factory.mktemp("run")
    place = DirectoryPlace(folder / "checkpoints")
    write_checkpoint(model, place, step=3)
    write_checkpoint(model, place, step=6)
    return folder


def saved(model: Assembled, folder: Path, **more) -> Path:
    write_checkpoint(model, DirectoryPlace(folder / "checkpoints"), **more)
    return folder


@torch.no_grad()
def outputs(model, batch: Batch) -> Outputs:
    return forward(model.mllm.eval(), model.segmentation.eval(), batch)


def batch_of(model: Assembled) -> Batch:
    return model.batch(model.records[:3])


def assert_close(one: Outputs, other: Outputs, tolerance: float) -> None:
    for name in ("mask_logits", "text_logits", "modality_logits"):
        expected, found = (
            getattr(one, name),
            getattr(other, name)[..., : getattr(one, name).shape[-1]],
        )
        assert expected.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_the_model(small, tmp_path: Path, kind: str) -> None:
    """Loaded at once, and through a folder with trained weights."""
    model = assemble(small, **KINDS[kind])
    folder = saved(model, tmp_path / "run")
    expected = outputs(model, batch_of(model))
    assert_close(expected, outputs(load_model(str(folder)), batch_of(model)), 0)
    export_trained(find_checkpoints(str(folder)).open(), tmp_path / "trained")
    assert_close(expected, outputs(load_model(str(tmp_path / "trained")), batch_of(model)), 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("nf4", "bf16")])
def test_a_merged_model_computes_the_same(small, tmp_path: Path, kind: str) -> None:
    model = assemble(small, **KINDS[kind])
    model.save(tmp_path / "trained")
    export_merged(tmp_path / "trained", tmp_path / "merged", "fp32")
    found = outputs(load_model(str(tmp_path / "merged")), batch_of(model))
    # W x + s B (A x) and (W + s B A) x are rounded differently.
    assert_close(outputs(model, batch_of(model)), found, 1e-4)


def test_a_frozen_language_model_keeps_its_adapter(small, tmp_path: Path) -> None:
    model = assemble(small, freeze_mllm=True)
    model.mllm.requires_grad_(False)
    folder = saved(model, tmp_path / "run")
    found = outputs(load_model(str(folder)), batch_of(model))
    assert_close(outputs(model, batch_of(model)), found, 0)


def test_the_moving_average_is_exported(small, model: Assembled, tmp_path: Path) -> None:
    average = assemble(small, ema_decay=0.9)
    with torch.no_grad():
        for parameter in average.parameters().values():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    trained = assemble(small, ema_decay=0.9)
    folder = saved(trained, tmp_path / "run", average=average)
    found = outputs(load_model(str(folder)), batch_of(model))
    assert_close(outputs(average, batch_of(model)), found, 0)
    assert not torch.equal(outputs(model, batch_of(model)).mask_logits, found.mask_logits)


@pytest.fixture(scope="module")
def merged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("merged")
    export_trained(find_checkpoints(str(run)).open(), root / "trained")
    export_merged(root / "trained", root / "fp32", "fp32")
    export_merged(root / "trained", root / "bf16", "bf16")
    return root


def test_the_split_of_the_training_comes_along(run: Path, merged: Path, tmp_path: Path) -> None:
    expected = load_model(str(run)).split
    assert StoredSplit.parse(expected, "split.json").images
    for place in (merged / "trained", merged / "bf16"):
        assert load_model(str(place)).split == expected
    # Folders of earlier versions have none.
    older = Path(shutil.copytree(merged / "trained", tmp_path / "older"))
    (older / "split.json").unlink()
    assert load_model(str(older)).split is None


def test_plain_transformers_computes_what_prs_med_does(model: Assembled, merged: Path) -> None:
    """With its own processor: the same tokens, pixels and logits from an image and a question."""
    plain, report = LlavaForConditionalGeneration.from_pretrained(
        str(merged / "fp32"), output_loading_info=True
    )
    assert not any(report.values())
    assert plain.dtype == torch.float32
    record = model.records[0]
    image = load_image(record.image_path)
    prompt = model.prompts.prompt("Where is it?")
    processor = AutoProcessor.from_pretrained(str(merged / "fp32"))
    given = processor(images=image, text="USER: <image>\n Where?", return_tensors="pt")
    ours = model.layout
    pixels = prepare_images(image, model.sizes)[0][None]
    expected_pixels = normalise(pixels, ours.image_mean, ours.image_std)
    torch.testing.assert_close(given["pixel_values"], expected_pixels, rtol=0, atol=1e-6)

    token = plain.config.image_token_index
    ids = torch.tensor(list(prompt))[None]
    patches = (given["input_ids"] == token).sum()
    assert patches == (ids < 0).sum() == plain.config.image_seq_length
    with torch.no_grad():
        found = plain(
            input_ids=ids.masked_fill(ids < 0, token), pixel_values=given["pixel_values"]
        ).logits
        everywhere = torch.arange(ids.shape[1])
        expected = model.mllm(ids, torch.ones_like(ids, dtype=torch.bool), pixels, everywhere)[1]
    torch.testing.assert_close(found[0, :, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)


def write_published_vocabulary(small, folder: Path) -> Path:
    """A tokenizer with as many tokens as the published one, 32,000."""
    folder.mkdir()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(small.llava_med / name, folder)
    known = (small.llava_med / "tokenizer.model").read_bytes()
    vocabulary = sentencepiece_model_pb2.ModelProto.FromString(known)
    for number in range(32_000 - len(vocabulary.pieces)):
        vocabulary.pieces.add(piece=f"never{number}", score=-1e6 - number)
    (folder / "tokenizer.model").write_bytes(vocabulary.SerializeToString())
    return folder


def test_transformers_answers_with_the_published_vocabulary(small, tmp_path: Path) -> None:
    """There the image token's number is the number of rows, so that it has none."""
    base = tmp_path / "base"
    tokenizer = write_published_vocabulary(small, tmp_path / "tokenizer")
    write_llava_med(base, tokenizer, seed=2, size=TinyLlavaSize(width=64))
    layout = read_layout(str(base))
    assert layout.config.text_config.vocab_size == layout.config.image_token_index == 32_000
    model = assemble(replace(small, llava_med=base))
    model.save(tmp_path / "trained")
    export_merged(tmp_path / "trained", tmp_path / "merged", "bf16")
    plain = LlavaForConditionalGeneration.from_pretrained(str(tmp_path / "merged")).eval()
    token = plain.config.image_token_index
    assert plain.get_input_embeddings().weight.shape[0] == plain.lm_head.weight.shape[0] > token
    assert plain.config.text_config.vocab_size == plain.lm_head.weight.shape[0]
    processor = AutoProcessor.from_pretrained(str(tmp_path / "merged"))
    given = processor(
        images=load_image(model.records[0].image_path),
        text="USER: <image>\n Where is it?",
        return_tensors="pt",
    )
    assert (given["input_ids"] == token).any()
    answer = plain.generate(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        pixel_values=given["pixel_values"].bfloat16(),
        max_new_tokens=3,
        do_sample=False,
    )
    assert answer.shape[1] > given["input_ids"].shape[1]
    load_model(str(tmp_path / "merged"))


@pytest.mark.parametrize("finetune", ["lora", "full"])
def test_tied_weights_load_again_however_they_were_trained(
    small, tmp_path: Path, finetune: str
) -> None:
    """transformers stores the LM head and the embeddings once then."""
    layout = read_layout(str(small.llava_med))
    config = copy.deepcopy(layout.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    base = tmp_path / "base"
    LlavaForConditionalGeneration(config).save_pretrained(str(base))
    for file in small.llava_med.glob("*token*"):
        shutil.copy(file, base)
    model = assemble(replace(small, llava_med=base), finetune=finetune)
    assert model.mllm.llava.lm_head.weight is model.mllm.llava.get_input_embeddings().weight
    expected = outputs(model, batch_of(model))
    model.save(tmp_path / "trained")
    assert_close(expected, outputs(load_model(str(tmp_path / "trained")), batch_of(model)), 0)
    run = saved(model, tmp_path / "run")
    assert_close(expected, outputs(load_model(str(run)), batch_of(model)), 0)
    export_merged(tmp_path / "trained", tmp_path / "merged", "fp32")
    merged = load_model(str(tmp_path / "merged"))
    assert_close(expected, outputs(merged, batch_of(model)), 1e-4)


def test_the_image_token_is_never_answered(model: Assembled, merged: Path) -> None:
    weights = load_file(merged / "fp32" / "model.safetensors")
    rows = weights["language_model.lm_head.weight"]
    vocabulary = model.layout.config.text_config.vocab_size
    assert len(rows) == vocabulary + 1
    # Of equally likely tokens the first is taken: the unknown one, as before.
    assert torch.equal(rows[vocabulary], rows[model.tokenizer.unk_token_id])


def test_the_merged_tokenizer_reads_text_as_before(model: Assembled, merged: Path) -> None:
    plain = AutoTokenizer.from_pretrained(str(merged / "bf16"))
    again = load_tokenizer(read_layout(str(merged / "bf16")))
    for text in ("Where is the tumor?", "  two  spaces\n", "é ▁", "top left of the image."):
        expected = model.tokenizer(text).input_ids
        assert plain(text).input_ids == expected
        assert again(text).input_ids == expected
    # In a question these are letters, as the base model's tokenizer reads them here.
    assert again("<image></s>").input_ids == model.tokenizer("<image></s>").input_ids


def test_merged_weights_are_summed_in_fp32_and_rounded_once(merged: Path) -> None:
    exact = load_file(merged / "fp32" / "model.safetensors")
    rounded = load_file(merged / "bf16" / "model.safetensors")
    assert exact.keys() == rounded.keys()
    for name, value in rounded.items():
        assert torch.equal(value, exact[name].bfloat16()), name
    plain = LlavaForConditionalGeneration.from_pretrained(str(merged / "bf16"))
    assert plain.dtype == torch.bfloat16
    assert load_model(str(merged / "bf16")).mllm.llava.lm_head.weight.dtype == torch.bfloat16


def test_merged_and_unmerged_answers_agree(model: Assembled, run: Path, merged: Path) -> None:
    images = [load_image(record.image_path) for record in model.records[:4]]
    answers = [
        Answerer.load(UsedModelSettings(checkpoint=str(checkpoint), max_new_tokens=12)).answer(
            images, ["Where is the tumor?"] * 4
        )
        for checkpoint in (run, merged / "fp32")
    ]
    for one, other in zip(*answers, strict=True):
        assert one.text == other.text
        assert abs(one.probability - other.probability).max() < 1e-4


def test_a_base_model_that_has_moved_is_named(small, model: Assembled, tmp_path: Path) -> None:
    moved = shutil.copytree(small.llava_med, tmp_path / "moved")
    elsewhere = {**vars(model.settings), "vlm_path": str(tmp_path / "gone")}
    folder = saved(model, tmp_path / "run", settings=elsewhere)
    with pytest.raises(CheckpointError, match="gone: no such folder"):
        load_model(str(folder))
    found = outputs(load_model(str(folder), vlm_path=str(moved)), batch_of(model))
    assert_close(outputs(model, batch_of(model)), found, 0)


def test_another_base_model_is_refused(small, model: Assembled, run: Path, tmp_path: Path) -> None:
    write_llava_med(tmp_path / "other", [record.answer for record in model.records], seed=9)
    with pytest.raises(CheckpointError, match=r"step-00000006-01: was trained on another language"):
        load_model(str(run), vlm_path=str(tmp_path / "other"))


def test_a_frozen_encoder_that_has_changed_is_refused(small, tmp_path: Path) -> None:
    write_tinysam(tmp_path / "encoder.pth", seed=3)
    model = assemble(small, freeze_encoder=True, sam_ckpt=str(tmp_path / "encoder.pth"))
    folder = saved(model, tmp_path / "run")
    load_model(str(folder))
    write_tinysam(tmp_path / "encoder.pth", seed=4)
    with pytest.raises(CheckpointError, match="another frozen segmentation side"):
        load_model(str(folder))
    reader = find_checkpoints(str(folder)).open()
    export_trained(reader, tmp_path / "out", sam_ckpt=str(small.tinysam))


def test_a_trained_encoder_needs_no_published_file(small, tmp_path: Path) -> None:
    write_tinysam(tmp_path / "encoder.pth", seed=3)
    model = assemble(small, sam_ckpt=str(tmp_path / "encoder.pth"))
    folder = saved(model, tmp_path / "run")
    (tmp_path / "encoder.pth").unlink()
    load_model(str(folder))


def test_nothing_is_overwritten(merged: Path) -> None:
    with pytest.raises(CheckpointError, match="bf16 exists already"):
        export_merged(merged / "trained", merged / "bf16", "bf16")


def test_what_holds_no_weights_is_explained(small, run: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, small.tinysam, tmp_path / "nothing"):
        with pytest.raises(SettingError, match=rf"--checkpoint {wrong}: .*; give a folder with"):
            load_model(str(wrong))
    with pytest.raises(CheckpointError, match="holds a whole model: drop --vlm_path"):
        load_model(str(_merged_of(run, tmp_path)), vlm_path=str(small.llava_med))


def _merged_of(run: Path, folder: Path) -> Path:
    export_trained(find_checkpoints(str(run)).open(), folder / "trained")
    export_merged(folder / "trained", folder / "merged", "bf16")
    return folder / "merged"


def test_training_from_a_checkpoint_names_the_command(run: Path) -> None:
    checkpoint = run / "checkpoints" / "step-00000006-01"
    for text in (str(checkpoint), str(run), "s3://bucket/run"):
        with pytest.raises(SettingError, match=rf"launch/export.py trained {text} --output_dir"):
            parse_training_settings(["--init_from", text], "")
