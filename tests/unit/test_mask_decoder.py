"""The mask decoder against a plain reading of the released one, and its independence of padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prs_med.model.mask_decoder import MaskDecoder

WIDTH = 24
"""Of the language model in these tests."""


@pytest.fixture
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    decoder = MaskDecoder(WIDTH).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            # Initial zeros and ones would hide a missing bias or norm.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return decoder


def inputs(batch: int = 2, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 256, 5, 4, generator=generator)
    prompt = torch.randn(batch, tokens, WIDTH, generator=generator)
    return features, prompt, torch.ones(batch, tokens, dtype=torch.bool)


# --- a plain reading: one image, one head at a time, in float64, without padding ---

Weights = dict[str, Tensor]


def linear(w: Weights, p: str, x: Tensor) -> Tensor:
    return x @ w[f"{p}.weight"].T + w[f"{p}.bias"]


def layer_norm(w: Weights, p: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{p}.weight"] + w[f"{p}.bias"]


def attention(w: Weights, p: str, x: Tensor, keys: Tensor, heads: int) -> Tensor:
    kernels, biases = w[f"{p}.in_proj_weight"].chunk(3), w[f"{p}.in_proj_bias"].chunk(3)
    q, k, v = (
        source @ kernel.T + bias
        for source, kernel, bias in zip((x, keys, keys), kernels, biases, strict=True)
    )
    size = q.shape[1] // heads
    out = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        out.append((q[:, own] @ k[:, own].T / math.sqrt(size)).softmax(-1) @ v[:, own])
    return linear(w, f"{p}.out_proj", torch.cat(out, dim=1))


def instance_norm(w: Weights, p: str, x: Tensor) -> Tensor:
    centred = x - x.mean((1, 2), keepdim=True)
    scaled = centred / ((centred**2).mean((1, 2), keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{p}.weight"][:, None, None] + w[f"{p}.bias"][:, None, None]


def conv(w: Weights, p: str, x: Tensor, padding: int) -> Tensor:
    return torch.conv2d(x[None], w[f"{p}.weight"], w[f"{p}.bias"], padding=padding)[0]


def plain_decoder(w: Weights, image: Tensor, prompt: Tensor) -> Tensor:
    """(256, h, w) and (T, D) to (h, w) logits at the resolution of the features."""
    prompt = layer_norm(w, "prompt_projection.1", linear(w, "prompt_projection.0", prompt)).relu()
    prompt = layer_norm(w, "prompt_projection.4", linear(w, "prompt_projection.3", prompt)).relu()
    prompt = layer_norm(w, "prompt_norm", prompt)
    x = layer_norm(w, "image_norm", image.reshape(256, -1).T)
    x = layer_norm(w, "norm1", attention(w, "attn", x, prompt, 8) + x)

    p = "encoder_layer"
    x = layer_norm(w, f"{p}.norm1", x + attention(w, f"{p}.self_attn", x, x, 16))
    inner = linear(w, f"{p}.linear2", linear(w, f"{p}.linear1", x).relu())
    x = layer_norm(w, f"{p}.norm2", x + inner)

    x = layer_norm(w, "ffn.norm", linear(w, "ffn.fc2", linear(w, "ffn.fc1", x).relu() + x).relu())
    x = x.T.reshape(image.shape) + image
    for number in range(3):
        p = f"mask_generation.{number}"
        x = instance_norm(w, f"{p}.bn1", conv(w, f"{p}.conv1", x, 1)).relu() + x
        x = conv(w, f"{p}.conv3", instance_norm(w, f"{p}.bn2", conv(w, f"{p}.conv2", x, 1)), 0)
    return conv(w, "out_dec", x, 0)[0]


def corner_aligned(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing in which the corners' centres stay where they are."""
    lines = []
    for length, wanted in zip(mask.shape, size, strict=True):
        matrix = mask.new_zeros(wanted, length)
        for row in range(wanted):
            position = row * (length - 1) / (wanted - 1)
            below = min(int(position), length - 2)
            matrix[row, below + 1] = position - below
            matrix[row, below] = 1 - (position - below)
        lines.append(matrix)
    return lines[0] @ mask @ lines[1].T


def test_computes_what_the_released_decoder_computes(decoder: MaskDecoder) -> None:
    features, prompt, _ = inputs()
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad():
        logits = decoder(features, prompt, mask, (33, 20))
    weights = {name: value.double() for name, value in decoder.state_dict().items()}
    for sample, length in enumerate((7, 4)):
        plain = plain_decoder(weights, features[sample].double(), prompt[sample, :length].double())
        expected = corner_aligned(plain, (33, 20))
        torch.testing.assert_close(logits[sample, 0].double(), expected, atol=2e-4, rtol=2e-4)


def test_released_names_and_size() -> None:
    decoder = MaskDecoder(4096)
    assert sum(p.numel() for p in decoder.parameters()) == 5_366_465
    names = set(decoder.state_dict())
    for module in (
        *(f"prompt_projection.{i}" for i in (0, 1, 3, 4)),
        *("attn.out_proj", "norm1", "image_norm", "prompt_norm", "out_dec"),
        *(f"ffn.{part}" for part in ("fc1", "fc2", "norm", "norm1")),
        *(f"encoder_layer.{part}" for part in ("self_attn.out_proj", "linear1", "norm2")),
        *(f"mask_generation.{i}.{part}" for i in range(3) for part in ("conv1", "bn1", "conv3")),
    ):
        assert {f"{module}.weight", f"{module}.bias"} <= names


def test_initial_attention_and_linear_biases_are_zero() -> None:
    decoder = MaskDecoder(WIDTH)
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias") and not name.startswith(("mask_generation", "out_dec")):
            assert not parameter.any(), name


@pytest.mark.parametrize("size", [(5, 4), (64, 64), (37, 91), (1, 1)])
def test_mask_has_the_size_asked_for(decoder: MaskDecoder, size: tuple[int, int]) -> None:
    logits = decoder(*inputs(), size)
    assert logits.shape == (2, 1, *size)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_any_prompt_precision(decoder: MaskDecoder, dtype: torch.dtype) -> None:
    features, prompt, mask = inputs()
    rounded = prompt.to(dtype)
    with torch.no_grad():
        given = decoder(features, rounded, mask, (8, 8))
        expected = decoder(features, rounded.float(), mask, (8, 8))
    assert torch.equal(given, expected)


@pytest.mark.parametrize("garbage", [0.0, 1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(
    decoder: MaskDecoder, garbage: float, side: str, training: bool
) -> None:
    """Not even NaN, which language models do leave at positions that attend to nothing."""
    for module in decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    decoder.encoder_layer.self_attn.dropout = 0.0
    decoder.train(training)
    features, prompt, mask = inputs()
    padding = torch.full((2, 3, WIDTH), garbage)
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    parts, masks = [prompt, padding], [mask, hidden]
    if side == "left":
        parts.reverse()
        masks.reverse()
    padded = decoder(features, torch.cat(parts, 1), torch.cat(masks, 1), (8, 8))
    plain = decoder(features, prompt, mask, (8, 8))
    torch.testing.assert_close(padded, plain, atol=1e-4, rtol=1e-4)
    padded.sum().backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters() if p.grad is not None)


def test_mask_does_not_depend_on_batch_mates(decoder: MaskDecoder) -> None:
    features, prompt, mask = inputs()
    with torch.no_grad():
        alone = decoder(features[:1], prompt[:1], mask[:1], (8, 8))
        louder = torch.cat([features[:1], 50 * features[1:]])
        together = decoder(louder, prompt, mask, (8, 8))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)


def test_mask_depends_on_the_prompt(decoder: MaskDecoder) -> None:
    features, prompt, mask = inputs()
    with torch.no_grad():
        assert not torch.allclose(
            decoder(features, prompt, mask, (8, 8)), decoder(features, -prompt, mask, (8, 8))
        )


@pytest.mark.parametrize("where", ["features", "prompt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_input_is_not_hidden(decoder: MaskDecoder, where: str, value: float) -> None:
    features, prompt, mask = inputs()
    {"features": features, "prompt": prompt}[where][0, 0] = value
    with torch.no_grad():
        logits = decoder(features, prompt, mask, (8, 8))
    assert logits[0].isnan().all()
    assert logits[1].isfinite().all()


def test_every_trainable_parameter_gets_a_gradient(decoder: MaskDecoder) -> None:
    decoder(*inputs(), (8, 8)).square().sum().backward()
    unused = {name for name, p in decoder.named_parameters() if p.grad is None}
    assert unused == {"ffn.norm1.weight", "ffn.norm1.bias"}
    assert unused == {name for name, p in decoder.named_parameters() if not p.requires_grad}


def test_dropout_is_what_is_asked_for(decoder: MaskDecoder) -> None:
    features, prompt, mask = inputs()
    expected = decoder(features, prompt, mask, (8, 8))
    for rate, alike in ((0.0, True), (0.5, False)):
        other = MaskDecoder(WIDTH, dropout=rate).train()
        other.load_state_dict(decoder.state_dict())
        found = other(features, prompt, mask, (8, 8))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4) == alike
