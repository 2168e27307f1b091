"""Every published layout and container gives the same model, and damage to any is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file
from transformers import LlamaConfig, LlavaForConditionalGeneration

from prs_med.batch import IMAGE_TOKEN
from prs_med.config import ModelSettings
from prs_med.model import llava_hub
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_hub import local_folder
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import Mllm, build_mllm, load_llava
from tests.unit.llava_variants import (
    CONTAINERS,
    LAYOUTS,
    Source,
    State,
    change_json,
    one_weight_file,
    running_state,
    save,
    write_container,
    write_variant,
)

FP32 = ModelSettings(precision="fp32")


@pytest.fixture(scope="module")
def source(small) -> Source:
    return Source(small.llava_med, read_layout(str(small.llava_med)).config)


def _outputs(folder: Path, settings: ModelSettings = FP32, vision_tower: str | None = None):
    """Hidden states and logits of two questions about random images."""
    layout = read_layout(str(folder), vision_tower)
    torch.manual_seed(0)
    mllm = Mllm(load_llava(layout, settings), layout).eval()
    images = 16 * [IMAGE_TOKEN]
    pixels = torch.randint(0, 256, (2, 3, 56, 56), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return mllm(
            torch.tensor([[1, *images, 20, 21, 22, 23], [1, *images, 30, 31, 0, 0]]),
            torch.tensor([21 * [True], 19 * [True] + 2 * [False]]),
            pixels.to(torch.uint8),
            torch.tensor([17, 19, 21 + 17]),
        )


def _assert_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def expected(source):
    return _outputs(source.folder)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(source, expected, tmp_path, layout, container) -> None:
    _assert_same(_outputs(write_variant(source, tmp_path / "m", layout, container)), expected)


def test_the_comparison_can_fail(source, expected, tmp_path) -> None:
    def nudge(state: State) -> None:
        name = "vision_tower.vision_model.embeddings.position_embedding.weight"
        state[name] = state[name] + 1e-3

    folder = write_variant(source, tmp_path / "m", "transformers_4", "bin", nudge)
    assert not torch.equal(_outputs(folder)[0], expected[0])


@pytest.mark.parametrize("original_format", [True, False])
@pytest.mark.parametrize("read", ["never", "transformers_4", "original"])
def test_what_save_pretrained_writes(source, expected, tmp_path, original_format, read) -> None:
    """Its names depend on what the model was read from, and by whom."""
    if read == "never":
        model = LlavaForConditionalGeneration(source.config)
        model.load_state_dict(running_state(source.folder))
    elif read == "original":
        model = load_llava(read_layout(str(source.folder)), FP32)
    else:
        folder = write_variant(source, tmp_path / "old", read, "safetensors")
        model = LlavaForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32)
    model.save_pretrained(str(tmp_path / "new"), save_original_format=original_format)
    _assert_same(_outputs(tmp_path / "new"), expected)


@pytest.mark.parametrize("kind", ["load_4bit", "load_8bit"])
@pytest.mark.parametrize("container", ["safetensors_shards", "bin_shards"])
@pytest.mark.parametrize("layout", ["original", "transformers_4", "mixed"])
def test_quantised_from_every_layout(source, tmp_path, layout, container, kind) -> None:
    settings = ModelSettings(**{kind: True})
    folder = write_variant(source, tmp_path / "m", layout, container)
    layer = {"load_4bit": Linear4bit, "load_8bit": Linear8bitLt}[kind]
    model = load_llava(read_layout(str(folder)), settings)
    quantised = [n for n, module in model.named_modules() if isinstance(module, layer)]
    assert len(quantised) == 2 * 7
    assert all(".language_model." in name for name in quantised)
    _assert_same(_outputs(folder, settings), _outputs(source.folder, settings))


def test_half_precision_files_are_converted(source, tmp_path) -> None:
    """LLaVA-HF's are float16."""
    half = {name: value.half() for name, value in running_state(source.folder).items()}
    folder = write_variant(source, tmp_path / "half", "transformers_4", "bin", state=half)
    again = {name: value.float() for name, value in half.items()}
    single = write_variant(source, tmp_path / "single", "transformers_5", "bin", state=again)
    _assert_same(_outputs(folder), _outputs(single))
    model = load_llava(read_layout(str(folder)), ModelSettings())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# --- what does not fit -----------------------------------------------------------------------


def _load(folder: Path) -> None:
    load_llava(read_layout(str(folder)), FP32)


NAMES = {
    "original": "model.layers.1.mlp.up_proj.weight",
    "transformers_4": "language_model.model.layers.1.mlp.up_proj.weight",
    "mixed": "language_model.model.layers.1.mlp.up_proj.weight",
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", NAMES)
def test_what_does_not_fit_is_named(source, tmp_path, layout, container) -> None:
    name = NAMES[layout]

    def missing(state: State) -> None:
        del state[name]

    def extra(state: State) -> None:
        state["model.surprise.weight"] = torch.zeros(1)

    def reshaped(state: State) -> None:
        state[name] = state[name][1:].clone()

    for number, (edit, message) in enumerate(
        [
            (missing, r"missing: model\.language_model\.layers\.1\.mlp\.up_proj\.weight$"),
            (extra, r"unexpected: model\.surprise\.weight in \S*model\S*\.(bin|safetensors)$"),
            (
                reshaped,
                r"of another shape: \S*layers\.1\.mlp\.up_proj\.weight in \S*model\S* has "
                r"\(255, 128\) instead of \(256, 128\)$",
            ),
        ]
    ):
        folder = write_variant(source, tmp_path / f"{number}", layout, container, edit)
        with pytest.raises(CheckpointError, match=message) as raised:
            _load(folder)
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("left", [0, 7, 100, -100])
def test_a_truncated_file_is_named(source, tmp_path, container, left) -> None:
    folder = write_variant(source, tmp_path / "m", "transformers_4", container)
    file = one_weight_file(folder)
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(CheckpointError, match="cannot be read") as raised:
        read_layout(str(folder))
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("container", ["safetensors_shards", "bin_shards"])
def test_an_absent_shard_is_named(source, tmp_path, container) -> None:
    folder = write_variant(source, tmp_path / "m", "transformers_4", container)
    file = one_weight_file(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name}: not found, but .*index.json names"):
        read_layout(str(folder))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json: cannot be read"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../other.bin"}}', "names ../other.bin"),
    ],
)
def test_a_bad_index(source, tmp_path, index, message) -> None:
    folder = write_variant(source, tmp_path / "m", "transformers_4", "bin_shards")
    (folder / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        read_layout(str(folder))


def test_a_tensor_in_two_shards_or_under_two_names(source, tmp_path) -> None:
    def twice(state: State) -> None:
        state["model.language_model.norm.weight"] = torch.ones(128)

    folder = write_variant(source, tmp_path / "m", "transformers_4", "safetensors_shards", twice)
    with pytest.raises(CheckpointError, match=r"norm\.weight is stored twice.*model-0000"):
        read_layout(str(folder))


def test_a_folder_without_weights(source, tmp_path) -> None:
    shutil.copy(source.folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no weights; it needs one of model\.safe"):
        read_layout(str(tmp_path))


class _Runs:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", ["bin", "bin_shards"])
def test_code_in_a_bin_file_is_not_run(source, tmp_path, container, zipped) -> None:
    folder = write_variant(source, tmp_path / "m", "transformers_4", container)
    file = one_weight_file(folder)
    ran = tmp_path / "ran"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "x": _Runs(f"touch {ran}")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"{file.name}: cannot be read .*nothing in it"):
        _load(folder)
    assert not ran.exists()
    torch.load(file, weights_only=False)
    assert ran.exists()  # it would have run


def test_a_bin_file_with_more_than_tensors(source, tmp_path) -> None:
    folder = write_variant(source, tmp_path / "m", "transformers_4", "bin")
    file = folder / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({"model": state, "step": 3}, file)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: entry 'model' is dict"):
        _load(folder)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="holds list, not named tensors"):
        _load(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_buffers_that_old_versions_stored_are_known_by_name(
    source, expected, tmp_path, layout
) -> None:
    tower = "vision_tower.vision_model."
    names = {
        "original": ("model.vision_tower.vision_tower.vision_model.", "model."),
        "transformers_4": (tower, "language_model.model."),
        "transformers_4_52": (f"model.{tower}", "model.language_model."),
        "transformers_5": ("model.vision_tower.", "model.language_model."),
        "mixed": ("vision_tower.", "language_model.model."),
    }
    vision, language = names[layout]

    def add(state: State) -> None:
        state[f"{vision}embeddings.position_ids"] = torch.arange(17)[None]
        state[f"{language}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)

    def add_unknown(state: State) -> None:
        state[f"{vision}embeddings.position_idx"] = torch.arange(17)[None]

    folder = write_variant(source, tmp_path / "known", layout, "bin", add)
    _assert_same(_outputs(folder), expected)
    folder = write_variant(source, tmp_path / "unknown", layout, "bin", add_unknown)
    with pytest.raises(CheckpointError, match=r"unexpected: .*position_idx"):
        _load(folder)


# --- language models ---------------------------------------------------------------------------


def test_a_llama_with_a_short_description(tmp_path) -> None:
    """LLaVA-HF 1.5's text_config leaves out what is Llama's default."""
    text = LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=64,
    )  # fmt: skip
    short = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 32000,
        "model_type": "llava",
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "rms_norm_eps": 1e-05,
            "torch_dtype": "float16",
            **{n: getattr(text, n) for n in ("hidden_size", "intermediate_size")},
            **{n: getattr(text, n) for n in ("num_hidden_layers", "num_attention_heads")},
            "vocab_size": 64,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 64,
            "image_size": 56,
            "intermediate_size": 64,
            "model_type": "clip_vision_model",
            "num_attention_heads": 1,
            "num_hidden_layers": 2,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": 32064,
    }
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(short))
    config = LlavaForConditionalGeneration.config_class.from_dict(dict(short))
    model = LlavaForConditionalGeneration(config).eval()
    write_container(folder, model.state_dict(), "bin")
    layout = read_layout(str(folder))
    assert layout.config.text_config.model_type == "llama"
    _, logits = _outputs(folder)
    assert logits.shape == (3, 64)
    lora = build_mllm(layout, FP32)
    assert sum("lora_A" in name for name, _ in lora.named_parameters()) > 0
    change_json(folder / "config.json", text_config={**short["text_config"], "vocab_size": 32})
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight .*\(64, 64\) instead of \(32"):
        _load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {"model_type": "qwen2"}}, "text_config is of model_type 'qwen2'"),
        ({"text_config": None}, "has no text_config"),
        ({"text_config": {"hidden_size": "wide"}}, "describes no LLaVA model"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "vision_config is of model_ty"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised already"),
        ({"model_type": "llava_next"}, "model_type is 'llava_next'"),
    ],
)
def test_models_of_other_kinds_are_refused(source, tmp_path, changes, message) -> None:
    folder = write_variant(source, tmp_path / "m", "transformers_4", "safetensors")
    change_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_layout(str(folder))
    assert "config.json" in str(raised.value)
    assert "\n" not in str(raised.value)


# --- the hub -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_bin_files_are_fetched_only_without_safetensors(tmp_path, monkeypatch, kind) -> None:
    asked = []

    def fake(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        if f"*.{kind}" in allow_patterns or f"pytorch_model*.{kind}" in allow_patterns:
            save({"a": torch.zeros(1)}, tmp_path / f"pytorch_model.{kind}")
        return str(tmp_path)

    monkeypatch.setattr(llava_hub, "snapshot_download", fake)
    assert local_folder("some/model", "--vlm_path") == tmp_path
    patterns = [pattern for patterns in asked for pattern in patterns]
    assert any(".bin" in pattern for pattern in patterns) == (kind == "bin")
    assert "*" not in patterns
    assert "*.bin" not in patterns  # training states and the like


def test_a_hub_model_that_cannot_be_had(monkeypatch) -> None:
    def fail(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no network\nand more")

    monkeypatch.setattr(llava_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"^--vision_tower a/b: .*\(no network\)$"):
        local_folder("a/b", "--vision_tower")


def test_weights_are_mapped_not_copied(source, tmp_path) -> None:
    """The state dict costs no memory of its own until it is used."""
    from prs_med.model.llava_files import open_tensors

    for suffix in ("safetensors", "bin"):
        file = tmp_path / f"model.{suffix}"
        save({"a": torch.zeros(64 * 2**20)}, file)
        before = _anonymous_kib()
        tensors = open_tensors(file)
        assert tensors["a"].sum() == 0
        assert _anonymous_kib() - before < 32 * 1024  # of 256 MiB
    assert load_file(tmp_path / "model.safetensors")["a"].sum() == 0


def _anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
