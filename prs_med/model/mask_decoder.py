"""The released PRS-Med mask decoder, with the released parameter names.

Shapes: B samples, T prompt tokens of width D, h and w the side lengths of the feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 256


class FeedForward(nn.Module):
    """LN(ReLU(W₂(ReLU(W₁ x) + x))) on the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        # Released files hold it, nothing uses it. Frozen, because ZeRO waits for a gradient of
        # every trained parameter.
        self.norm1 = nn.LayerNorm(width).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.norm(F.relu(self.fc2(F.relu(self.fc1(x)) + x)))


class ConvBlock(nn.Module):
    """Residual 3×3 convolution, then 1×1 to other channels and 3×3; (B, C, h, w), same h and w.

    The 1×1 convolution pads by one and the last 3×3 not at all: odd, but released so.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.bn1 = nn.InstanceNorm2d(channels_in, affine=True)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 1, padding=1)
        self.bn2 = nn.InstanceNorm2d(channels_out, affine=True)
        self.conv3 = nn.Conv2d(channels_out, channels_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.relu(self.bn1(self.conv1(x))) + x
        return self.conv3(self.bn2(self.conv2(x)))


class MaskDecoder(nn.Module):
    """Image features attend to the language model's hidden states and become a mask."""

    def __init__(self, prompt_dim: int, dropout: float = 0.1) -> None:
        """``prompt_dim`` is D (4096 for Mistral-7B); ``dropout`` acts in the transformer layer."""
        super().__init__()
        self.prompt_projection = nn.Sequential(
            nn.Linear(prompt_dim, 2 * WIDTH),
            nn.LayerNorm(2 * WIDTH),
            nn.ReLU(),
            nn.Linear(2 * WIDTH, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.ReLU(),
        )
        self.attn = nn.MultiheadAttention(WIDTH, 8, batch_first=True)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.ffn = FeedForward(WIDTH)
        self.encoder_layer = nn.TransformerEncoderLayer(
            WIDTH, 16, dim_feedforward=2 * WIDTH, dropout=dropout, batch_first=True
        )
        self.mask_generation = nn.Sequential(
            ConvBlock(WIDTH, WIDTH), ConvBlock(WIDTH, WIDTH // 2), ConvBlock(WIDTH // 2, WIDTH // 4)
        )
        self.out_dec = nn.Conv2d(WIDTH // 4, 1, 1)
        self.image_norm = nn.LayerNorm(WIDTH)
        self.prompt_norm = nn.LayerNorm(WIDTH)
        _initialise(self)

    def forward(
        self, image_features: Tensor, prompt: Tensor, prompt_mask: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Compute mask logits.

        Args:
            image_features: (B, 256, h, w) float32.
            prompt: (B, T, D) hidden states in any float dtype.
            prompt_mask: (B, T) bool, True at real tokens, at least one per row: not checked, since
                that would make the host wait for the device. What the prompt holds at padding
                does not matter.
            size: height and width of the result.

        Returns:
            (B, 1, *size) float32.
        """
        shape = image_features.shape
        # Attention weighs padding with 0, and 0 times NaN, which a language model may well leave at
        # positions that attend to nothing, would still be NaN.
        prompt = prompt.masked_fill(~prompt_mask[..., None], 0).float()
        keys = self.prompt_norm(self.prompt_projection(prompt))
        tokens = self.image_norm(image_features.flatten(2).transpose(1, 2))
        attended, _ = self.attn(
            tokens, keys, keys, key_padding_mask=~prompt_mask, need_weights=False
        )
        x = self.norm1(attended + tokens)
        x = self.ffn(self.encoder_layer(x))
        x = x.transpose(1, 2).reshape(shape) + image_features
        logits = self.out_dec(self.mask_generation(x)).float()  # bf16 within autocast
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def _initialise(decoder: MaskDecoder) -> None:
    layer = decoder.encoder_layer
    attentions = [decoder.attn, layer.self_attn]
    linears = [
        decoder.prompt_projection[0], decoder.prompt_projection[3],
        decoder.ffn.fc1, decoder.ffn.fc2, layer.linear1, layer.linear2,
        *(attention.out_proj for attention in attentions),
    ]  # fmt: skip
    for attention in attentions:
        nn.init.xavier_uniform_(attention.in_proj_weight)
        nn.init.zeros_(attention.in_proj_bias)
    for linear in linears:
        assert isinstance(linear, nn.Linear)
        nn.init.xavier_uniform_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
