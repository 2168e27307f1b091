"""SAM 2's encoder against a reading of the published layout, and against transformers' whole one.

``reference`` works on the names and shapes of the published files alone, one image, one window and
one head at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

from prs_med.model.encoders.files import read_state_dict
from prs_med.model.encoders.registry import build_encoder, encoder_family, load_encoder
from prs_med.model.encoders.sam2 import Sam2Encoder, hiera_config
from prs_med.model.errors import CheckpointError
from prs_med.model.tiny_encoders import write_sam2

STAGES = (1, 2, 7, 2)
WINDOWS = (8, 4, 14, 7)
WHOLE_IMAGE = {5, 7, 9}
WIDTH = 96


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    write_sam2(path, seed=4)
    return path


@pytest.fixture(scope="module")
def encoder(file: Path) -> Sam2Encoder:
    return load_encoder("sam2", str(file))


def images(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def halved(x: Tensor) -> Tensor:
    """The largest of each 2 × 2 places of (h, w, c)."""
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).amax((1, 3))


def attention(w: dict[str, Tensor], name: str, x: Tensor, heads: int, halve: bool) -> Tensor:
    """Over all places of (h, w, c); with ``halve`` only one query for each 2 × 2 places."""
    height, width, _ = x.shape
    q, k, v = linear(w, f"{name}.qkv", x).chunk(3, -1)
    q = halved(q) if halve else q
    size = q.shape[-1] // heads
    found = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = torch.einsum("yxc,abc->yxab", q[..., part], k[..., part]) * size**-0.5
        shares = logits.flatten(2).softmax(-1).reshape(*q.shape[:2], height, width)
        found.append(torch.einsum("yxab,abc->yxc", shares, v[..., part]))
    return linear(w, f"{name}.proj", torch.cat(found, -1))


def block(w: dict[str, Tensor], name: str, x: Tensor, heads: int, window: int, halve: bool):
    height, width, _ = x.shape
    n = norm(w, f"{name}.norm1", x)
    if f"{name}.proj.weight" in w:
        x = halved(linear(w, f"{name}.proj", n))
    if window:
        padded = F.pad(n, (0, 0, 0, -width % window, 0, -height % window))
        step = window // 2 if halve else window
        rows, columns = padded.shape[0] // window, padded.shape[1] // window
        channels = w[f"{name}.attn.proj.weight"].shape[0]
        whole = torch.zeros(rows * step, columns * step, channels, dtype=x.dtype)
        for row in range(rows):
            for column in range(columns):
                inside = padded[
                    row * window : (row + 1) * window, column * window : (column + 1) * window
                ]
                whole[row * step : (row + 1) * step, column * step : (column + 1) * step] = (
                    attention(w, f"{name}.attn", inside, heads, halve)
                )
        attended = whole[: x.shape[0], : x.shape[1]]
    else:
        attended = attention(w, f"{name}.attn", n, heads, halve)
    x = x + attended
    n = norm(w, f"{name}.norm2", x)
    return x + linear(w, f"{name}.mlp.layers.1", F.gelu(linear(w, f"{name}.mlp.layers.0", n)))


def reference(w: dict[str, Tensor], image: Tensor) -> Tensor:
    """Features (256, h, w) of one normalised image (3, H, W)."""
    stem = "trunk.patch_embed.proj"
    x = F.conv2d(image[None], w[f"{stem}.weight"], w[f"{stem}.bias"], stride=4, padding=3)
    positions = F.interpolate(w["trunk.pos_embed"], x.shape[-2:], mode="bicubic")
    repeats = [1, 1, x.shape[-2] // 8, x.shape[-1] // 8]
    positions = positions + w["trunk.pos_embed_window"].repeat(repeats)
    x = (x + positions)[0].permute(1, 2, 0)
    number, outputs = 0, []
    for stage, blocks in enumerate(STAGES):
        for index in range(blocks):
            enters = stage > 0 and index == 0
            window = 0 if number in WHOLE_IMAGE else WINDOWS[stage - 1 if enters else stage]
            x = block(w, f"trunk.blocks.{number}", x, 2**stage, window, enters)
            number += 1
        outputs.append(x)
    fine, coarse = (
        torch.einsum("yxc,oc->oyx", outputs[stage], w[f"neck.convs.{conv}.conv.weight"][..., 0, 0])
        + w[f"neck.convs.{conv}.conv.bias"][:, None, None]
        for stage, conv in ((2, 1), (3, 0))
    )
    return fine + coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (160, 96), (256, 288)])
def test_features_are_those_of_the_published_layout(file: Path, encoder, size) -> None:
    stored = read_state_dict(file)
    w = {n.removeprefix("image_encoder."): t.double() for n, t in stored.items()}
    image = images(*size)
    found = encoder(image)
    assert found.shape == (1, 256, size[0] // 16, size[1] // 16)
    expected = reference(w, image[0].double())
    torch.testing.assert_close(found[0], expected.float(), rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


@torch.no_grad()
def test_features_are_those_of_transformers(encoder) -> None:
    whole = Sam2VisionModel(Sam2VisionConfig(backbone_config=Sam2HieraDetConfig())).eval()
    state = encoder.state_dict()
    theirs = {name: value for name, value in state.items() if name.startswith("backbone.")}
    for ours, conv in (("lateral_32", 0), ("lateral_16", 1)):
        for kind in ("weight", "bias"):
            theirs[f"neck.convs.{conv}.{kind}"] = state[f"{ours}.{kind}"]
    left = whole.load_state_dict(theirs, strict=False)
    assert left.unexpected_keys == []
    assert {n.rsplit(".", 1)[0] for n in left.missing_keys} == {"neck.convs.2", "neck.convs.3"}
    image = images(128, 128, count=2)
    torch.testing.assert_close(encoder(image), whole(image).fpn_hidden_states[-1])


SIZES = {
    # Width, blocks per stage, heads of the first stage, windows, blocks over the whole image, size
    # of the background position map: the published configuration files.
    "tiny": (96, [1, 2, 7, 2], 1, [8, 4, 14, 7], [5, 7, 9], [7, 7]),
    "small": (96, [1, 2, 11, 2], 1, [8, 4, 14, 7], [7, 10, 13], [7, 7]),
    "base_plus": (112, [2, 3, 16, 3], 2, [8, 4, 14, 7], [12, 16, 20], [14, 14]),
    "large": (144, [2, 6, 36, 4], 2, [8, 4, 16, 8], [23, 33, 43], [7, 7]),
}


def published_shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a full-size image encoder as published, without the unused pyramid."""
    width, stages, _, windows, _, background = SIZES[size]
    shapes: dict[str, tuple[int, ...]] = {
        "trunk.pos_embed": (1, width, *background),
        "trunk.pos_embed_window": (1, width, windows[0], windows[0]),
        "trunk.patch_embed.proj.weight": (width, 3, 7, 7),
        "trunk.patch_embed.proj.bias": (width,),
    }

    def layer(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    number = 0
    for stage, blocks in enumerate(stages):
        for index in range(blocks):
            name, after = f"trunk.blocks.{number}", width * 2**stage
            before = after // 2 if stage and not index else after
            for part, channels in (("norm1", before), ("norm2", after)):
                shapes[f"{name}.{part}.weight"] = shapes[f"{name}.{part}.bias"] = (channels,)
            layer(f"{name}.attn.qkv", 3 * after, before)
            layer(f"{name}.attn.proj", after, after)
            layer(f"{name}.mlp.layers.0", 4 * after, after)
            layer(f"{name}.mlp.layers.1", after, 4 * after)
            if before != after:
                layer(f"{name}.proj", after, before)
            number += 1
    for conv, channels in ((0, 8 * width), (1, 4 * width)):
        shapes[f"neck.convs.{conv}.conv.weight"] = (256, channels, 1, 1)
        shapes[f"neck.convs.{conv}.conv.bias"] = (256,)
    return {f"image_encoder.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("size", SIZES)
def test_full_size_models_have_the_published_names_and_shapes(size: str) -> None:
    family = encoder_family("sam2")
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in published_shapes(size).items()}
        state = family.encoder_state(published, "here")
        model = family.build(state)
    own = model.state_dict()
    assert {n: tuple(t.shape) for n, t in own.items()} == {
        n: tuple(t.shape) for n, t in state.items()
    }
    back = {n: tuple(t.shape) for n, t in family.to_published(own).items()}
    assert back == published_shapes(size)
    width, stages, heads, windows, whole, background = SIZES[size]
    config = hiera_config(own)
    assert config.hidden_size == width
    assert config.blocks_per_stage == stages
    assert config.num_attention_heads_per_stage == [heads * 2**stage for stage in range(4)]
    assert config.window_size_per_stage == windows
    assert config.global_attention_blocks == whole
    assert config.window_positional_embedding_background_size == background


def test_an_unknown_size_is_refused(encoder) -> None:
    state = {n: t for n, t in encoder.state_dict().items() if ".blocks.11." not in n}
    with pytest.raises(CheckpointError, match=r"width 96 with \(1, 2, 7, 1\) blocks is not known"):
        build_encoder("sam2", state, "here")


@pytest.mark.parametrize("size", [(80, 64), (64, 48)])
def test_a_wrong_size_is_refused(encoder, size) -> None:
    with pytest.raises(ValueError, match="both sides must be multiples of 32"):
        encoder(images(*size))


def test_every_parameter_gets_a_gradient(file: Path) -> None:
    encoder = load_encoder("sam2", str(file))
    encoder(images(96, 96)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_an_image_does_not_depend_on_the_others(encoder) -> None:
    several = images(64, 96, count=3)
    torch.testing.assert_close(encoder(several)[1], encoder(several[1:2])[0], rtol=1e-4, atol=1e-5)


def test_built_again_from_its_own_state(encoder) -> None:
    again = build_encoder("sam2", encoder.state_dict(), "here")
    with torch.no_grad():
        assert torch.equal(encoder(images(64, 64)), again(images(64, 64)))
