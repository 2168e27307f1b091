"""From a folder with trained weights to one transformers model that holds all of them.

::

    config.json  model.safetensors  generation_config.json   a LLaVA model, the adapter merged in
    processor_config.json  tokenizer.json  ...                its processor
    segmentation.safetensors  settings.yaml  model.json       as in a folder with trained weights
    split.json                                                the same, if it is there
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from prs_med.config import Settings
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.llava_loading import load_llava
from prs_med.model.llava_weights import read_weights
from prs_med.model.mllm import Mllm, load_tokenizer
from prs_med.model.trained_weights import (
    SPLIT,
    TrainedModel,
    in_bits,
    load_trained_segmentation,
    open_trained,
)
from prs_med.settings_io import save_settings

Precision = Literal["bf16", "fp32"]
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
IMAGE_TOKEN = "<image>"

_CAUSAL_MODELS = {"mistral": "MistralForCausalLM", "llama": "LlamaForCausalLM"}
_PEFT = "base_model.model."
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


def export_merged(
    folder: Path,
    output: Path,
    dtype: Precision,
    vlm_path: str | None = None,
    vision_tower: str | None = None,
) -> None:
    """Write the model of a folder with trained weights as one transformers model to ``output``.

    The sum of base weights and adapter is computed in fp32 and then rounded to ``dtype``, a name in
    :data:`DTYPES`. Weights that training kept in 4 or 8 bits are taken in full precision.

    Args:
        vlm_path, vision_tower: where the base model lies, if it has moved since training.

    Raises:
        CheckpointError: a file is missing or does not fit, or ``output`` exists.
    """
    if output.exists():
        raise CheckpointError(f"{output} exists already: name a new folder, or remove it")
    trained = open_trained(folder)
    settings = trained.settings
    layout = read_layout(vlm_path or trained.base_model, vision_tower or settings.vision_tower)
    if settings.finetune == "full":
        tuned = read_layout(str(folder / "mllm"))
        weights = read_weights(tuned.folder, tuned.config, None)
    else:
        weights = read_weights(layout.folder, layout.config, layout.vision_folder)
        _add_adapter(weights, folder / "adapter", settings, DTYPES[dtype])
    weights = {name: value.to(DTYPES[dtype]) for name, value in weights.items()}
    tokenizer, image_token = _with_image_token(layout)
    config = copy.deepcopy(layout.config)
    config.text_config.architectures = [_CAUSAL_MODELS[config.text_config.model_type]]
    # The published vocabulary of 32,000 rows has none for it, although its number is 32000 there.
    config.image_token_index = image_token
    _make_room(weights, image_token, tokenizer.unk_token_id or 0)
    config.text_config.vocab_size = len(weights[_EMBEDDINGS[0]])
    vision = config.vision_config
    config.image_seq_length = (vision.image_size // vision.patch_size) ** 2 + (
        config.vision_feature_select_strategy == "full"
    )

    draft = output.with_name(output.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with torch.device("meta"):
        # save_pretrained writes down the model's type, whatever the weights that it is given.
        model = LlavaForConditionalGeneration(config).to(DTYPES[dtype])
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(str(draft), state_dict=weights, max_shard_size="5GB")
    tokenizer.save_pretrained(str(draft))
    _write_processor(draft, layout, tokenizer)
    for name in ("segmentation.safetensors", "model.json"):
        shutil.copyfile(folder / name, draft / name)
    if trained.split is not None:
        (draft / SPLIT).write_bytes(trained.split)
    save_settings(_of_merged(settings, dtype), draft / "settings.yaml")
    draft.rename(output)


def is_merged(folder: Path) -> bool:
    """Whether a folder holds what :func:`export_merged` writes."""
    return (folder / "config.json").is_file() and (folder / "model.json").is_file()


def load_merged(folder: Path, load_4bit: bool | None = None) -> TrainedModel:
    """The model in such a folder, ready for evaluation; ``load_4bit`` as in
    :func:`prs_med.model.trained_weights.load_trained`.

    Raises:
        CheckpointError: naming the file that is missing, corrupt or of another model.
    """
    trained = open_trained(folder)
    settings = in_bits(trained.settings, load_4bit)
    layout = read_layout(str(folder))
    mllm = Mllm(load_llava(layout, settings), layout).use_one_precision().eval()
    segmentation = load_trained_segmentation(
        trained, mllm.hidden_size, settings.decoder_dropout, trained.modalities
    ).eval()
    return TrainedModel(mllm, segmentation, layout, settings, trained.modalities, trained.split)


def _of_merged(settings: Settings, dtype: Precision) -> Settings:
    """The settings of training, but for how the merged weights are to be loaded."""
    return replace(settings, precision=dtype, load_4bit=False, load_8bit=False)


def _add_adapter(
    weights: dict[str, Tensor], adapter: Path, settings: Settings, dtype: torch.dtype
) -> None:
    """Add low-rank products to the weights, and put trained modules into their places."""
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{file}: not found; a folder with trained weights needs it")
    scale = settings.lora_alpha / settings.lora_rank
    stored = {name.removeprefix(_PEFT): value for name, value in load_file(file).items()}
    for name in list(stored):
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removesuffix(".lora_A.weight")
        down, up = stored.pop(name), stored.pop(f"{layer}.lora_B.weight")
        target = f"{layer}.weight"
        if target not in weights or weights[target].shape != (len(up), down.shape[1]):
            raise CheckpointError(f"{file}: {name} does not fit the base model")
        merged = weights[target].float() + scale * (up.float() @ down.float())
        weights[target] = merged.to(dtype)
    for name, value in stored.items():
        if name not in weights or weights[name].shape != value.shape:
            raise CheckpointError(f"{file}: {name} does not fit the base model")
        weights[name] = value


def _with_image_token(layout: LlavaLayout) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer, in which ``<image>`` stands for an image, and the token's number."""
    tokenizer = load_tokenizer(layout)
    tokenizer.split_special_tokens = False
    number = layout.config.image_token_index
    known = tokenizer.get_added_vocab().get(IMAGE_TOKEN)
    if known is not None and known == number < layout.config.text_config.vocab_size:
        return tokenizer, number
    tokenizer.add_tokens(
        [AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True
    )
    return tokenizer, int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def _make_room(weights: dict[str, Tensor], token: int, like: int) -> None:
    """Rows for a token that original LLaVA models do not have.

    They are copies of the unknown token's: image features replace the embedding, and in the
    output the token is never likelier than one that no text contains either.
    """
    for name in _EMBEDDINGS:
        rows = weights[name]
        more = token + 1 - len(rows)
        if more > 0:
            weights[name] = torch.cat([rows, rows[like].expand(more, -1)])


def _write_processor(folder: Path, layout: LlavaLayout, tokenizer: PreTrainedTokenizerBase) -> None:
    """``processor_config.json`` for ``LlavaProcessor``; written here, because transformers makes
    an image processor only where torchvision is installed."""
    vision = layout.config.vision_config
    side = vision.image_size
    image_processor = {
        "image_processor_type": "LlavaImageProcessor",
        "do_pad": layout.pad_to_square,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(layout.image_mean),
        "image_std": list(layout.image_std),
        "do_convert_rgb": True,
    }
    described = {
        "processor_class": "LlavaProcessor",
        "image_processor": image_processor,
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": layout.config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,
        "image_token": IMAGE_TOKEN,
    }
    (folder / "processor_config.json").write_text(json.dumps(described, indent=2) + "\n")
