"""One set of rules for pictures: what a conversion would drop is an error, however it is stored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prs_med.data.images import (
    as_rgb,
    check_same_size,
    decode_image,
    decode_labels,
    decode_mask,
    load_image,
)
from prs_med.data.picture_file import MAX_RATIO, MAX_SIDE
from prs_med.data.records import DataError
from prs_med.mask_classes import parse_classes

BOX = (slice(5, 25), slice(8, 30))
SECOND = (slice(30, 44), slice(36, 50))


def values(box: int, second: int = 0, background: int = 0, kind: type = np.uint8) -> np.ndarray:
    pixels = np.full((48, 64), background, kind)
    pixels[BOX], pixels[SECOND] = box, second
    return pixels


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def palette(pixels: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(pixels, "P")
    image.putpalette([part for colour in colours for part in colour])
    return image


def in_colours(pixels: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> np.ndarray:
    result = np.zeros((*pixels.shape, 3), np.uint8)
    for value, colour in colours.items():
        result[pixels == value] = colour
    return result


def result(decode: Callable[..., object], *arguments: object) -> bytes | str:
    """The pixels, or the error."""
    try:
        return np.asarray(decode(*arguments)).tobytes()
    except DataError as error:
        return str(error)


# Masks: two levels, in whatever way they are stored


@st.composite
def shapes(draw: st.DrawFn) -> np.ndarray:
    mask = np.zeros((40, 56), np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        top, left = draw(st.integers(0, 30)), draw(st.integers(0, 46))
        mask[top : top + draw(st.integers(1, 20)), left : left + draw(st.integers(1, 20))] = 1
    return mask


STORED = {
    "zeros and ones": lambda mask: encoded(mask),
    "8 bits": lambda mask: encoded(mask * np.uint8(255)),
    "one bit": lambda mask: encoded(Image.fromarray(mask * np.uint8(255)).convert("1")),
    "16 bits": lambda mask: encoded(mask.astype(np.uint16) * 65535),
    "red": lambda mask: encoded(in_colours(mask, {1: (255, 0, 0)})),
    "a palette with white first": lambda mask: encoded(
        palette(1 - mask, (255, 255, 255), (0, 0, 0))
    ),
    "a palette with green second": lambda mask: encoded(palette(mask, (0, 0, 0), (0, 200, 0))),
    "opaque where it is white": lambda mask: encoded(
        np.stack([mask * np.uint8(255), mask * np.uint8(255)], axis=-1)
    ),
    "bitmap": lambda mask: encoded(mask * np.uint8(255), "BMP"),
    "gif": lambda mask: encoded(mask * np.uint8(255), "GIF"),
    "tiff": lambda mask: encoded(mask * np.uint8(255), "TIFF", compression="tiff_lzw"),
}


@given(shapes(), st.sampled_from(sorted(STORED)))
def test_a_mask_is_the_same_in_every_way_to_store_it(mask: np.ndarray, how: str) -> None:
    np.testing.assert_array_equal(decode_mask(STORED[how](mask), "m"), mask)


@given(shapes(), st.integers(50, 95), st.sampled_from(["L", "RGB"]))
def test_the_noise_of_jpeg_makes_no_classes(mask: np.ndarray, quality: int, mode: str) -> None:
    data = encoded(Image.fromarray(mask * np.uint8(255)).convert(mode), "JPEG", quality=quality)
    assert (decode_mask(data, "m") != mask).mean() < 0.02


@given(
    shapes(),
    st.sampled_from([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX]),
    st.sampled_from([(112, 80), (150, 100), (168, 120), (400, 300), (500, 700)]),
)
def test_smoothed_edges_make_no_classes(
    mask: np.ndarray, how: Image.Resampling, size: tuple[int, int]
) -> None:
    mask = np.kron(mask, np.ones((6, 6), np.uint8))  # nothing is as thin as a pixel afterwards
    scaled = Image.fromarray(mask * np.uint8(255)).resize(size, how)
    expected = np.asarray(scaled) > 127
    if np.asarray(scaled).max() > 127:
        np.testing.assert_array_equal(decode_mask(encoded(scaled), "m"), expected)


# Masks: more than two levels


@pytest.mark.parametrize(
    ("box", "second"), [(1, 2), (128, 255), (85, 170), (1, 255), (60, 255), (3, 200), (7, 8)]
)
def test_labels_of_several_classes_are_no_mask(box: int, second: int) -> None:
    with pytest.raises(DataError, match=rf"^m: .*--classes {box}:NAME,{second}:NAME"):
        decode_mask(encoded(values(box, second)), "m")


def test_narrow_classes_count_too() -> None:
    pixels = values(255)
    pixels[30:32, 3:60] = 128
    with pytest.raises(DataError, match="the values 0, 128, 255"):
        decode_mask(encoded(pixels), "m")


def test_an_edge_around_one_structure_that_is_to_be_ignored_is_no_foreground() -> None:
    pixels = values(255)
    pixels[6:24, 9:29] = 1
    with pytest.raises(DataError, match="the values 0, 1, 255"):
        decode_mask(encoded(pixels), "m")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_two_bright_levels_are_no_mask(kind: type) -> None:
    top = np.iinfo(kind).max
    with pytest.raises(DataError, match="several classes"):
        decode_mask(encoded(values(top, background=top // 4 * 3, kind=kind)), "m")


@pytest.mark.parametrize(
    "colours",
    [
        {1: (255, 0, 0), 2: (0, 255, 0)},
        {1: (255, 255, 0), 2: (0, 0, 100)},
        {1: (255, 0, 0), 0: (0, 255, 0)},
        {1: (1, 0, 0), 2: (0, 1, 0)},
        {1: (0, 0, 60)},
    ],
)
def test_colours_of_several_classes_are_no_mask(colours: dict[int, tuple[int, int, int]]) -> None:
    with pytest.raises(DataError, match=r"not the colours #.*--classes"):
        decode_mask(encoded(in_colours(values(1, 2), colours)), "m")


def test_the_classes_of_a_palette_are_its_numbers() -> None:
    data = encoded(palette(values(1, 2), (0, 0, 0), (128, 0, 0), (64, 0, 0)))
    with pytest.raises(DataError, match="--classes 1:NAME,2:NAME"):
        decode_mask(data, "m")
    first, second = parse_classes("1:disc,2:cup")
    np.testing.assert_array_equal(decode_mask(data, "m", second), values(0, 1))
    np.testing.assert_array_equal(decode_mask(data, "m", first), values(1, 0))


def test_a_palette_that_shows_two_numbers_alike_is_no_mask() -> None:
    black = palette(values(1, 2), (0, 0, 0), (0, 0, 0), (255, 255, 255))
    with pytest.raises(DataError, match="shows the values 0 and 1 in one colour"):
        decode_mask(encoded(black), "m")


# Classes


def test_a_class_is_chosen_and_others_must_be_known() -> None:
    data = encoded(values(1, 255))
    (tumor,) = parse_classes("1:tumor,255:")
    np.testing.assert_array_equal(decode_mask(data, "m", tumor), values(1))
    (tumor,) = parse_classes("1:tumor")
    with pytest.raises(DataError, match=r"^m: --classes does not name its values 255; .*255:"):
        decode_mask(data, "m", tumor)
    for cannot in (
        in_colours(values(1, 2), {1: (255, 0, 0)}),
        np.stack([values(1), values(255)], axis=-1),
    ):
        with pytest.raises(DataError, match="a number for each class"):
            decode_labels(encoded(cannot), "m")


@pytest.mark.parametrize(
    "text",
    ["", "tumor", "1", "0:x", "1:a,1:b", "1:a,2:A", "1:,2:", "1:../x", "70000:a", "1:a/b", "1:a,"],
)
def test_what_classes_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"^" + text.replace("/", "/") + "$"):
        parse_classes(text)


# Transparency, pages, turns


@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_in_the_alpha_channel_is_refused(colour: int) -> None:
    grey = np.full((48, 64), colour, np.uint8)
    with pytest.raises(DataError, match="what is transparent"):
        decode_mask(encoded(np.stack([grey, values(255)], axis=-1)), "m")


def test_transparent_pixels_of_an_image_are_refused() -> None:
    rgba = np.dstack([in_colours(values(1), {1: (9, 9, 9)}), values(255, background=254)])
    with pytest.raises(DataError, match=r"^x: 2632 pixels are transparent"):
        decode_image(encoded(rgba), "x")
    paletted = palette(values(1), (0, 0, 0), (9, 9, 9))
    assert decode_image(encoded(paletted), "x").getpixel((10, 10)) == (9, 9, 9)
    with pytest.raises(DataError, match="transparent"):
        decode_image(encoded(paletted, transparency=1), "x")
    with pytest.raises(DataError, match="transparent"):
        decode_image(encoded(values(60000, kind=np.uint16), transparency=60000), "x")


@pytest.mark.parametrize("form", ["TIFF", "GIF", "PNG", "WEBP", "MPO"])
def test_several_pages_are_refused(form: str) -> None:
    pages = [Image.fromarray(values(255)), Image.fromarray(values(0, 255))]
    pages = [page.convert("RGB") for page in pages]
    data = encoded(pages[0], form, save_all=True, append_images=pages[1:])
    for decode in (decode_image, decode_mask):
        with pytest.raises(DataError, match="holds several pictures or pages"):
            decode(data, "x")


def turned(image: Image.Image, orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif)


# Where the stored upper left corner is shown.
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}
CORNERS |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_an_image_is_turned_as_a_viewer_shows_it(form: str, orientation: int) -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :16] = 255
    image = decode_image(turned(Image.fromarray(pixels), orientation, form), "x")
    assert image.size == ((64, 32) if orientation < 5 else (32, 64))
    assert np.asarray(image)[CORNERS[orientation]].min() > 200
    assert (np.asarray(image) > 128).all(axis=2).sum() == 256
    again = Image.open(io.BytesIO(turned(Image.fromarray(pixels), orientation, form)))
    np.testing.assert_array_equal(np.asarray(as_rgb(again, "x")), np.asarray(image))


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_mask_must_be_stored_as_it_is_shown(orientation: int) -> None:
    with pytest.raises(DataError, match=rf"m: the mask is stored turned .*{orientation}"):
        decode_mask(turned(Image.fromarray(values(255)), orientation, "PNG"), "m")


def test_image_and_mask_are_seen_alike_or_refused() -> None:
    wide, square = Image.new("RGB", (64, 48)), Image.new("RGB", (48, 48))
    of = {n: decode_image(turned(wide, n, "JPEG"), "x") for n in (1, 3, 6)}
    check_same_size(of[1], np.zeros((48, 64)), "row")
    check_same_size(of[6], np.zeros((64, 48)), "row")  # drawn on what was shown
    with pytest.raises(DataError, match="row: the image is 48 x 64 pixels"):
        check_same_size(of[6], np.zeros((48, 64)), "row")  # drawn on what was stored
    turned_square = decode_image(turned(square, 8, "JPEG"), "x")
    for image in (of[3], turned_square):  # nobody knows
        with pytest.raises(DataError, match="row: the image is stored turned"):
            check_same_size(image, np.zeros((48, image.width)), "row")


# Bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_16_are_refused_instead_of_black(bits: int) -> None:
    pixels = values(2**bits - 1, kind=np.uint16)
    with pytest.raises(DataError, match=rf"^x: 16-bit pixels that use {bits} bits alone"):
        decode_image(encoded(pixels), "x")
    with pytest.raises(DataError, match=rf"{bits} bits alone"):
        as_rgb(Image.fromarray(pixels), "x")


def deep_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as a PNG file, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    size = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bits_for_each_colour_follow_the_same_rule() -> None:
    pixels = np.repeat(values(65535, 25600, kind=np.uint16)[..., None], 3, axis=2)
    image = np.asarray(decode_image(deep_png(pixels), "x"))
    assert (image[BOX] == 255).all()
    assert (image[SECOND] == 100).all()
    with pytest.raises(DataError, match="use 12 bits alone"):
        decode_image(deep_png(np.minimum(pixels, 4095)), "x")
    # Its ones would be lost with the lower bits.
    with pytest.raises(DataError, match="16 bits for each colour"):
        decode_mask(deep_png(np.minimum(pixels, 1)), "m")


@given(
    st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"]),
    st.sampled_from([0, 1, 127, 255, 20000, 65535]),
)
def test_an_image_in_memory_follows_the_rules_of_files(mode: str, value: int) -> None:
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(values(value, value // 2, kind=kind))
    else:
        image = Image.fromarray(values(min(value, 255))).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")

    assert result(as_rgb, image, "x") == result(decode_image, file.getvalue(), "x")


def test_asking_about_an_image_leaves_it_as_it_was() -> None:
    image = Image.open(io.BytesIO(encoded(values(1), transparency=7)))
    as_rgb(image, "x").putpixel((0, 0), (1, 2, 3))
    assert image.info["transparency"] == 7
    assert image.getpixel((0, 0)) == 0


# Sizes and damage


def png_of(width: int, height: int) -> bytes:
    """A PNG file of so many black pixels, with no more bytes than its size needs."""
    size = struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(height, 1000) * (1 + -(-width // 8))), 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 1), (1, 60_000), (MAX_RATIO + 1, 1), (MAX_SIDE + 1, 1000)]
)
def test_what_would_be_made_of_a_picture_is_limited(width: int, height: int) -> None:
    with pytest.raises(DataError, match=rf"^x: {width} x {height} pixels; .*: (crop|scale)"):
        decode_image(png_of(width, height), "x")
    with pytest.raises(DataError, match=rf"{width} x {height}"):
        as_rgb(Image.new("1", (width, height)), "x")


def test_the_smallest_and_the_longest_picture_pass() -> None:
    assert decode_image(png_of(1, 1), "x").size == (1, 1)
    assert decode_image(png_of(MAX_RATIO, 1), "x").size == (MAX_RATIO, 1)
    assert decode_mask(png_of(1, 1), "m").tolist() == [[0]]


FILES = [
    encoded(values(255), "PNG"),
    encoded(values(200, 90), "JPEG"),
    encoded(values(255), "TIFF"),
    encoded(values(255), "TIFF", compression="tiff_lzw"),
    encoded(values(255), "GIF"),
    encoded(values(255), "BMP"),
    encoded(Image.fromarray(values(255)).convert("RGB"), "WEBP"),
    encoded(values(255), "JPEG2000"),
    encoded(values(255), "PPM"),
    encoded(palette(values(1), (0, 0, 0), (255, 0, 0)), "PNG"),
    turned(Image.fromarray(values(255)), 6, "JPEG"),
]


@given(st.data())
@settings(max_examples=300)
def test_whatever_a_damaged_file_makes_its_parser_raise_is_one_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)) | st.just(len(content)))]
    for decode in (decode_image, decode_mask, decode_labels):
        said = result(decode, bytes(content), "x")
        assert isinstance(said, bytes) or (said.startswith("x: ") and "\n" not in said)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png"])
def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        load_image(tmp_path / name)
