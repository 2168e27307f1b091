"""A random PRS-Med checkpoint in the released layout, written tensor by tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from prs_med.model.mask_decoder import MaskDecoder
from prs_med.model.tiny_llava import TinyLlavaSize

RANK, ALPHA = 4, 8
CLASSES = 6


def write_released(folder: Path, small, seed: int = 0) -> None:
    """Write a checkpoint for the small LLaVA-Med and TinySAM of the ``small`` fixture."""
    size = TinyLlavaSize()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (folder / "lora_adapter").mkdir(parents=True)
        save_file(adapter(size), folder / "lora_adapter" / "adapter_model.safetensors")
        (folder / "lora_adapter" / "adapter_config.json").write_text(
            json.dumps(
                {
                    "peft_type": "LORA",
                    "task_type": "CAUSAL_LM",
                    "base_model_name_or_path": "microsoft/llava-med-v1.5-mistral-7b",
                    "r": RANK,
                    "lora_alpha": ALPHA,
                    "lora_dropout": 0.1,
                    "bias": "none",
                    "modules_to_save": None,
                    "inference_mode": True,
                    "target_modules": ["q_proj", "v_proj", "k_proj", "o_proj"],
                }
            )
        )
        sam = torch.load(small.tinysam, weights_only=True)
        encoder = {n: t for n, t in sam.items() if n.startswith("image_encoder.")}
        torch.save(
            {**{f"sam.{n}": t for n, t in sam.items()}, **encoder}, folder / "image_encoder.pth"
        )
        torch.save(MaskDecoder(size.width).state_dict(), folder / "mask_decoder.pth")
        torch.save(
            {"2.weight": torch.randn(CLASSES, 256), "2.bias": torch.randn(CLASSES)},
            folder / "cls.pth",
        )
    (folder / "tokenizer").mkdir()
    for file in small.llava_med.glob("*token*"):
        shutil.copy(file, folder / "tokenizer")


def adapter(size: TinyLlavaSize) -> dict[str, Tensor]:
    """LoRA of the original modules: the language model's learnt, the CLIP tower's B still zero."""
    head = size.width // size.heads
    narrow = head * size.key_value_heads
    outputs = {"q_proj": size.width, "k_proj": narrow, "v_proj": narrow, "o_proj": size.width}
    state = {}
    for layer in range(size.layers):
        for name, width in outputs.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            state[f"{stem}.lora_A.weight"] = torch.randn(RANK, size.width) / 8
            state[f"{stem}.lora_B.weight"] = torch.randn(width, RANK) / 8
    for layer in range(size.vision_layers):
        for name in ("q_proj", "k_proj", "v_proj"):
            stem = (
                "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers."
                f"{layer}.self_attn.{name}"
            )
            state[f"{stem}.lora_A.weight"] = torch.randn(RANK, size.vision_width)
            state[f"{stem}.lora_B.weight"] = torch.zeros(size.vision_width, RANK)
    return state
