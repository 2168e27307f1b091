"""Small random LLaVA-Med checkpoints in the exact file layout of the published one, for demo and
tests.

Published weights cannot be shipped with the code; these let every loading path run anyway.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig


@dataclass(frozen=True)
class TinyLlavaSize:
    """Sizes of a small LLaVA-Med."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    feed_forward: int = 256
    vision_width: int = 128
    vision_layers: int = 2
    image_size: int = 56
    patch_size: int = 14


def write_llava_med(
    folder: Path, tokenizer: Iterable[str] | Path, seed: int, size: TinyLlavaSize | None = None
) -> None:
    """Write a random model as LLaVA-Med v1.5 is published: config.json, two shards, index,
    tokenizer.model and tokenizer_config.json, no tokenizer.json.

    Args:
        tokenizer: texts to train a small tokenizer on, or a folder with one to copy.
    """
    size = size or TinyLlavaSize()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, Path):
        vocabulary = _copy_tokenizer(tokenizer, folder)
    else:
        vocabulary = _write_tokenizer(folder, tokenizer)
    config = _transformers_config(size, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        torch.nn.init.normal_(model.lm_head.weight, std=size.width**-0.5)
        # A trained vision tower tells positions apart; at 0.02 these would drown in the patches.
        positions = model.model.vision_tower.embeddings.position_embedding.weight
        torch.nn.init.normal_(positions, std=0.5)
    state = {_original_name(k): v.contiguous() for k, v in model.state_dict().items()}
    _write_shards(folder, state)
    (folder / "config.json").write_text(json.dumps(_original_config(size, vocabulary), indent=2))


def _copy_tokenizer(source: Path, folder: Path) -> int:
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    processor = sentencepiece.SentencePieceProcessor(str(source / "tokenizer.model"))
    return int(processor.get_piece_size())


def _write_tokenizer(folder: Path, texts: Iterable[str]) -> int:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=trained,
        model_type="bpe",
        vocab_size=512,
        hard_vocab_limit=False,
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                **tokens,
                "tokenizer_class": "LlamaTokenizer",
                "add_bos_token": True,
                "add_eos_token": False,
                "legacy": True,
                "model_max_length": 2048,
            },
            indent=2,
        )
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2))
    return int(
        sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()).get_piece_size()
    )


def _transformers_config(size: TinyLlavaSize, vocabulary: int) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.vision_width,
            intermediate_size=2 * size.vision_width,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=max(1, size.vision_width // 64),
            image_size=size.image_size,
            patch_size=size.patch_size,
            hidden_act="quick_gelu",
        ),
        text_config=MistralConfig(
            vocab_size=vocabulary,
            hidden_size=size.width,
            intermediate_size=size.feed_forward,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.key_value_heads,
            # The usual 0.02 suits widths in the thousands; here it would leave a network that
            # passes its input on nearly unchanged.
            initializer_range=size.width**-0.5,
        ),
        vision_feature_layer=-2,
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def _original_config(size: TinyLlavaSize, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlavaMistralForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": size.width,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": size.feed_forward,
        "max_position_embeddings": 32768,
        "mm_hidden_size": size.vision_width,
        "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": "llava_mistral",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.key_value_heads,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.36.2",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": True,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": vocabulary,
    }


def _original_name(name: str) -> str:
    for new, old in (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.language_model.", "model."),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _write_shards(folder: Path, state: dict[str, Tensor]) -> None:
    names = sorted(state)
    half = len(names) // 2
    weight_map = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    )
