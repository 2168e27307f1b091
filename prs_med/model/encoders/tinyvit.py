"""TinySAM's image encoder: a TinyViT whose last stage keeps its resolution, with SAM's neck.

TinyViT: Wu et al. 2022 (arXiv 2207.10666); TinySAM: Shu et al. 2023 (arXiv 2312.13789). Parameter
names are those of ``tinysam_42.3.pth`` behind ``image_encoder.``, without the unused classifier.

Shapes: B images, C channels, h and w the side lengths of a feature map, n = window².
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16
"""Pixels of the input per position of the output."""
OUT_CHANNELS = 256


@dataclass(frozen=True)
class TinyVitConfig:
    """Sizes of the four stages; the defaults are TinySAM's."""

    embed_dims: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    """The first stage is convolutional and has none; its entry is not used."""
    window_sizes: tuple[int, int, int, int] = (7, 7, 14, 7)


class FrozenStatisticsNorm(nn.BatchNorm2d):
    """BatchNorm that always normalises with its stored statistics; scale and shift are trained.

    With the few images that fit a medical segmentation batch, batch statistics are noise, differ
    between ranks, and make one image's features depend on the others beside it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        # Modules start in training mode, and nobody need have called train() or eval() yet.
        self.train()

    def train(self, mode: bool = True) -> FrozenStatisticsNorm:
        """Stay in evaluation mode whatever the network around it does."""
        return super().train(False)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What it multiplies each channel by and then adds to it, (C,) each."""
        assert self.running_mean is not None, "statistics are stored"
        assert self.running_var is not None, "statistics are stored"
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale


class ConvNorm(nn.Sequential):
    """Convolution without bias, then normalisation: ``c`` and ``bn``.

    With stored statistics the two are one convolution, whose weights and bias are computed from
    theirs. What it gives is the same apart from rounding, and the backward pass needs neither to
    keep what is between them nor to pass over it again.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = FrozenStatisticsNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the output's channels and, by the stride, size."""
        layer = self.c
        if self.bn.training:  # where statistics are collected, which takes what lies between
            return self.bn(layer(x))
        scale, shift = self.bn.scale_and_shift()
        weight = layer.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, shift, layer.stride, layer.padding, groups=layer.groups)


class MBConv(nn.Module):
    """Inverted residual block of the first stage, (B, C, h, w) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.conv1 = ConvNorm(channels, hidden, 1)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels, 1)
        nn.init.zeros_(self.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(inner))


class PatchMerging(nn.Module):
    """Between stages: other channels and, with stride 2, half the side length."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels_out, 1)
        self.conv2 = ConvNorm(channels_out, channels_out, 3, stride, groups=channels_out)
        self.conv3 = ConvNorm(channels_out, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Attention within a window of n tokens, with a learnt bias per distance."""

    attention_bias_idxs: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        offsets, indices = _distances(window)
        self.attention_biases = nn.Parameter(torch.zeros(heads, offsets))
        self.register_buffer("attention_bias_idxs", indices, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, n, C) to the same."""
        windows, n, channels = x.shape
        # Query, key and value of one head lie side by side, head after head.
        qkv = self.qkv(self.norm(x)).view(windows, n, self.heads, 3, channels // self.heads)
        q, k, v = (part.squeeze(3).transpose(1, 2) for part in qkv.split(1, dim=3))
        bias = self.attention_biases[:, self.attention_bias_idxs]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(windows, n, channels))


def _distances(window: int) -> tuple[int, Tensor]:
    """How many distances there are in a window, and which pair of its tokens has which (n, n).

    Distances are numbered in the order in which a walk over all pairs meets them.
    """
    points = list(product(range(window), range(window)))
    numbers: dict[tuple[int, int], int] = {}
    indices = [
        numbers.setdefault((abs(ya - yb), abs(xa - xb)), len(numbers))
        for (ya, xa), (yb, xb) in product(points, points)
    ]
    return len(numbers), torch.tensor(indices).view(window**2, window**2)


class Mlp(nn.Module):
    """Two linear layers behind a LayerNorm, on the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyVitBlock(nn.Module):
    """Window attention, depthwise convolution and MLP, (B, C, h, w) to the same."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = x + self._attend(x)
        x = self.local_conv(x)
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        side = self.window
        # The zeros that fill up the last windows take part in the attention: the published
        # weights were trained so.
        last = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = last.shape[1] // side, last.shape[2] // side
        windows = last.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        mixed = self.attn(windows.reshape(-1, side * side, channels))
        mixed = mixed.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        whole = mixed.reshape(last.shape)
        return whole[:, :height, :width].permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks at one resolution, then the step to the next stage."""

    def __init__(self, blocks: Iterable[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the next stage's shape."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """The stem: (B, 3, H, W) to (B, C, H/4, W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, channels // 2, 3, 2), nn.GELU(), ConvNorm(channels // 2, channels, 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.seq(x)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, h, w), as in SAM's neck."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        last = x.permute(0, 2, 3, 1)
        normed = F.layer_norm(last, self.weight.shape, self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)


class TinyVit(nn.Module):
    """The image encoder: (B, 3, H, W) float32, normalised, to (B, 256, H/16, W/16)."""

    pixel_mean = (0.485, 0.456, 0.406)
    pixel_std = (0.229, 0.224, 0.225)
    memory_format = torch.channels_last
    """Of feature maps: the attention's tokens and the 1 x 1 convolutions have channels last anyway,
    and would otherwise turn each map around and back."""

    def __init__(self, config: TinyVitConfig | None = None) -> None:
        super().__init__()
        config = config or TinyVitConfig()
        self.patch_embed = PatchEmbed(config.embed_dims[0])
        self.layers = nn.ModuleList(_stage(config, index) for index in range(4))
        self.neck = nn.Sequential(
            nn.Conv2d(config.embed_dims[-1], OUT_CHANNELS, 1, bias=False),
            ChannelNorm(OUT_CHANNELS),
            nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 3, padding=1, bias=False),
            ChannelNorm(OUT_CHANNELS),
        )
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Compute features.

        Raises:
            ValueError: if height or width is not a multiple of 16.
        """
        height, width = image.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"image of {height} x {width} pixels: both sides must be multiples of {STRIDE}"
            )
        x = self.patch_embed(image.contiguous(memory_format=self.memory_format))
        for stage in self.layers:
            x = stage(x)
        return self.neck(x)


def _stage(config: TinyVitConfig, index: int) -> Stage:
    channels = config.embed_dims[index]
    heads, window = config.num_heads[index], config.window_sizes[index]
    blocks = [
        MBConv(channels) if index == 0 else TinyVitBlock(channels, heads, window)
        for _ in range(config.depths[index])
    ]
    if index == 3:
        return Stage(blocks, None)
    # TinySAM keeps the resolution of the third stage in the fourth.
    stride = 1 if index == 2 else 2
    return Stage(blocks, PatchMerging(channels, config.embed_dims[index + 1], stride))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def config_from_state_dict(state: Mapping[str, Tensor]) -> TinyVitConfig:
    """The sizes of the encoder that ``state`` belongs to, from the shapes of its tensors.

    Raises:
        KeyError: if a tensor that tells a size is missing.
    """
    dims, depths, heads, windows = [], [], [], []
    for stage in range(4):
        prefix = f"layers.{stage}.blocks."
        depths.append(len({k.split(".")[3] for k in state if k.startswith(prefix)}))
        if stage == 0:
            dims.append(state[f"{prefix}0.conv1.c.weight"].shape[1])
            heads.append(1)
            windows.append(1)
            continue
        dims.append(state[f"{prefix}0.mlp.norm.weight"].shape[0])
        biases = state[f"{prefix}0.attn.attention_biases"]
        heads.append(biases.shape[0])
        # A window of side s has s² distances.
        windows.append(round(biases.shape[1] ** 0.5))
    return TinyVitConfig(*(tuple(values) for values in (dims, depths, heads, windows)))  # type: ignore[arg-type]
