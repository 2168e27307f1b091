"""The segmentation side: vision encoder, mask decoder and modality head, with weights in fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prs_med.model.mask_decoder import MaskDecoder
from prs_med.model.normalise import normalise


class SegmentationBranch(nn.Module):
    """Mask logits from an image and the language model's hidden states; modality logits too."""

    def __init__(
        self, encoder: nn.Module, prompt_dim: int, modalities: int, decoder_dropout: float
    ) -> None:
        """``encoder`` as in :mod:`prs_med.model.encoders.registry`; ``prompt_dim`` is the language
        model's width, ``modalities`` the size of the vocabulary (0 is allowed)."""
        super().__init__()
        self.image_encoder = encoder
        self._statistics: tuple[Any, Any] = (encoder.pixel_mean, encoder.pixel_std)
        self.mask_decoder = MaskDecoder(prompt_dim, dropout=decoder_dropout)
        # The released head's names: cls.2.weight, cls.2.bias. One class at least, so that the
        # branch has the same parameters on every rank and dataset.
        self.cls = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(256, max(1, modalities))
        )
        self._frozen_encoder = False
        self._recomputes_encoder = False
        self._in_bf16 = False

    def freeze_encoder(self) -> None:
        """Do not train the encoder, and keep nothing of it for a backward pass."""
        self.image_encoder.requires_grad_(False)
        self._frozen_encoder = True

    def recompute_encoder(self) -> None:
        """Keep only what enters each of the encoder's blocks for the backward pass, and compute the
        block again there."""
        if self._recomputes_encoder:
            return
        self._recomputes_encoder = True
        for name, module in self.image_encoder.named_modules():
            if name.rpartition(".")[2] == "blocks":
                for block in module.children():
                    block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def compute_in_bf16(self) -> None:
        """Compute in autocast to bf16: weights, norms and what comes out stay in fp32."""
        self._in_bf16 = True

    def freeze_decoder(self) -> None:
        """Do not train the mask decoder."""
        self.mask_decoder.requires_grad_(False)

    def forward(
        self,
        image: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
        size: tuple[int, int],
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute mask and modality.

        Args:
            image: (I, 3, S, S) uint8; each is encoded once.
            prompt: (B, P, D) hidden states in any float dtype.
            prompt_mask: (B, P) bool, True at real tokens; at least one per row.
            size: height and width of the masks.
            image_index: (B,) int64, the image of each sample; None where I = B and each sample has
                its own.

        Returns:
            (B, 1, *size) mask logits and (B, M) modality logits, float32.
        """
        pixels = normalise(image, *self._statistics)
        with self._arithmetic(image.device):
            with torch.no_grad() if self._frozen_encoder else nullcontext():
                features = self.image_encoder(pixels)
            if image_index is not None:
                features = features.index_select(0, image_index)
            masks = self.mask_decoder(features, prompt, prompt_mask, size)
            return masks, self.cls(features).float()

    def _arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        # Autocast does not know the meta device, on which plans are made.
        if not self._in_bf16 or device.type == "meta":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)
