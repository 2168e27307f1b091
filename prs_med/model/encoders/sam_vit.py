"""The image encoder of the Segment Anything Model, at any input size, with or without adapters.

SAM: Kirillov et al. 2023 (arXiv 2304.02643). SAM-Med2D puts an adapter beside the MLP of every
block: Cheng et al. 2023 (arXiv 2308.16184). The blocks are transformers'; its own encoder accepts
only the size that it was trained at and has no adapters.

Shapes: B images, C channels, h and w the side lengths of the feature map (1/16 of the image's).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from prs_med.model.encoders.family import IMAGENET_MEAN, IMAGENET_STD, EncoderFamily
from prs_med.model.encoders.files import part_of
from prs_med.model.encoders.renaming import Renaming

PATCH = 16
WINDOW = 14
"""Side of the attention windows in all published models; files do not tell it on their own."""

PREFIX = "image_encoder."
UNUSED = ("prompt_encoder.", "mask_decoder.", "pixel_mean", "pixel_std")
"""SAM's own prompts and masks; PRS-Med has others."""

PLAIN_NAMES = Renaming(
    (
        ("patch_embed.proj.", "patch_embed."),
        ("blocks.#.norm1.", "blocks.#.layer_norm1."),
        ("blocks.#.norm2.", "blocks.#.layer_norm2."),
        ("neck.0.", "neck.conv1."),
        ("neck.1.", "neck.layer_norm1."),
        ("neck.2.", "neck.conv2."),
        ("neck.3.", "neck.layer_norm2."),
    )
)
"""From Meta's names to those below."""

ADAPTED_NAMES = Renaming(
    (
        *PLAIN_NAMES.pairs,
        ("blocks.#.Adapter.", "blocks.#.mlp.adapter."),
        ("blocks.#.mlp.", "blocks.#.mlp.mlp."),
    )
)
"""The same for models with adapters."""


class Adapter(nn.Module):
    """SAM-Med2D's adapter: a gate per channel, a strided convolution and back, a LayerNorm."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to the same; h and w even."""
        x = x.permute(0, 3, 1, 2)
        gate = self.channel(x.mean((2, 3)))[..., None, None]
        x = x + self.spatial(gate * x)
        return self.norm(x.permute(0, 2, 3, 1))


class AdaptedMlp(nn.Module):
    """A block's MLP with an adapter beside it, on (B, h, w, C)."""

    def __init__(self, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        return self.mlp(x) + self.adapter(x)


class SamVit(nn.Module):
    """The image encoder: (B, 3, H, W) float32, normalised, to (B, 256, H/16, W/16)."""

    pixel_mean = IMAGENET_MEAN
    pixel_std = IMAGENET_STD

    def __init__(self, config: SamVisionConfig, adapter_width: int = 0) -> None:
        """``config.image_size`` is what the position embeddings were trained at; ``adapter_width``
        is the inner width of the adapters' gates (0: no adapters)."""
        super().__init__()
        whole = SamVisionEncoder(config)
        self.patch_embed = whole.patch_embed.projection
        self.pos_embed = whole.pos_embed
        self.blocks = whole.layers
        if adapter_width:
            for block in self.blocks:
                block.mlp = AdaptedMlp(block.mlp, Adapter(config.hidden_size, adapter_width))
        self.neck = whole.neck
        self._multiple = 2 * PATCH if adapter_width else PATCH

    def forward(self, image: Tensor) -> Tensor:
        """Compute features.

        Raises:
            ValueError: if height or width is not a multiple of 16 (of 32 with adapters).
        """
        height, width = image.shape[-2:]
        if height % self._multiple or width % self._multiple:
            raise ValueError(
                f"image of {height} x {width} pixels: both sides must be multiples of "
                f"{self._multiple}"
            )
        x = self.patch_embed(image).permute(0, 2, 3, 1)
        x = x + self._positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)
        return self.neck(x)

    def _positions(self, height: int, width: int) -> Tensor:
        if self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        # As SAM-Med2D did when it took SAM from 1024 to 256 pixels. The blocks scale their
        # relative positions themselves.
        positions = F.interpolate(
            self.pos_embed.permute(0, 3, 1, 2), (height, width), mode="bilinear"
        )
        return positions.permute(0, 2, 3, 1)


def sam_family(title: str, adapted: bool) -> EncoderFamily:
    """The family of models with or without adapters."""
    names = ADAPTED_NAMES if adapted else PLAIN_NAMES

    def recognises(whole: Mapping[str, Tensor]) -> bool:
        has_adapters = f"{PREFIX}blocks.0.Adapter.norm.weight" in whole
        return f"{PREFIX}blocks.0.attn.rel_pos_h" in whole and has_adapters == adapted

    def encoder_state(whole: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        return names.to_ours(part_of(whole, PREFIX, UNUSED, where))

    def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{PREFIX}{name}": value for name, value in names.to_published(state).items()}

    return EncoderFamily(title, recognises, encoder_state, _build, to_published)


def _build(state: Mapping[str, Tensor]) -> SamVit:
    _, grid, _, width = state["pos_embed"].shape
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    distances = [state[f"blocks.{index}.attn.rel_pos_h"].shape for index in range(depth)]
    adapted = "blocks.0.mlp.adapter.norm.weight" in state
    config = SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        # Each head has its own channels, and one table of distances serves all heads.
        num_attention_heads=width // distances[0][1],
        mlp_dim=state[f"blocks.0.mlp.{'mlp.' if adapted else ''}lin1.weight"].shape[0],
        image_size=grid * PATCH,
        patch_size=PATCH,
        window_size=WINDOW,
        # Attention over a side of n positions knows 2n - 1 distances.
        global_attn_indexes=[i for i, shape in enumerate(distances) if shape[0] == 2 * grid - 1],
        output_channels=state["neck.conv1.weight"].shape[0],
    )
    width_of_gates = state["blocks.0.mlp.adapter.channel.0.weight"].shape[0] if adapted else 0
    return SamVit(config, width_of_gates)
