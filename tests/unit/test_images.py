"""Decoding refuses what it cannot read; the geometry is that of the models' own code."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from prs_med.data.clip_input import padded_to_square, resize_shortest_edge_center_crop
from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.records import DataError

EDGES = st.integers(1, 60)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def disc() -> np.ndarray:
    y, x = np.mgrid[:40, :50]
    return (np.hypot(x - 25, y - 20) < 12).astype(np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_images_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    noise(20, 10).convert(mode).save(path)
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))


def test_16_bit_grayscale_is_divided_by_256(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(load_image(tmp_path / name))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_wider_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for values in (np.array([[0, 70000]], np.int32), np.array([[-1, 5]], np.int32)):
        Image.fromarray(values).save(path)
        with pytest.raises(DataError, match=r"x.tif: pixels wider than 16 bits"):
            load_image(path)
    Image.fromarray(np.zeros((2, 2), np.float32)).save(path)
    with pytest.raises(DataError, match="pixels wider"):
        load_mask(path)


@pytest.mark.parametrize("scale", [1, 255, 65535])
@pytest.mark.parametrize("mode", ["", "1", "RGB", "P", "LA"])
def test_masks_become_zeros_and_ones(tmp_path: Path, scale: int, mode: str) -> None:
    image = Image.fromarray(disc() * np.array(scale, np.uint16 if scale > 255 else np.uint8))
    if mode and scale == 255:
        image = image.convert(mode)
    image.save(tmp_path / "m.png")
    mask = load_mask(tmp_path / "m.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, disc())


def test_jpeg_noise_does_not_join_the_mask(tmp_path: Path) -> None:
    Image.fromarray(disc() * np.uint8(255)).save(tmp_path / "m.jpg", quality=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "m.jpg")))) > 2
    mask = load_mask(tmp_path / "m.jpg")
    assert set(np.unique(mask)) == {0, 1}
    assert (mask != disc()).mean() < 0.01


def test_one_colour_channel_is_enough(tmp_path: Path) -> None:
    red = np.zeros((40, 50, 3), np.uint8)
    red[..., 0] = disc() * 255
    Image.fromarray(red).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), disc())


def test_an_empty_mask_is_a_mask(tmp_path: Path) -> None:
    Image.new("L", (5, 4)).save(tmp_path / "m.png")
    assert load_mask(tmp_path / "m.png").tolist() == [[0] * 5] * 4


def test_a_label_map_is_not_silently_empty(tmp_path: Path) -> None:
    Image.fromarray(disc() * np.uint8(2)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m.png: mask values reach only 2, .*0 and 255"):
        load_mask(tmp_path / "m.png")


@pytest.fixture
def lenient_pillow() -> Iterator[None]:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES = False


@pytest.mark.usefixtures("lenient_pillow")
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.tif"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    noise(60, 50).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    for load in (load_image, load_mask):
        with pytest.raises(DataError, match=rf"{name}: not a readable image"):
            load(path)


def test_missing_file_and_text_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.png: no such file"):
        load_image(tmp_path / "x.png")
    (tmp_path / "x.png").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"x.png: not a readable image"):
        load_image(tmp_path / "x.png")


def test_sizes_must_agree() -> None:
    check_same_size(noise(50, 40), disc(), "a.csv:2")
    with pytest.raises(DataError, match=r"^a.csv:2: the image is 40 x 50 .* mask 50 x 40"):
        check_same_size(noise(40, 50), disc(), "a.csv:2")


@given(EDGES, EDGES, st.integers(1, 40))
@example(40, 1100, 30)
@example(1100, 40, 30)
@settings(max_examples=100)
def test_padding_centres_the_image_on_a_square(width: int, height: int, size: int) -> None:
    image, side = noise(width, height), max(width, height)
    square = Image.new("RGB", (side, side), (1, 2, 3))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    expected = square.resize((size, size), Image.Resampling.BICUBIC)
    found = padded_to_square(image, (1, 2, 3), size)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@given(EDGES, EDGES, st.integers(1, 40))
@settings(max_examples=50)
def test_the_crop_is_square(width: int, height: int, size: int) -> None:
    assert resize_shortest_edge_center_crop(noise(width, height), size).size == (size, size)


def test_center_crop_keeps_the_middle() -> None:
    image = noise(9, 4)
    cropped = np.asarray(resize_shortest_edge_center_crop(image, 4))
    np.testing.assert_array_equal(cropped, np.asarray(image)[:, 2:6])


def test_crop_is_what_transformers_does() -> None:
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = clip.CLIPImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        do_rescale=False,
        do_normalize=False,
    )
    for width, height in [(100, 100), (101, 77), (77, 101), (40, 30), (300, 57), (57, 99)]:
        image = noise(width, height)
        expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        ours = np.asarray(resize_shortest_edge_center_crop(image, 56))
        np.testing.assert_array_equal(ours, expected)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    size = struct.pack(">2I", 60_000, 60_000) + bytes([8, 2, 0, 0, 0])
    header = b"IHDR" + size
    checked = struct.pack(">I", len(size)) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + checked)
    with pytest.raises(DataError, match=r"huge\.png: not a readable image"):
        load_image(tmp_path / "huge.png")


def test_postscript_is_no_image_whatever_it_is_called(tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    Image.new("RGB", (8, 8)).save(file, format="EPS")
    with pytest.raises(DataError, match="not one of PNG, JPEG"):
        load_image(file)
