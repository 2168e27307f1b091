"""Training, validation and test never share an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.records import DataError, Record
from prs_med.data.split import Splits, split_records


def record(line: int, image: str, split: str, root: str = "/data") -> Record:
    path = Path(root) / "task" / "images" / image
    return Record(f"a.csv:{line}", path, path.with_suffix(".mask"), "q", "a", "", None, split)


def rows(
    images: int, per_image: int = 3, split: str = "train", root: str = "/data"
) -> list[Record]:
    numbers = range(images * per_image)
    return [record(n + 2, f"{split}{n // per_image}.png", split, root) for n in numbers]


def names(records: list[Record]) -> set[str]:
    return {record.image_path.name for record in records}


def test_validation_rows_are_not_training_rows() -> None:
    train, val, test = rows(4), rows(2, split="val"), rows(2, split="test")
    splits = split_records([*test, *train, *val], val_fraction=0.5, seed=0)
    assert splits == Splits(train, val, test, held_out=False)


@given(
    images=st.integers(2, 30),
    fraction=st.floats(0.001, 0.99),
    seed=st.integers(0, 5),
    split=st.sampled_from(["train", ""]),
)
@settings(max_examples=50, deadline=None)
def test_holding_out_keeps_images_whole(
    images: int, fraction: float, seed: int, split: str
) -> None:
    train, test = rows(images, split=split), rows(2, split="test")
    splits = split_records(train + test, fraction, seed)
    assert splits.held_out
    assert splits.test == test
    assert names(splits.train).isdisjoint(names(splits.val))
    assert sorted(splits.train + splits.val, key=train.index) == train
    assert splits.train == sorted(splits.train, key=train.index)
    assert 1 <= len(names(splits.val)) <= images - 1
    assert abs(len(names(splits.val)) - fraction * images) <= 1


def test_choice_depends_on_the_seed_and_neither_on_order_nor_on_the_root() -> None:
    chosen = names(split_records(rows(40), 0.25, seed=1).val)
    assert len(chosen) == 10
    assert names(split_records(rows(40)[::-1], 0.25, seed=1).val) == chosen
    assert names(split_records(rows(40, root="/elsewhere/x"), 0.25, seed=1).val) == chosen
    assert names(split_records(rows(40), 0.25, seed=2).val) != chosen


def test_nothing_to_hold_out() -> None:
    assert split_records(rows(5), 0, 0) == Splits(rows(5), [], [], held_out=False)
    assert split_records(rows(1), 0.5, 0) == Splits(rows(1), [], [], held_out=False)
    assert split_records([], 0.5, 0) == Splits([], [], [], held_out=False)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="val_fraction"):
        split_records(rows(3), fraction, 0)


@pytest.mark.parametrize("other", ["val", "test"])
@pytest.mark.parametrize("train", ["train", ""])
def test_an_image_in_two_splits_is_an_error(train: str, other: str) -> None:
    with pytest.raises(
        DataError, match=rf"^a.csv:9: image .*x.png is in split '{other}' .*a.csv:2"
    ):
        split_records([record(2, "x.png", train), record(9, "x.png", other)], 0.1, 0)


def test_two_names_of_one_image_are_one_image(tmp_path: Path) -> None:
    (tmp_path / "task" / "images").mkdir(parents=True)
    (tmp_path / "task" / "images" / "x.png").touch()
    (tmp_path / "task" / "images" / "y.png").symlink_to("x.png")
    both = [record(2, "x.png", "train", str(tmp_path)), record(3, "y.png", "test", str(tmp_path))]
    with pytest.raises(DataError, match=r"^a.csv:3: .*y.png"):
        split_records(both, 0.1, 0)
