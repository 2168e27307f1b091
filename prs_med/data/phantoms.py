"""Write a small artificial data set in the official layout, for tests and first runs.

Four made-up modalities, each image with one lesion whose position a small network can learn. The
drawings resemble their modality; they are not simulations of it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from prs_med.data.position import ZONES, describe, position_of, position_statement

SPLITS = ("train", "val", "test")
COLUMNS = ("image_path", "image_name", "question", "answer", "position", "split")
QUESTIONS = (
    "Where is the {} located in this image?",
    "Can you identify the position of the {}?",
    "In which part of the image is the {} found?",
    "Please locate the {} in this image.",
)


def write_phantoms(
    root: Path, images: dict[str, int], size: int, seed: int, show_progress: bool = False
) -> None:
    """Write images, masks and annotation files under `root`.

    The images of a split are dealt out over the four modalities in turn, and within a modality
    every five of them show the five zones once. The same arguments write the same bytes.

    Args:
        root: folder to write to; it is made if need be, files of the same name are replaced.
        images: split (``train``, ``val``, ``test``) to its number of images, all modalities
            together.
        size: edge of the square images in pixels, at least 32.
        seed: another seed draws other images.
        show_progress: draw a bar.

    Raises:
        ValueError: an unknown split, a negative number, or too small a size.
    """
    for split, count in images.items():
        if split not in SPLITS or count < 0:
            raise ValueError(f"cannot write {count} images of split {split!r}: use {SPLITS}")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=sum(images.values()), desc="drawing", unit="image", disable=not show_progress)
    for number, modality in enumerate(_MODALITIES):
        rows: list[tuple[str, ...]] = []
        for split in (split for split in SPLITS if split in images):
            count = len(range(number, images[split], len(_MODALITIES)))
            rows += _write_split(root, modality, split, count, size, [seed, number])
            bar.update(count)
        with open(
            root / "annotations" / f"{modality.task}.csv", "w", newline="", encoding="utf-8"
        ) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    bar.close()


@dataclass(frozen=True)
class _Modality:
    task: str
    structure: str
    draw: Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
    """From soft lesion and distractor, both (H, W) in 0..1, the image (H, W) or (H, W, 3)."""


def _write_split(
    root: Path, modality: _Modality, split: str, count: int, size: int, seed: list[int]
) -> list[tuple[str, ...]]:
    """Write one split of one modality and return its annotation rows."""
    folders = {kind: f"{modality.task}/{split}_{kind}" for kind in ("images", "masks")}
    for folder in folders.values():
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    zones: list[str] = []
    for index in range(count):
        rng = np.random.default_rng([*seed, SPLITS.index(split), index])
        if not zones:
            zones = [str(zone) for zone in rng.permutation(ZONES)]
        mask, distractor = _lesion(rng, size, zones.pop())
        pixels = modality.draw(rng, _blurred(mask, size), _blurred(distractor, size))
        name = f"{modality.task}_{split}_{index:04d}.png"
        levels = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
        Image.fromarray(levels).convert("RGB").save(root / folders["images"] / name)
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / folders["masks"] / name)
        position = position_of(mask)
        question = QUESTIONS[int(rng.integers(len(QUESTIONS)))].format(modality.structure)
        answer = describe(modality.structure, position)
        statement = position_statement(modality.structure, position)
        # The mask's path, as in the official files.
        rows.append((f"{folders['masks']}/{name}", name, question, answer, statement, split))
    return rows


def _lesion(rng: np.random.Generator, size: int, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks (H, W) of a lesion in the zone and of a smaller distractor that does not touch it."""
    while True:
        mask = _blob(rng, size, radius=rng.uniform(0.12, 0.20), middle=_middle(rng, zone))
        if not _well_placed(mask, zone):
            continue
        distractor = _blob(rng, size, radius=0.07, middle=rng.uniform(0.2, 0.8, 2))
        if not (mask & distractor).any():
            return mask, distractor


def _middle(rng: np.random.Generator, zone: str) -> np.ndarray:
    """A lesion centre (x, y) in image widths that may suit the zone."""
    if zone == "center":
        return rng.uniform(0.45, 0.55, 2)
    x, y = rng.uniform(0.17, 0.42, 2)
    # Out in the corners there is no anatomy to lie in.
    while math.hypot(0.5 - x, 0.5 - y) > 0.33:
        x, y = rng.uniform(0.17, 0.42, 2)
    return np.array([1 - x if "right" in zone else x, 1 - y if "bottom" in zone else y])


def _well_placed(mask: np.ndarray, zone: str) -> bool:
    """In its zone, inside the image, and off the centre by a pixel at least."""
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if edge.any() or position_of(mask).zone != zone:
        return False
    middle = mask.shape[0] // 2
    around = mask[middle - 2 : middle + 3, middle - 2 : middle + 3]
    return zone == "center" or not around.any()


def _blob(rng: np.random.Generator, size: int, radius: float, middle: np.ndarray) -> np.ndarray:
    """A slightly irregular ellipse as a mask (size, size); lengths in image widths."""
    x, y = _grid(size)
    x, y = x - middle[0], y - middle[1]
    tilt = rng.uniform(0, math.pi)
    along, across = x * math.cos(tilt) + y * math.sin(tilt), y * math.cos(tilt) - x * math.sin(tilt)
    stretch = rng.uniform(1.0, 1.2)
    angle = np.arctan2(across, along)
    outline = 1.0 + sum(
        rng.uniform(0, 0.06) * np.cos(waves * angle + rng.uniform(0, 2 * math.pi))
        for waves in (2, 3, 5)
    )
    return np.hypot(along / stretch, across * stretch) < radius * outline


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x and y, each (size, size), in image widths."""
    steps = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(steps, steps)
    return x, y


def _blurred(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask with an outline a few pixels soft, (H, W) in 0..1."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (size // 3, size // 3), Image.Resampling.BOX
    )
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64) / 255


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise (size, size) of mean 0 and deviation about 1, with `cells` bumps a side."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64) * 1.3


def _mri(rng: np.random.Generator, lesion: np.ndarray, distractor: np.ndarray) -> np.ndarray:
    size = len(lesion)
    x, y = _grid(size)
    across, down = rng.uniform(0.44, 0.46), rng.uniform(0.47, 0.48)
    radius = np.cbrt((np.abs(x - 0.5) / across) ** 3 + (np.abs(y - 0.5) / down) ** 3)
    brain = np.clip((0.9 - radius) * 40, 0, 1)
    skull = np.clip(1 - np.abs(radius - 0.97) * 35, 0, 1)
    folds = 0.05 * np.sin(4 * _clouds(rng, size, 9)) + 0.03 * _clouds(rng, size, 12)
    tissue = 0.38 + folds - 0.1 * np.exp(-(((x - 0.5) / 0.012) ** 2))
    pixels = 0.03 + 0.55 * skull + brain * (tissue + 0.12 * distractor)
    pixels += (0.88 - pixels) * lesion
    return pixels + 0.025 * rng.standard_normal((size, size))


def _ultrasound(rng: np.random.Generator, lesion: np.ndarray, distractor: np.ndarray) -> np.ndarray:
    size = len(lesion)
    x, y = _grid(size)
    layers = 0.06 * np.sin(2 * math.pi * (5 * y + 0.4 * _clouds(rng, size, 4)))
    echo = 0.55 + layers + 0.04 * _clouds(rng, size, 5) - 0.2 * (y - 0.3)
    echo = (echo - 0.1 * distractor) * (1 - 0.85 * lesion)
    speckle = np.sqrt(rng.gamma(3.0, 1 / 3.0, (size, size)))
    angle, depth = np.arctan2(x - 0.5, y + 0.45), np.hypot(x - 0.5, y + 0.45)
    fan = np.clip((0.62 - np.abs(angle)) * 25, 0, 1) * np.clip((1.48 - depth) * 25, 0, 1)
    return echo * speckle * (0.15 + 0.85 * fan)


def _xray(rng: np.random.Generator, lesion: np.ndarray, distractor: np.ndarray) -> np.ndarray:
    size = len(lesion)
    x, y = _grid(size)
    lungs = sum(
        np.clip((1 - np.hypot((x - side) / 0.22, (y - 0.48) / 0.42)) * 5, 0, 1)
        for side in (0.27, 0.73)
    )
    arches = 7 * y + 6 * np.abs(x - 0.5) ** 2 + rng.uniform(0, 1)
    ribs = np.clip(np.sin(2 * math.pi * arches) - 0.3, 0, 1)
    pixels = 0.5 + 0.12 * (y - 0.5) + 0.1 * np.exp(-(((x - 0.5) / 0.06) ** 2))
    pixels = pixels - 0.32 * lungs + 0.12 * ribs + 0.015 * _clouds(rng, size, 5)
    pixels += 0.08 * distractor
    pixels += (0.9 - pixels) * 0.85 * lesion
    return pixels + 0.02 * rng.standard_normal((size, size))


def _endoscopy(rng: np.random.Generator, lesion: np.ndarray, distractor: np.ndarray) -> np.ndarray:
    size = len(lesion)
    x, y = _grid(size)
    light = 1.05 - 0.9 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    folds = 0.07 * np.sin(6 * np.hypot(x - 0.5, y - 0.5) * math.pi + 2 * _clouds(rng, size, 3))
    mucosa = np.array([0.86, 0.56, 0.52]) * (light + folds)[..., None]
    mucosa -= np.array([0.02, 0.07, 0.06]) * distractor[..., None]
    polyp = np.array([0.72, 0.16, 0.15]) * (light + 0.06 * _clouds(rng, size, 9))[..., None]
    pixels = mucosa + (polyp - mucosa) * lesion[..., None]
    shine = np.clip(_clouds(rng, size, 14) - 2.6, 0, 1) * 1.6
    pixels += (1 - pixels) * np.clip(shine, 0, 0.9)[..., None]
    return pixels + 0.02 * rng.standard_normal((size, size, 3))


_MODALITIES = (
    _Modality("phantom_mri", "tumor", _mri),
    _Modality("phantom_ultrasound", "nodule", _ultrasound),
    _Modality("phantom_xray", "opacity", _xray),
    _Modality("phantom_endoscopy", "polyp", _endoscopy),
)


def phantom_texts(root: Path) -> list[str]:
    """Every question and answer of a phantom dataset, to train a small tokenizer on."""
    texts = []
    for path in sorted((root / "annotations").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                texts += [f"### User: {row['question']}", f"### Assistant: {row['answer']}"]
    return texts
