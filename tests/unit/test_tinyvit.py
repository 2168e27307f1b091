"""TinySAM's encoder against the published layout and a plain reading of the published network."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prs_med.model.encoders.registry import build_encoder, load_encoder
from prs_med.model.encoders.tinyvit import (
    ConvNorm,
    FrozenStatisticsNorm,
    TinyVit,
    TinyVitConfig,
    config_from_state_dict,
)
from prs_med.model.errors import CheckpointError
from prs_med.model.tiny_encoders import write_tinysam

SMALL = TinyVitConfig(
    embed_dims=(16, 24, 32, 48),
    depths=(1, 2, 1, 1),
    num_heads=(2, 2, 4, 3),
    window_sizes=(7, 3, 4, 2),
)
TinyVitState = dict[str, Tensor]


def scrambled(encoder: TinyVit, seed: int = 0) -> TinyVit:
    """Give every stored number a value of its own: initial ones and zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in encoder.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.dim() == 1:
            value.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
        else:
            value.copy_(noise / math.sqrt(max(1, value[0].numel())))
    return encoder


def published_file(path: Path, encoder: TinyVit, width: int) -> TinyVitState:
    """Write ``encoder`` as TinySAM is published, and return what was written."""
    state = {f"image_encoder.{name}": value for name, value in encoder.state_dict().items()}
    state["image_encoder.norm_head.weight"] = torch.ones(width)
    state["image_encoder.norm_head.bias"] = torch.zeros(width)
    state["image_encoder.head.weight"] = torch.zeros(1000, width)
    state["image_encoder.head.bias"] = torch.zeros(1000)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 256)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    torch.save(state, path)
    return state


# --- a plain reading: one image, one window, one head, one pair at a time, in float64 ---


def conv_norm(w: TinyVitState, p: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = w[f"{p}.c.weight"]
    groups = x.shape[0] // kernel.shape[1]
    x = torch.conv2d(x[None], kernel, None, stride, kernel.shape[-1] // 2, 1, groups)[0]
    mean, var = w[f"{p}.bn.running_mean"], w[f"{p}.bn.running_var"]
    scale = w[f"{p}.bn.weight"] / (var + 1e-5).sqrt()
    return x * scale[:, None, None] + (w[f"{p}.bn.bias"] - mean * scale)[:, None, None]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(w: TinyVitState, p: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / ((centred**2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{p}.weight"] + w[f"{p}.bias"]


def linear(w: TinyVitState, p: str, x: Tensor) -> Tensor:
    return x @ w[f"{p}.weight"].T + w[f"{p}.bias"]


def attention(w: TinyVitState, p: str, tokens: Tensor, heads: int, window: int) -> Tensor:
    """(N, C) of one window, padding included."""
    width = tokens.shape[1] // heads
    qkv = linear(w, f"{p}.qkv", layer_norm(w, f"{p}.norm", tokens))
    points = [(y, x) for y in range(window) for x in range(window)]
    numbers: dict[tuple[int, int], int] = {}
    out = []
    for head in range(heads):
        mine = qkv[:, head * 3 * width : (head + 1) * 3 * width]
        q, k, v = mine[:, :width], mine[:, width : 2 * width], mine[:, 2 * width :]
        scores = q @ k.T * width**-0.5
        for i, (y, x) in enumerate(points):
            for j, (other_y, other_x) in enumerate(points):
                offset = (abs(y - other_y), abs(x - other_x))
                number = numbers.setdefault(offset, len(numbers))
                scores[i, j] += w[f"{p}.attention_biases"][head, number]
        out.append(scores.softmax(-1) @ v)
    return linear(w, f"{p}.proj", torch.cat(out, dim=1))


def block(w: TinyVitState, p: str, x: Tensor, heads: int, window: int) -> Tensor:
    channels, height, width = x.shape
    down, across = math.ceil(height / window), math.ceil(width / window)
    padded = x.new_zeros(channels, down * window, across * window)
    padded[:, :height, :width] = x
    mixed = torch.empty_like(padded)
    for row in range(0, down * window, window):
        for column in range(0, across * window, window):
            here = (slice(None), slice(row, row + window), slice(column, column + window))
            tokens = padded[here].reshape(channels, -1).T
            mixed[here] = attention(w, f"{p}.attn", tokens, heads, window).T.reshape(
                channels, window, window
            )
    x = conv_norm(w, f"{p}.local_conv", x + mixed[:, :height, :width])
    tokens = x.reshape(channels, -1).T
    inner = gelu(linear(w, f"{p}.mlp.fc1", layer_norm(w, f"{p}.mlp.norm", tokens)))
    return (tokens + linear(w, f"{p}.mlp.fc2", inner)).T.reshape(x.shape)


def plain_encoder(w: TinyVitState, config: TinyVitConfig, image: Tensor) -> Tensor:
    """(3, H, W) to (256, H/16, W/16)."""
    x = gelu(conv_norm(w, "patch_embed.seq.0", image, stride=2))
    x = conv_norm(w, "patch_embed.seq.2", x, stride=2)
    for stage in range(4):
        for number in range(config.depths[stage]):
            p = f"layers.{stage}.blocks.{number}"
            if stage == 0:
                y = gelu(conv_norm(w, f"{p}.conv1", x))
                y = gelu(conv_norm(w, f"{p}.conv2", y))
                x = gelu(x + conv_norm(w, f"{p}.conv3", y))
            else:
                x = block(w, p, x, config.num_heads[stage], config.window_sizes[stage])
        if stage < 3:
            p = f"layers.{stage}.downsample"
            x = gelu(conv_norm(w, f"{p}.conv1", x))
            x = gelu(conv_norm(w, f"{p}.conv2", x, stride=1 if stage == 2 else 2))
            x = conv_norm(w, f"{p}.conv3", x)
    for conv, norm in ((0, 1), (2, 3)):
        kernel = w[f"neck.{conv}.weight"]
        x = torch.conv2d(x[None], kernel, padding=kernel.shape[-1] // 2)[0]
        x = layer_norm(w, f"neck.{norm}", x.permute(1, 2, 0), eps=1e-6).permute(2, 0, 1)
    return x


@pytest.mark.parametrize(
    ("height", "width"), [(96, 64), (48, 112), (16, 16)], ids=["multiple", "padded", "one position"]
)
def test_computes_what_the_published_network_computes(height: int, width: int) -> None:
    encoder = scrambled(TinyVit(SMALL)).eval()
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = encoder(images)
    assert features.dtype == torch.float32
    assert features.shape == (2, 256, height // 16, width // 16)
    weights = {name: value.double() for name, value in encoder.state_dict().items()}
    expected = torch.stack([plain_encoder(weights, SMALL, image.double()) for image in images])
    torch.testing.assert_close(features.double(), expected, atol=2e-4, rtol=2e-4)


def test_published_sizes(tmp_path: Path) -> None:
    encoder = TinyVit()
    stored = published_file(tmp_path / "tinysam.pth", encoder, width=320)
    stored = {name: v for name, v in stored.items() if name.startswith("image_encoder.")}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = {name: v.numel() for name, v in stored.items() if not name.endswith(statistics)}
    unused = sum(n for name, n in parameters.items() if "head." in name)
    assert len(stored) == 302
    assert sum(parameters.values()) == 6_065_532
    assert unused == 321_640
    assert sum(p.numel() for p in encoder.parameters()) == 6_065_532 - unused
    assert sum(isinstance(m, nn.BatchNorm2d) for m in encoder.modules()) == 27
    for name in (
        "patch_embed.seq.0.c.weight",
        "patch_embed.seq.2.bn.num_batches_tracked",
        "layers.0.blocks.1.conv3.bn.running_var",
        "layers.0.downsample.conv2.c.weight",
        "layers.1.blocks.1.attn.norm.weight",
        "layers.2.blocks.5.attn.attention_biases",
        "layers.2.blocks.0.local_conv.bn.weight",
        "layers.3.blocks.1.mlp.fc2.bias",
        "neck.0.weight",
        "neck.3.bias",
    ):
        assert f"image_encoder.{name}" in stored
    assert not any(name.endswith("attention_bias_idxs") for name in stored)


def test_published_size_runs() -> None:
    encoder = TinyVit().eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 128, 96)).shape == (1, 256, 8, 6)


@pytest.mark.parametrize("size", [(64, 40), (65, 64)])
def test_other_sizes_are_refused_by_name(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]} ?x ?{size[1]}.*multiples of 16"):
        TinyVit(SMALL)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("prepare", ["fresh", "train", "eval"])
def test_stored_statistics_are_used_and_never_change(prepare: str) -> None:
    encoder = scrambled(TinyVit(SMALL))
    reference = scrambled(TinyVit(SMALL)).eval()
    if prepare != "fresh":
        getattr(encoder, prepare)()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    images = 3 + 5 * torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    features = encoder(images)
    assert torch.equal(features, reference(images))
    for name, value in encoder.named_buffers():
        assert torch.equal(value, before[name]), name


def test_convolution_and_norm_are_one_and_train_as_two() -> None:
    layer = ConvNorm(6, 8, 3, stride=2, groups=2)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean):
            value.copy_(torch.randn(8, generator=draw))
        layer.bn.running_var.copy_(torch.rand(8, generator=draw) + 0.1)
    image = torch.randn(2, 6, 9, 9, generator=draw, requires_grad=True)
    found, expected = layer(image), layer.bn(layer.c(image))
    torch.testing.assert_close(found, expected)
    weights = (image, layer.c.weight, layer.bn.weight, layer.bn.bias)
    upstream = torch.randn(expected.shape, generator=draw)
    for ours, theirs in zip(
        torch.autograd.grad(found, weights, upstream),
        torch.autograd.grad(expected, weights, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_weight_is_trained_through_a_whole_encoder() -> None:
    encoder = scrambled(TinyVit(SMALL)).train()
    encoder(torch.randn(1, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_features_do_not_depend_on_batch_mates() -> None:
    encoder = scrambled(TinyVit(SMALL)).train()
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        alone = encoder(images[:1])
        together = encoder(torch.cat([images[:1], 100 * images[1:]]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)


def test_training_changes_evaluation_without_reloading() -> None:
    encoder = scrambled(TinyVit(SMALL)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(image)
        encoder.layers[1].blocks[0].attn.attention_biases.mul_(5)
        assert not torch.equal(encoder(image), before)


@pytest.mark.parametrize("config", [TinyVitConfig(), SMALL])
def test_sizes_are_read_from_the_weights(config: TinyVitConfig) -> None:
    read = config_from_state_dict(TinyVit(config).state_dict())
    assert (read.embed_dims, read.depths) == (config.embed_dims, config.depths)
    assert read.num_heads[1:] == config.num_heads[1:]
    assert read.window_sizes[1:] == config.window_sizes[1:]


def test_loads_a_published_file(tmp_path: Path) -> None:
    original = scrambled(TinyVit(SMALL))
    published_file(tmp_path / "tinysam.pth", original, width=48)
    loaded = load_encoder("tinysam", str(tmp_path / "tinysam.pth"))
    assert loaded.state_dict().keys() == original.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, original.state_dict()[name]), name
    assert loaded.pixel_mean == (0.485, 0.456, 0.406)
    assert loaded.pixel_std == (0.229, 0.224, 0.225)


def test_builds_from_its_own_state() -> None:
    original = scrambled(TinyVit(SMALL))
    built = build_encoder("tinysam", original.state_dict(), "here")
    assert built.state_dict().keys() == original.state_dict().keys()


def load_tinysam(path: Path) -> nn.Module:
    return load_encoder("tinysam", str(path))


MISSING = ["layers.2.blocks.0.mlp.fc1.bias", "layers.1.blocks.0.attn.attention_biases"]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_weight_is_named(tmp_path: Path, name: str) -> None:
    state = published_file(tmp_path / "good.pth", TinyVit(SMALL), width=48)
    del state[f"image_encoder.{name}"]
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=rf"bad\.pth.*{name}"):
        load_tinysam(tmp_path / "bad.pth")


def test_unexpected_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    state = published_file(tmp_path / "good.pth", TinyVit(SMALL), width=48)
    state["image_encoder.layers.1.blocks.0.adapter.weight"] = torch.zeros(1)
    state["image_encoder.neck.1.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError) as caught:
        load_tinysam(tmp_path / "bad.pth")
    for part in ("bad.pth", "unexpected: layers.1.blocks.0.adapter.weight", "neck.1.bias"):
        assert part in str(caught.value)


OTHER_FAMILIES = {
    "sam": {"image_encoder.pos_embed": torch.zeros(1), "mask_decoder.x": torch.zeros(1)},
    "encoder alone": {"patch_embed.seq.0.c.weight": torch.zeros(1)},
    "empty": {},
}


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_another_family_is_refused(tmp_path: Path, family: str) -> None:
    stored = OTHER_FAMILIES[family]
    torch.save(stored, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth") as caught:
        load_tinysam(tmp_path / "other.pth")
    if stored:
        assert next(iter(stored)) in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "code", "list"])
def test_an_unreadable_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "tinysam.pth"
    published_file(path, TinyVit(SMALL), width=48)
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "code":
        torch.save({"image_encoder.x": nn.Linear(1, 1)}, path)  # needs unpickling of classes
    else:
        torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match=r"tinysam\.pth") as caught:
        load_tinysam(path)
    assert "\n" not in str(caught.value)


class _RunsCode:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self._target,))


def test_code_in_a_weight_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"image_encoder.x": _RunsCode(tmp_path / "ran")}, tmp_path / "tinysam.pth")
    with pytest.raises(CheckpointError, match=r"tinysam\.pth"):
        load_tinysam(tmp_path / "tinysam.pth")
    assert not (tmp_path / "ran").exists()


def test_small_random_encoders_have_settled_statistics(tmp_path: Path) -> None:
    """So that the signal does not fade, and something can be learnt from their features."""
    write_tinysam(tmp_path / "tinysam.pth", seed=3)
    encoder = load_encoder("tinysam", str(tmp_path / "tinysam.pth"))
    norms = {n: m for n, m in encoder.named_modules() if isinstance(m, FrozenStatisticsNorm)}
    assert norms
    for name, norm in norms.items():
        assert norm.running_mean.any(), name
        assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var)), name
