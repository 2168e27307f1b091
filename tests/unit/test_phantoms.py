"""The phantom data set is readable, balanced, truthful and reproducible."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prs_med.data.answer_position import parse_position
from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.phantoms import write_phantoms
from prs_med.data.position import ZONES, position_of
from prs_med.data.records import Record
from prs_med.data.sources import read_annotations
from prs_med.data.split import split_records

COUNTS = {"train": 40, "val": 20, "test": 20}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root, COUNTS, size=64, seed=3)
    return read_annotations(root, None, "error").records


def test_counts_and_splits(records: list[Record]) -> None:
    assert Counter(record.split for record in records) == COUNTS
    splits = split_records(records, 0.1, 0)
    assert not splits.held_out
    modalities = Counter(record.modality for record in splits.train)
    assert modalities == {
        f"phantom_{name}": 10 for name in ("mri", "ultrasound", "xray", "endoscopy")
    }
    assert len({record.question for record in records}) >= 12


def test_text_says_where_the_mask_is(records: list[Record]) -> None:
    zones: Counter[str] = Counter()
    for record in records:
        mask = load_mask(record.mask_path)
        position = position_of(mask)
        for text in (record.answer, record.position):
            parsed = parse_position(text)
            assert (parsed.zone, parsed.near_center) == (position.zone, position.near_center)
        assert 0.02 < mask.mean() < 0.2
        zones[position.zone] += 1
    assert zones == dict.fromkeys(ZONES, len(records) // 5)


def test_lesion_lies_inside_and_off_the_centre(records: list[Record]) -> None:
    for record in records:
        mask = load_mask(record.mask_path)
        check_same_size(load_image(record.image_path), mask, record.row_id)
        assert mask.sum() == mask[1:-1, 1:-1].sum()
        if position_of(mask).zone != "center":
            assert not mask[31:34, 31:34].any()


def test_lesion_stands_out_of_what_surrounds_it(records: list[Record]) -> None:
    for record in records:
        mask = load_mask(record.mask_path).astype(bool)
        pixels = np.asarray(load_image(record.image_path)).astype(float)
        differences = np.abs(pixels[mask].mean(axis=0) - pixels[~mask].mean(axis=0))
        assert differences.max() > 50, record.row_id


def test_modalities_look_different(records: list[Record]) -> None:
    saturation: dict[str | None, float] = {}
    for record in records:
        pixels = np.asarray(load_image(record.image_path)).astype(float)
        saturation[record.modality] = float(np.ptp(pixels, axis=2).mean())
    assert saturation.pop("phantom_endoscopy") > 40
    assert set(saturation.values()) == {0.0}


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_phantoms(tmp_path / name, {"train": 8}, size=32, seed=seed)
    first = digest(tmp_path / "a")
    assert len(first) == 4 + 8 + 8
    assert digest(tmp_path / "b") == first
    other = digest(tmp_path / "c")
    assert not {first[name] for name in first if name.endswith(".png")} & set(other.values())


def test_more_images_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "a", {"train": 8}, size=32, seed=1)
    write_phantoms(tmp_path / "b", {"train": 12, "test": 4}, size=32, seed=1)
    few, many = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert all(many[name] == few[name] for name in few if name.endswith(".png"))


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        ({"validation": 4}, 64, "'validation'"),
        ({"train": -1}, 64, "-1 images"),
        ({"train": 4}, 16, "at least 32"),
    ],
)
def test_wrong_arguments(tmp_path: Path, images: dict[str, int], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path, images, size, seed=0)
    assert not list(tmp_path.iterdir())
