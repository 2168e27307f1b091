"""SAM's encoder, plain and with SAM-Med2D's adapters, against a reading of the published layout.

``reference`` works on the names and shapes of the published files alone, one image, one window and
one head at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from prs_med.model.encoders.files import read_state_dict
from prs_med.model.encoders.registry import build_encoder, encoder_family, load_encoder
from prs_med.model.encoders.sam_vit import SamVit
from prs_med.model.tiny_encoders import write_sam, write_sam_med2d

FAMILIES = ["sam", "sam_med2d"]
HEADS = 2
WINDOW = 14


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sam")
    write_sam(root / "sam.pth", seed=5)
    write_sam_med2d(root / "sam_med2d.pth", seed=6)
    return {name: root / f"{name}.pth" for name in FAMILIES}


def tensors(file: Path) -> dict[str, Tensor]:
    stored = read_state_dict(file)
    return {
        name.removeprefix("image_encoder."): value.double()
        for name, value in stored.items()
        if name.startswith("image_encoder.")
    }


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    result = x @ w[f"{name}.weight"].T
    return result + w[f"{name}.bias"] if f"{name}.bias" in w else result


def norm(w: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def distances(table: Tensor, side: int) -> Tensor:
    """(side, side, c): the entry for every pair of places along one axis."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    return torch.stack(
        [torch.stack([table[a - b + side - 1] for b in range(side)]) for a in range(side)]
    )


def attention(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Over all places of (h, w, c)."""
    height, width, channels = x.shape
    qkv = linear(w, f"{name}.qkv", x).reshape(height, width, 3, HEADS, channels // HEADS)
    rows = distances(w[f"{name}.rel_pos_h"], height)
    columns = distances(w[f"{name}.rel_pos_w"], width)
    heads = []
    for head in range(HEADS):
        q, k, v = (qkv[:, :, part, head] for part in range(3))
        logits = torch.einsum("yxc,abc->yxab", q, k) * (channels // HEADS) ** -0.5
        logits = logits + torch.einsum("yxc,yac->yxa", q, rows)[..., None]
        logits = logits + torch.einsum("yxc,xbc->yxb", q, columns)[:, :, None]
        shares = logits.flatten(2).softmax(-1).reshape(logits.shape)
        heads.append(torch.einsum("yxab,abc->yxc", shares, v))
    return linear(w, f"{name}.proj", torch.cat(heads, -1))


def in_windows(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    height, width, _ = x.shape
    padded = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    result = torch.zeros_like(padded)
    for top in range(0, padded.shape[0], WINDOW):
        for left in range(0, padded.shape[1], WINDOW):
            place = (slice(top, top + WINDOW), slice(left, left + WINDOW))
            result[place] = attention(w, name, padded[place])
    return result[:height, :width]


def adapter(w: dict[str, Tensor], name: str, n: Tensor) -> Tensor:
    gate = linear(w, f"{name}.channel.0", n.mean((0, 1))).relu()
    gate = linear(w, f"{name}.channel.2", gate).sigmoid()
    x = n.permute(2, 0, 1)
    inner = F.conv2d((gate[:, None, None] * x)[None], w[f"{name}.spatial.0.weight"], None, 2, 1)
    outer = F.conv_transpose2d(inner.relu(), w[f"{name}.spatial.2.weight"], None, 2, 1).relu()
    return norm(w, f"{name}.norm", (x + outer[0]).permute(1, 2, 0), eps=1e-5)


def reference(w: dict[str, Tensor], image: Tensor, global_blocks: set[int]) -> Tensor:
    """Features (256, h, w) of one normalised image (3, H, W)."""
    patches = w["patch_embed.proj.weight"]
    x = F.conv2d(image[None], patches, w["patch_embed.proj.bias"], stride=16)[0].permute(1, 2, 0)
    positions = w["pos_embed"].permute(0, 3, 1, 2)
    if positions.shape[-2:] != x.shape[:2]:
        positions = F.interpolate(positions, x.shape[:2], mode="bilinear", align_corners=False)
    x = x + positions[0].permute(1, 2, 0)
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for block in range(depth):
        name = f"blocks.{block}"
        attend = attention if block in global_blocks else in_windows
        x = x + attend(w, f"{name}.attn", norm(w, f"{name}.norm1", x, eps=1e-6))
        n = norm(w, f"{name}.norm2", x, eps=1e-6)
        added = linear(w, f"{name}.mlp.lin2", F.gelu(linear(w, f"{name}.mlp.lin1", n)))
        if f"{name}.Adapter.norm.weight" in w:
            added = added + adapter(w, f"{name}.Adapter", n)
        x = x + added
    x = F.conv2d(x.permute(2, 0, 1)[None], w["neck.0.weight"])
    x = norm(w, "neck.1", x.permute(0, 2, 3, 1), eps=1e-6).permute(0, 3, 1, 2)
    x = F.conv2d(x, w["neck.2.weight"], padding=1)
    return norm(w, "neck.3", x.permute(0, 2, 3, 1), eps=1e-6).permute(0, 3, 1, 2)[0]


def images(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 96), (64, 96), (288, 256)])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_published_layout(files, family: str, size) -> None:
    """At the size of training, at others, not square, with windows that must be filled up."""
    encoder = load_encoder(family, str(files[family]))
    image = images(*size)
    found = encoder(image)
    assert found.shape == (1, 256, size[0] // 16, size[1] // 16)
    assert found.dtype == torch.float32
    expected = reference(tensors(files[family]), image[0].double(), {1})
    torch.testing.assert_close(found[0], expected.float(), rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


@torch.no_grad()
def test_features_are_those_of_transformers_at_its_size(files) -> None:
    config = SamVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_dim=64, image_size=96,
        global_attn_indexes=[1],
    )  # fmt: skip
    theirs = SamVisionEncoder(config)
    ours = load_encoder("sam", str(files["sam"]))
    names = {"patch_embed.": "patch_embed.projection.", "blocks.": "layers."}
    state = {}
    for name, value in ours.state_dict().items():
        old = next((old for old in names if name.startswith(old)), "")
        state[names.get(old, "") + name.removeprefix(old)] = value
    theirs.load_state_dict(state)
    image = images(96, 96, count=2)
    torch.testing.assert_close(ours(image), theirs(image).last_hidden_state)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_size_is_refused(files, family: str) -> None:
    encoder = load_encoder(family, str(files[family]))
    multiple = {"sam": 16, "sam_med2d": 32}[family]
    with pytest.raises(ValueError, match=f"both sides must be multiples of {multiple}"):
        encoder(images(96, 96 + multiple // 2))


PUBLISHED = {
    # Parameters of the image encoder, its width, depth and heads.
    "b": (89_670_912, 768, 12, 12, (2, 5, 8, 11)),
    "l": (308_278_272, 1024, 24, 16, (5, 11, 17, 23)),
    "h": (637_026_048, 1280, 32, 16, (7, 15, 23, 31)),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_full_size_models_have_the_published_sizes(size: str) -> None:
    count, width, depth, heads, whole = PUBLISHED[size]
    config = SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        global_attn_indexes=whole,
    )
    with torch.device("meta"):
        model = SamVit(config)
        rebuilt = encoder_family("sam").build(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == count
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == shapes
    for one, other in zip(model.blocks, rebuilt.blocks, strict=True):
        assert one.window_size == other.window_size
        assert one.attn.num_attention_heads == other.attn.num_attention_heads == heads


def test_the_adapters_of_sam_med2d_have_the_published_size() -> None:
    config = SamVisionConfig(image_size=256)
    with torch.device("meta"):
        model = SamVit(config, adapter_width=192)
    adapters = [p.numel() for name, p in model.named_parameters() if ".adapter." in name]
    assert sum(adapters) == 180_504_576


def published_names(depth: int, adapted: bool) -> set[str]:
    both = ("weight", "bias")
    names = {"pos_embed", "neck.0.weight", "neck.2.weight"}
    names |= {
        f"{part}.{kind}" for part in ("patch_embed.proj", "neck.1", "neck.3") for kind in both
    }
    for block in range(depth):
        parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")
        names |= {f"blocks.{block}.{part}.{kind}" for part in parts for kind in both}
        names |= {f"blocks.{block}.attn.rel_pos_{axis}" for axis in "hw"}
        if adapted:
            parts = ("norm.weight", "norm.bias", "channel.0.weight", "channel.2.weight")
            parts += ("spatial.0.weight", "spatial.2.weight")
            names |= {f"blocks.{block}.Adapter.{part}" for part in parts}
    return {f"image_encoder.{name}" for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_the_published_ones(files, family: str) -> None:
    encoder = load_encoder(family, str(files[family]))
    published = encoder_family(family).to_published(encoder.state_dict())
    assert published.keys() == published_names(2, adapted=family == "sam_med2d")
    again = encoder_family(family).encoder_state(published, "here")
    assert again.keys() == encoder.state_dict().keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(files, family: str) -> None:
    encoder = load_encoder(family, str(files[family]))
    encoder(images(96, 96)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_does_not_depend_on_the_others(files, family: str) -> None:
    encoder = load_encoder(family, str(files[family]))
    several = images(96, 128, count=3)
    torch.testing.assert_close(encoder(several)[1], encoder(several[1:2])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_built_again_from_its_own_state(files, family: str) -> None:
    encoder = load_encoder(family, str(files[family]))
    again = build_encoder(family, encoder.state_dict(), "here")
    with torch.no_grad():
        assert torch.equal(encoder(images(64, 64)), again(images(64, 64)))
    assert isinstance(again, nn.Module)
