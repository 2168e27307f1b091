"""Activations of the segmentation encoder that are computed again instead of kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prs_med.config import ENCODERS, SettingError, Settings
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.initial_weights import new_segmentation
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.tiny_encoders import write_sam, write_sam2, write_sam_med2d, write_tinysam

WRITERS = {
    "tinysam": write_tinysam,
    "sam": write_sam,
    "sam_med2d": write_sam_med2d,
    "sam2": write_sam2,
}
SIDE = 192


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    root = tmp_path_factory.mktemp("encoders")
    for name, write in WRITERS.items():
        write(root / f"{name}.pth", seed=1)
    return {
        name: Settings(
            encoder_type=name,
            sam_ckpt=str(root / f"{name}.pth"),
            image_size=SIDE,
            decoder_dropout=0.0,
        )
        for name in WRITERS
    }


def branch(settings: Settings) -> SegmentationBranch:
    encoder = load_encoder(settings.encoder_type, settings.sam_ckpt)
    return new_segmentation(encoder, settings, 32, ("a", "b"))


def step(model: SegmentationBranch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mask logits and gradients."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(256, (2, 3, SIDE, SIDE), generator=draw).to(torch.uint8)
    prompt = torch.randn(2, 5, 32, generator=draw)
    masks, _ = model(image, prompt, torch.ones(2, 5, dtype=torch.bool), (SIDE, SIDE))
    masks.square().mean().backward()
    return masks, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def kept(model: SegmentationBranch) -> int:
    """Bytes that the encoder keeps for its backward pass, weights aside."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.image_encoder(torch.zeros(2, 3, SIDE, SIDE))
    assert features.requires_grad
    return sum(found.values())


def test_every_family_is_tested_here() -> None:
    assert WRITERS.keys() == ENCODERS.keys()


@pytest.mark.parametrize("family", WRITERS)
def test_the_same_with_less_kept(settings: dict[str, Settings], family: str) -> None:
    plain = branch(settings[family]).train()
    again = branch(replace(settings[family], encoder_checkpointing=True)).train()
    again.load_state_dict(plain.state_dict())
    masks, gradients = step(plain)
    masks_again, gradients_again = step(again)
    assert torch.equal(masks, masks_again)
    assert gradients.keys() == gradients_again.keys()
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)
    assert kept(again) < 0.6 * kept(plain)


@pytest.mark.parametrize("family", WRITERS)
def test_only_what_is_recomputed_runs_twice(settings: dict[str, Settings], family: str) -> None:
    model = branch(replace(settings[family], encoder_checkpointing=True)).train()
    model.recompute_encoder()  # once more changes nothing
    blocks = [
        block
        for name, module in model.image_encoder.named_modules()
        if name.rpartition(".")[2] == "blocks"
        for block in module.children()
    ]
    inner = [next(iter(block.children())) for block in blocks]
    runs = dict.fromkeys(inner, 0)

    def count(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs[module] += 1

    for module in inner:
        module.register_forward_pre_hook(count)
    step(model)
    assert set(runs.values()) == {2}
    with torch.no_grad():
        model.image_encoder(torch.zeros(1, 3, SIDE, SIDE))
    assert set(runs.values()) == {3}


def test_a_frozen_encoder_keeps_nothing_anyway() -> None:
    with pytest.raises(SettingError, match="--encoder_checkpointing has no effect with --freeze_e"):
        Settings(freeze_encoder=True, encoder_checkpointing=True)
