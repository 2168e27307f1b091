"""The language model side: loading the published layouts, and what it computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, MistralForCausalLM

from prs_med.batch import IMAGE_TOKEN
from prs_med.config import ModelSettings, SettingError
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import CLIP_MEAN, CLIP_STD, read_layout
from prs_med.model.llava_weights import stored_tensors
from prs_med.model.mllm import Mllm, build_mllm, flops_per_token, load_llava, load_tokenizer
from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med

FP32 = {"precision": "fp32"}


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def _example(folder: Path) -> dict[str, torch.Tensor]:
    """Two sequences of different length, with random pixels."""
    images = 16 * [IMAGE_TOKEN]
    pixels = torch.randint(0, 256, (2, 3, 56, 56), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": torch.tensor([[1, *images, 20, 21, 22, 23], [1, *images, 30, 31, 0, 0]]),
        "attention_mask": torch.tensor([21 * [True], 19 * [True] + 2 * [False]]),
        "image": pixels.to(torch.uint8),
        "label_index": torch.tensor([17, 19, 21 + 17]),
    }


def _by_hand(folder: Path, example: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and logits from the stored tensors, composed without this package's code."""
    state = _state(folder)
    layout_config = read_layout(str(folder)).config
    clip = CLIPVisionModel(layout_config.vision_config).eval()
    prefix = "model.vision_tower.vision_tower.vision_model."
    names = clip.state_dict()
    inner = "vision_model." if any(k.startswith("vision_model.") for k in names) else ""
    clip.load_state_dict(
        {inner + k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    mistral = MistralForCausalLM(layout_config.text_config).eval()
    mistral.load_state_dict(
        {k: v for k, v in state.items() if "vision_tower" not in k and "mm_projector" not in k}
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    pixels = (example["image"] / 255 - mean) / std
    features = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    for layer in ("0", "2"):
        weight, bias = (state[f"model.mm_projector.{layer}.{part}"] for part in ("weight", "bias"))
        features = features @ weight.T + bias
        if layer == "0":
            features = torch.nn.functional.gelu(features)
    hidden, logits = [], []
    for row, ids in enumerate(example["input_ids"]):
        length = int(example["attention_mask"][row].sum())
        table = state["model.embed_tokens.weight"]
        embedded = torch.cat([table[ids[:1]], features[row], table[ids[17:length]]])
        output = mistral(inputs_embeds=embedded[None], output_hidden_states=True)
        hidden.append(output.hidden_states[-1][0])
        logits.append(output.logits[0])
    return hidden, logits


@torch.no_grad()
def test_original_layout_equals_composition_by_hand(small) -> None:
    example = _example(small.llava_med)
    mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(**FP32)).eval()
    hidden, logits = mllm(**example)
    hidden_ref, logits_ref = _by_hand(small.llava_med, example)
    torch.testing.assert_close(hidden[0], hidden_ref[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden[1, :19], hidden_ref[1], rtol=1e-4, atol=1e-5)
    expected = torch.stack([logits_ref[0][17], logits_ref[0][19], logits_ref[1][17]])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_transformers_layout_gives_the_same(small, tmp_path: Path) -> None:
    example = _example(small.llava_med)
    original = build_mllm(read_layout(str(small.llava_med)), ModelSettings(**FP32)).eval()
    converted = tmp_path / "converted"
    layout = read_layout(str(small.llava_med))
    load_llava(layout, ModelSettings(**FP32)).save_pretrained(
        str(converted), save_original_format=False
    )
    again = build_mllm(read_layout(str(converted)), ModelSettings(**FP32)).eval()
    torch.testing.assert_close(again(**example)[0], original(**example)[0])


def test_tokenizer_without_tokenizer_json_equals_sentencepiece(small) -> None:
    import sentencepiece

    assert not (small.llava_med / "tokenizer.json").exists()
    tokenizer = load_tokenizer(read_layout(str(small.llava_med)))
    reference = sentencepiece.SentencePieceProcessor(str(small.llava_med / "tokenizer.model"))
    for text in ("\n### User: Where is the tumor? \n### Assistant: \n", "Ünïcode ≥ 3", "[INST] "):
        assert tokenizer(text).input_ids == [1, *reference.encode(text)]


def _copy(small, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.llava_med, tmp_path / "copy"))


def _edit_shard(folder: Path, change) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


def test_missing_and_unexpected_weights_are_listed(small, tmp_path: Path) -> None:
    folder = _copy(small, tmp_path)
    name = next(k for k in load_file(folder / "model-00001-of-00002.safetensors") if "layers" in k)

    def swap(state) -> None:
        state["model.surprise.weight"] = state.pop(name)

    _edit_shard(folder, swap)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.surprise.weight"] = index["weight_map"].pop(name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"missing: .*; unexpected: .*surprise"):
        build_mllm(read_layout(str(folder)), ModelSettings(**FP32))


def test_weights_of_another_shape_are_listed(small, tmp_path: Path) -> None:
    folder = _copy(small, tmp_path)
    name = next(k for k in load_file(folder / "model-00001-of-00002.safetensors") if "layers" in k)
    _edit_shard(folder, lambda state: state.update({name: torch.zeros(0)}))
    with pytest.raises(CheckpointError, match=r"of another shape: .*layers"):
        build_mllm(read_layout(str(folder)), ModelSettings(**FP32))


def test_absent_shard_and_corrupt_shard_are_named(small, tmp_path: Path) -> None:
    folder = _copy(small, tmp_path)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        read_layout(str(folder))
    shard.unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        read_layout(str(folder))


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "nothing"])
def test_absent_folder(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        read_layout(path)


def test_other_model_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"'bert'.*llava_mistral"):
        read_layout(str(tmp_path))


def test_lora_touches_the_language_model_only(small) -> None:
    settings = ModelSettings(lora_targets="q_proj,k_proj,v_proj,o_proj")
    mllm = build_mllm(read_layout(str(small.llava_med)), settings)
    trained = [name for name, p in mllm.named_parameters() if p.requires_grad]
    assert trained
    assert all(".language_model." in name and "lora_" in name for name in trained)
    assert len(trained) == 2 * 4 * 2  # layers x targets x (A, B)
    # Plain PEFT finds the base model by it.
    config = mllm.model.peft_config["default"]
    assert config.base_model_name_or_path == str(small.llava_med)


def test_projector_is_trained_when_asked(small) -> None:
    settings = ModelSettings(train_projector=True)
    mllm = build_mllm(read_layout(str(small.llava_med)), settings)
    trained = {name for name, p in mllm.named_parameters() if p.requires_grad}
    projector = {name for name in trained if "multi_modal_projector" in name}
    assert len(projector) == 4
    assert not any("vision_tower" in name for name in trained)


def test_full_fine_tuning_leaves_the_vision_tower_frozen(small) -> None:
    mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(finetune="full"))
    frozen = {name for name, p in mllm.named_parameters() if not p.requires_grad}
    assert frozen
    assert all("vision_tower" in n or "multi_modal_projector" in n for n in frozen)


def test_unknown_lora_target(small) -> None:
    with pytest.raises(SettingError, match="--lora_targets query"):
        build_mllm(read_layout(str(small.llava_med)), ModelSettings(lora_targets="query"))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"load_4bit": True}, Linear4bit), ({"load_8bit": True}, Linear8bitLt)],
)
def test_only_the_language_model_is_quantised(small, settings, kind) -> None:
    mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(**settings))
    quantised = [name for name, module in mllm.named_modules() if isinstance(module, kind)]
    assert len(quantised) == 2 * 7  # layers x linear layers
    assert all(".language_model." in name for name in quantised)
    hidden, logits = mllm(**_example(small.llava_med))
    assert hidden.isfinite().all()
    logits.float().square().sum().backward()
    assert all(p.grad is not None for p in mllm.parameters() if p.requires_grad)


def test_nf4_with_double_quantisation(small) -> None:
    mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(load_4bit=True))
    layer = next(m for m in mllm.modules() if isinstance(m, Linear4bit))
    assert layer.weight.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert layer.weight.dtype == torch.bfloat16  # the storage that ZeRO-3 can partition


def test_evaluation_mode_keeps_4bit_weights_as_they_are(small) -> None:
    mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(load_4bit=True)).eval()
    layer = next(m for m in mllm.modules() if isinstance(m, Linear4bit))
    before = layer.weight.data.clone()
    with torch.no_grad():
        mllm(**_example(small.llava_med))
    assert layer.weight.dtype == before.dtype
    # Compared as bytes: as floats, some of them are NaN.
    assert torch.equal(layer.weight.data.view(torch.uint8), before.view(torch.uint8))


def test_flash_attention_asked_for_and_impossible(small, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="--attention flash"):
        build_mllm(read_layout(str(small.llava_med)), ModelSettings(attention="flash"))


def test_gradient_checkpointing_changes_nothing(small) -> None:
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        settings = ModelSettings(**FP32, gradient_checkpointing=on, lora_dropout=0.0)
        mllm = build_mllm(read_layout(str(small.llava_med)), settings).train()
        mllm(**_example(small.llava_med))[1].square().sum().backward()
        gradients.append([p.grad for p in mllm.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("train_projector", [False, True])
def test_nothing_is_kept_for_a_backward_pass_of_clip_or_embeddings(
    small, train_projector: bool
) -> None:
    """Also under gradient checkpointing, where transformers and PEFT mark them for it."""
    settings = ModelSettings(**FP32, gradient_checkpointing=True, train_projector=train_projector)
    mllm = build_mllm(read_layout(str(small.llava_med)), settings).train()
    seen = []
    mllm.llava.model.vision_tower.register_forward_hook(
        lambda module, inputs, output: seen.append(output.last_hidden_state.requires_grad)
    )
    mllm.llava.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(output.requires_grad)
    )
    mllm(**_example(small.llava_med))[1].square().sum().backward()
    assert seen == [False, False]
    projector = [p for n, p in mllm.named_parameters() if "projector" in n and p.requires_grad]
    assert all(p.grad is not None for p in projector)
    assert bool(projector) is train_projector


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 21, 8])
def test_an_attention_window_is_followed(small, window: int | None) -> None:
    """Also one that is shorter than the sequences, which have up to 21 tokens."""
    mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(**FP32)).eval()
    example = _example(small.llava_med)
    mllm.llava.config.text_config.sliding_window = window
    hidden, _ = mllm(**example)
    embedded = mllm.embed(example["input_ids"], example["image"])
    back = torch.arange(21)[:, None] - torch.arange(21)
    sees = (back >= 0) & (back < (window or 21))
    expected = mllm.llava.model.language_model(
        inputs_embeds=embedded, attention_mask=sees[None, None].expand(2, 1, 21, 21)
    ).last_hidden_state
    real = example["attention_mask"]
    torch.testing.assert_close(hidden[real], expected[real], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_left_padded_prefill_equals_right_padded_forward(small) -> None:
    mllm: Mllm = build_mllm(read_layout(str(small.llava_med)), ModelSettings(**FP32)).eval()
    example = _example(small.llava_med)
    hidden, _ = mllm(**example)
    left = example["input_ids"].clone()
    left[1] = torch.roll(left[1], 2)
    mask = torch.stack([example["attention_mask"][0], torch.roll(example["attention_mask"][1], 2)])
    prefill = mllm.prefill(left, mask, example["image"]).last_hidden_state
    assert prefill.isfinite().all()
    torch.testing.assert_close(prefill[0], hidden[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prefill[1, 2:], hidden[1, :19], rtol=1e-4, atol=1e-5)


def test_flops_per_token_counts_the_weights_of_the_layers(small) -> None:
    layout = read_layout(str(small.llava_med))
    weights = sum(
        v.numel() for k, v in _state(small.llava_med).items() if k.startswith("model.layers.")
    )
    # The same for quantised weights, whose storage is smaller.
    assert flops_per_token(layout, ModelSettings(load_4bit=True)) == 4 * weights
    assert flops_per_token(layout, ModelSettings(finetune="full")) == 6 * weights


def test_as_many_tensors_as_the_published_model_has(tmp_path: Path) -> None:
    """LLaVA-Med v1.5 has 32 language and 24 vision layers, 686 tensors in its shards."""
    deep = TinyLlavaSize(width=32, layers=32, feed_forward=32, vision_width=64, vision_layers=24)
    write_llava_med(tmp_path, ["Where is the tumor?", "Top left."], seed=0, size=deep)
    assert len(stored_tensors(tmp_path)) == 686
    mllm = build_mllm(read_layout(str(tmp_path)), ModelSettings())
    assert len(mllm.llava.model.language_model.layers) == 32
    assert len(mllm.llava.model.vision_tower.encoder.layers) == 24
