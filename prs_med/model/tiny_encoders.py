"""Small random segmentation encoders in the exact file layouts of the published ones, for demo and
tests.

Published weights cannot be shipped with the code; these let every loading path run anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, SamVisionConfig

from prs_med.model.encoders.registry import encoder_family
from prs_med.model.encoders.sam2 import Sam2Encoder
from prs_med.model.encoders.sam_vit import SamVit
from prs_med.model.encoders.tinyvit import TinyVit, TinyVitConfig

SMALL_TINYVIT = TinyVitConfig(
    embed_dims=(16, 32, 64, 128),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 4),
    window_sizes=(7, 7, 7, 7),
)


def write_tinysam(path: Path, seed: int, config: TinyVitConfig = SMALL_TINYVIT) -> None:
    """Write a random encoder as ``tinysam_42.3.pth`` holds it: a plain state dict of the whole SAM
    with ``image_encoder.*`` (unused classifier head included) among other parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TinyVit(config)
        _settle_statistics(encoder)
        last = config.embed_dims[-1]
        state = {f"image_encoder.{name}": value for name, value in encoder.state_dict().items()}
        state |= {
            "image_encoder.norm_head.weight": torch.ones(last),
            "image_encoder.norm_head.bias": torch.zeros(last),
            "image_encoder.head.weight": torch.zeros(1000, last),
            "image_encoder.head.bias": torch.zeros(1000),
            "prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 256),
            "mask_decoder.iou_token.weight": torch.zeros(1, 256),
        }
    torch.save(state, path)


@torch.no_grad()
def _settle_statistics(encoder: TinyVit) -> None:
    """Give the normalisation layers the statistics that random images have in this network.

    A published encoder brings such statistics. Without them the signal of a random network fades
    from layer to layer, and nothing can be learnt from its output.
    """
    coarse = torch.rand(16, 3, 12, 12)
    images = torch.nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic")
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    encoder((images - 0.45) / 0.225)
    for norm in norms:
        norm.momentum, norm.training = 0.1, False


def write_sam(path: Path, seed: int) -> None:
    """Write a random encoder as ``sam_vit_b_01ec64.pth`` holds it: a plain state dict of the whole
    SAM. Trained at 96 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(_whole_sam("sam", seed, adapter_width=0), path)


def write_sam_med2d(path: Path, seed: int) -> None:
    """Write a random encoder as ``sam-med2d_b.pth`` holds it: ``{"model": ...}``, with adapters.
    Trained at 96 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": _whole_sam("sam_med2d", seed, adapter_width=8)}, path)


def _whole_sam(family: str, seed: int, adapter_width: int) -> dict[str, Tensor]:
    config = SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=64,
        image_size=96,
        global_attn_indexes=[1],
    )
    return {
        **_random_encoder(family, seed, lambda: SamVit(config, adapter_width)),
        "prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 256),
        "mask_decoder.iou_token.weight": torch.zeros(1, 256),
    }


def write_sam2(path: Path, seed: int) -> None:
    """Write a random encoder as ``sam2.1_hiera_tiny.pt`` holds it: ``{"model": ...}``, at full size
    (27 million parameters), because smaller ones have no name that tells their shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = _random_encoder("sam2", seed, lambda: Sam2Encoder(Sam2HieraDetConfig()))
    state |= {
        "image_encoder.neck.convs.2.conv.weight": torch.zeros(256, 192, 1, 1),
        "image_encoder.neck.convs.2.conv.bias": torch.zeros(256),
        "image_encoder.neck.convs.3.conv.weight": torch.zeros(256, 96, 1, 1),
        "image_encoder.neck.convs.3.conv.bias": torch.zeros(256),
        "maskmem_tpos_enc": torch.zeros(7, 1, 1, 64),
        "no_mem_embed": torch.zeros(1, 1, 256),
        "memory_encoder.fuser.layers.0.gamma": torch.zeros(256),
        "sam_mask_decoder.iou_token.weight": torch.zeros(1, 256),
    }
    torch.save({"model": state}, path)


def _random_encoder(family: str, seed: int, make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = make()
        for name, parameter in encoder.named_parameters():
            if parameter.ndim >= 2:
                # Keeps the signal's size from layer to layer; position tables have no fan-in.
                fan_in = parameter[0].numel() if name.endswith("weight") else 2500
                nn.init.normal_(parameter, std=fan_in**-0.5)
    return encoder_family(family).to_published(encoder.state_dict())
