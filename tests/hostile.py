"""What nobody gives a program on purpose: files, names, rows and arguments, drawn at random."""

from __future__ import annotations

import csv
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

EXAMPLES = int(os.environ.get("PRS_MED_HOSTILE_EXAMPLES", "0"))
"""How many examples tests try instead of their few."""
PEAK_BYTES = 1 << 30
"""Most memory that a program may take for small hostile inputs, beyond what it had."""


def png(width: int, height: int, depth: int = 1, colour: int = 0) -> bytes:
    """A PNG file that says it has so many pixels, and has a few rows of them."""
    size = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes(min(height, 64) * (1 + width // 8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _good() -> Image.Image:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[5:20, 8:30] = 255
    return Image.fromarray(pixels)


GOOD = _saved(_good(), "PNG")
_TURNED = Image.Exif()
_TURNED[0x0112] = 6
PLAIN = {
    "good": GOOD,
    "jpeg": _saved(_good(), "JPEG"),
    "tiff": _saved(_good(), "TIFF", compression="tiff_lzw"),
    "gif": _saved(_good(), "GIF"),
    "webp": _saved(_good().convert("RGB"), "WEBP"),
    "turned": _saved(_good(), "JPEG", exif=_TURNED),
    "one pixel": _saved(Image.new("L", (1, 1), 255), "PNG"),
    "one row": _saved(Image.new("L", (40, 1), 255), "PNG"),
    "12 bits": _saved(Image.fromarray(np.full((48, 64), 4095, np.uint16)), "PNG"),
    "decimals": _saved(Image.fromarray(np.ones((48, 64), np.float32)), "TIFF"),
    "alpha": _saved(Image.new("RGBA", (64, 48), (255, 255, 255, 0)), "PNG"),
    "pages": _saved(_good(), "TIFF", save_all=True, append_images=[_good()]),
    "classes": _saved(_good().point(lambda value: 3 if value else 1), "PNG"),
    "long": png(60_000, 1),
    "huge": png(60_000, 60_000),
    "wide": png(16_384, 4_000),
    "postscript": _saved(Image.new("RGB", (8, 8)), "EPS"),
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "dicom": b"\0" * 128 + b"DICM" + b"\x08\0\x05\0CS\xff\xff",
    "gzip": b"\x1f\x8b\x08\0" + b"\xff" * 40,
}

"""Files that are called images, by what they are."""
USABLE = ("good", "jpeg", "tiff", "gif", "webp", "turned", "one row", "classes", "wide")
"""Those that can be asked about."""


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """The bytes of a file that is called an image, often of one that is damaged."""
    content = bytearray(draw(st.sampled_from(sorted(PLAIN)).map(PLAIN.__getitem__)))
    if content and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 8))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        content = content[: draw(st.integers(len(content) // 2, len(content)))]
    return bytes(content)


ODD = (
    *("", " ", ",", '"', "'", "''", "\n", "\r\n", "\t", "\\", "/", "..", ".", "../../etc/passwd"),
    *("/etc/passwd", "C:\\x.png", "~", "*", "?", "[", "%s", "{}", "{0}", "$HOME", "`id`", "-"),
    *("--help", "=1+1", "@x", "+1", "</s>", "<image>", "<script>alert(1)</script>", "\u202e", "é"),
    *("e\u0301", "\ufeff", "\u200b", "\udcff", "NaN", "nan", "null", "None", "0", "-1", "1e400"),
    *("4294967296", "9" * 400, "a" * 300, "," * 60, "a,b" * 20, "True", "[]", "s3://", "gs://x/y"),
    *("https://u:p@h/x", "file:///etc", "data/x\0y"),
)
texts = st.sampled_from(ODD) | st.text(max_size=12) | st.sampled_from(["Where is it?", "Top left."])
"""Text that stands in a row or behind a setting."""
names = st.sampled_from(
    [
        *("a.png", "b.JPG", "c d.tif", "-x.png", "=1+1.png", "é.png", "e\u0301.png", "x,y.png"),
        *(
            "new\nline.png",
            '"q".png',
            "\udcff.png",
            "a" * 240 + ".png",
            "..png",
            "x_Segmentation.png",
        ),
        *("CON.png", "%s.png", "{0}.png", "no_ending", "a.nii.gz", "a.dcm", "<b>.png"),
    ]
)
"""Names of files."""


@st.composite
def tables(draw: st.DrawFn, columns: tuple[str, ...], files: list[str]) -> bytes:
    """A CSV file about some files, in which much is wrong."""
    header = [draw(st.sampled_from([name] * 9 + [f" {name.upper()}"])) for name in columns]
    if draw(st.integers(0, 4)) == 0:
        header = [*header[: draw(st.integers(0, len(header)))], draw(texts)]
    rows = [header]
    values = st.sampled_from([*files, *files, "train", "test", "Where is it?"]) | texts
    for _ in range(draw(st.integers(0, 5))):
        rows.append(
            [
                draw(values)
                for _ in range(len(header) + draw(st.sampled_from([0] * 8 + [1, -1, 40])))
            ]
        )
    file = io.StringIO()
    if draw(st.integers(0, 3)) == 0:
        file.write("\n".join(",".join(row) for row in rows))
    else:
        csv.writer(file, lineterminator=draw(st.sampled_from(["\n", "\r\n"]))).writerows(rows)
    text = file.getvalue()
    code = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    data = text.encode(code, "surrogateescape" if code.startswith("utf-8") else "replace")
    return data + draw(st.sampled_from([b"", b"", b"", b"\0" * 20, b'"', b"\xff\xfe"]))


def put(path: Path, data: bytes) -> None:
    """Write a file as far as its name lets."""
    with suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail if this process takes more than :data:`PEAK_BYTES` beyond what it has."""
    before = _kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    yield
    assert (_kib("VmHWM") - before) << 10 < PEAK_BYTES


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
