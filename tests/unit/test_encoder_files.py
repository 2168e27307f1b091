"""Weight files of segmentation encoders: containers, wrappers, families, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from prs_med import config
from prs_med.config import ENCODERS, EncoderInput
from prs_med.model.encoders import sam2, sam_vit
from prs_med.model.encoders.family import IMAGENET_MEAN, IMAGENET_STD, EncoderFamily
from prs_med.model.encoders.files import read_state_dict, without_wrappers
from prs_med.model.encoders.registry import build_encoder, encoder_family, load_encoder
from prs_med.model.encoders.renaming import Renaming
from prs_med.model.errors import CheckpointError
from prs_med.model.tiny_encoders import write_sam, write_sam2, write_sam_med2d, write_tinysam


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    writers = {
        "tinysam": write_tinysam,
        "sam": write_sam,
        "sam_med2d": write_sam_med2d,
        "sam2": write_sam2,
    }
    for name, write in writers.items():
        write(root / f"{name}.pth", seed=1)
    return {name: root / f"{name}.pth" for name in writers}


def test_every_family_is_tested_here(files) -> None:
    assert files.keys() == ENCODERS.keys()


@pytest.mark.parametrize("given_as", ENCODERS)
@pytest.mark.parametrize("family", ENCODERS)
def test_a_file_of_another_family_says_which_setting_fits(files, family, given_as) -> None:
    if family == given_as:
        assert load_encoder(given_as, str(files[family]))
        return
    with pytest.raises(CheckpointError) as caught:
        load_encoder(given_as, str(files[family]))
    message = str(caught.value)
    assert "\n" not in message
    assert str(files[family]) in message
    assert encoder_family(family).title in message
    assert message.endswith(f"use --encoder_type {family}")


@pytest.mark.parametrize("given_as", ENCODERS)
def test_a_file_of_no_known_family_is_refused(tmp_path: Path, given_as: str) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="nor of any other known encoder; it holds conv1"):
        load_encoder(given_as, str(tmp_path / "resnet.pth"))


def wrapped(state: dict[str, Tensor], how: str) -> object:
    return {
        "plain": state,
        "model": {"model": state, "optimizer": {"step": 3}, "epoch": 7},
        "state_dict": {"state_dict": state},
        "model_state_dict": {"model_state_dict": state, "timestamp": "today"},
        "ddp": {f"module.{name}": value for name, value in state.items()},
        "compiled": {f"_orig_mod.{name}": value for name, value in state.items()},
        "both": {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    }[how]


@pytest.mark.parametrize(
    "how", ["plain", "model", "state_dict", "model_state_dict", "ddp", "compiled", "both"]
)
@pytest.mark.parametrize("family", ["tinysam", "sam", "sam_med2d"])
def test_wrappers_are_taken_off(files, tmp_path: Path, family: str, how: str) -> None:
    state = read_state_dict(files[family])
    torch.save(wrapped(state, how), tmp_path / "wrapped.pth")
    expected = load_encoder(family, str(files[family])).state_dict()
    found = load_encoder(family, str(tmp_path / "wrapped.pth")).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_safetensors_are_read(files, tmp_path: Path) -> None:
    save_file(read_state_dict(files["sam"]), tmp_path / "sam.safetensors")
    found = load_encoder("sam", str(tmp_path / "sam.safetensors")).state_dict()
    expected = load_encoder("sam", str(files["sam"])).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "sam.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: cannot be read"):
        load_encoder("sam", str(cut))


LAST = {
    "tinysam": "image_encoder.neck.3.bias",
    "sam": "image_encoder.neck.3.bias",
    "sam_med2d": "image_encoder.blocks.1.Adapter.norm.bias",
    "sam2": "image_encoder.neck.convs.0.conv.bias",
}


@pytest.mark.parametrize("family", ENCODERS)
def test_what_does_not_fit_is_named(files, tmp_path: Path, family: str) -> None:
    def refused(change: dict[str, Tensor | None], *parts: str) -> None:
        state = {**read_state_dict(files[family]), **change}
        torch.save({n: t for n, t in state.items() if t is not None}, tmp_path / "bad.pth")
        with pytest.raises(CheckpointError) as caught:
            load_encoder(family, str(tmp_path / "bad.pth"))
        for part in ("bad.pth", *parts):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)

    ours = LAST[family].rsplit(".", 1)[1]
    refused({LAST[family]: None}, "missing: ", ours)
    refused({LAST[family]: torch.zeros(3)}, "of another shape: ", ours)
    refused({"image_encoder.extra.weight": torch.zeros(1)}, "extra.weight")
    refused({"another_head.weight": torch.zeros(1)}, "no part of the model uses: another_head")


def test_all_take_pixels_in_the_same_way() -> None:
    """So that the colour of padding, which is the mean, becomes zero for each."""
    for module in (sam_vit.SamVit, sam2.Sam2Encoder):
        assert (module.pixel_mean, module.pixel_std) == (IMAGENET_MEAN, IMAGENET_STD)


PARTS = st.text("abcdefgh", min_size=1, max_size=4)
TABLES = [sam_vit.PLAIN_NAMES, sam_vit.ADAPTED_NAMES, sam2.NAMES]


@given(
    table=st.sampled_from(TABLES),
    pair=st.integers(0, 30),
    number=st.integers(0, 47),
    rest=st.lists(PARTS, min_size=1, max_size=3),
)
def test_renaming_and_back_is_the_identity(table: Renaming, pair, number, rest) -> None:
    published, ours = table.pairs[pair % len(table.pairs)]
    tail = ".".join(rest)
    one = {published.replace("#", str(number)) + tail: torch.zeros(0)}
    there = table.to_ours(one)
    assert list(there) == [ours.replace("#", str(number)) + tail]
    assert table.to_published(there).keys() == one.keys()


@given(st.lists(PARTS, min_size=1, max_size=4), st.lists(st.sampled_from(["module", "_orig_mod"])))
def test_wrappers_leave_other_names_alone(parts: list[str], wrappers: list[str]) -> None:
    name = ".".join(parts)
    assert list(without_wrappers({name: torch.zeros(0)})) == [name]
    assert list(without_wrappers({".".join([*wrappers, name]): torch.zeros(0)})) == [name]
    assert list(without_wrappers({f"sub{name}_module.x": torch.zeros(0)})) == [
        f"sub{name}_module.x"
    ]


def test_a_new_encoder_is_one_file_and_one_registration(monkeypatch, tmp_path: Path) -> None:
    module = ModuleType("prs_med.model.encoders.toy")

    class Toy(nn.Conv2d):
        pixel_mean = (0.5, 0.5, 0.5)
        pixel_std = (0.5, 0.5, 0.5)

    module.FAMILY = EncoderFamily(
        title="Toy",
        recognises=lambda whole: "toy.weight" in whole,
        encoder_state=lambda whole, where: {n.removeprefix("toy."): t for n, t in whole.items()},
        build=lambda state: Toy(3, 256, 16, 16),
        to_published=lambda state: {f"toy.{n}": t for n, t in state.items()},
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(ENCODERS, "toy", EncoderInput(native=64, multiple=16))
    weights = {"toy.weight": torch.randn(256, 3, 16, 16), "toy.bias": torch.zeros(256)}
    torch.save(weights, tmp_path / "toy.pth")

    settings = config.Settings(encoder_type="toy")
    assert settings.image_size == 64
    encoder = load_encoder("toy", str(tmp_path / "toy.pth"))
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 4, 4)
    assert build_encoder("toy", encoder.state_dict(), "here").state_dict().keys()
    with pytest.raises(CheckpointError, match="of Toy: use --encoder_type toy"):
        load_encoder("tinysam", str(tmp_path / "toy.pth"))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--encoder_type sam9: must be one of tinysam, sam"):
        encoder_family("sam9")
