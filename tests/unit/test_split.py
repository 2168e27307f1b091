"""Training, validation and test never share an image; what is held out shares no patient either."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
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
@settings(max_examples=50)
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


@pytest.mark.parametrize(
    ("images", "fraction", "held_out"),
    # One image at least, whatever the share; then what is closest to it.
    [(10, 0.001, 1), (10, 0.1, 1), (10, 0.14, 1), (10, 0.16, 2), (2, 0.99, 1), (3, 0.99, 2)],
)
def test_how_many_images_are_held_out(images: int, fraction: float, held_out: int) -> None:
    assert len(names(split_records(rows(images), fraction, 0).val)) == held_out


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


def grouped(sizes: Sequence[int], root: str = "/data") -> list[Record]:
    """Three rows for each image; group g has ``sizes[g]`` images."""
    found = rows(sum(sizes), root=root)
    names = [f"p{g}" for g, size in enumerate(sizes) for _ in range(3 * size)]
    return [replace(record, group=name) for record, name in zip(found, names, strict=True)]


def group_names(records: list[Record]) -> set[str]:
    return {record.group for record in records}


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=15),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 5),
)
@settings(max_examples=100)
def test_a_patient_is_never_on_both_sides(sizes: list[int], fraction: float, seed: int) -> None:
    splits = split_records(grouped(sizes), fraction, seed)
    assert group_names(splits.train).isdisjoint(group_names(splits.val))
    assert group_names(splits.train + splits.val) == {f"p{g}" for g in range(len(sizes))}
    assert splits.train
    assert splits.val
    assert splits.held_out
    assert splits.shared_groups == []
    images = sum(sizes)
    # Half a group from the share at most, except where all groups but one are held out, or one is
    # and that is already too many.
    share, largest = max(1, round(fraction * images)), max(sizes)
    held_out = len(names(splits.val))
    assert held_out >= min(share - largest / 2, images - largest)
    assert held_out <= max(share + largest / 2, min(sizes))


def test_the_choice_of_patients_depends_on_nothing_but_seed_and_names() -> None:
    sizes = [1, 2, 3] * 10
    chosen = group_names(split_records(grouped(sizes), 0.25, seed=1).val)
    assert 1 < len(chosen) < 30
    assert group_names(split_records(grouped(sizes)[::-1], 0.25, seed=1).val) == chosen
    assert (
        group_names(split_records(grouped(sizes, root="/elsewhere/x"), 0.25, seed=1).val) == chosen
    )
    assert group_names(split_records(grouped(sizes), 0.25, seed=2).val) != chosen


def test_the_choice_is_the_same_on_every_machine() -> None:
    assert names(split_records(rows(20), 0.2, seed=0).val) == {
        f"train{n}.png" for n in (9, 12, 13, 17)
    }
    assert group_names(split_records(grouped([2] * 10), 0.2, seed=0).val) == {"p6", "p8"}


def test_rows_of_one_image_and_images_of_one_patient_stay_together() -> None:
    # The first image joins patients a and b, the last row of b has lost its patient.
    chain = [
        replace(record(2, "0.png", "train"), group="a"),
        replace(record(3, "1.png", "train"), group="b"),
        replace(record(4, "0.png", "train"), group="b"),
        replace(record(5, "2.png", "train"), group="b"),
        record(6, "2.png", "train"),
    ]
    others = [record(line, f"{line}.png", "train") for line in range(7, 17)]
    together = {"0.png", "1.png", "2.png"}
    held_out = set()
    for seed in range(30):
        for order in (1, -1):
            splits = split_records([*chain, *others][::order], 0.25, seed)
            found = names(splits.val) & together
            assert found in (set(), together)
            held_out.add(bool(found))
        assert names(splits.val).isdisjoint(names(splits.train))
    assert held_out == {True, False}


def test_patients_are_held_out_only_while_they_bring_the_share_closer() -> None:
    # Of thirty images 7.5 per cent are two, of twenty 15 are three: one patient of two images is
    # as close to three as two patients are.
    assert len(names(split_records(grouped([2] * 15), 0.075, 0).val)) == 2
    assert len(names(split_records(grouped([2] * 10), 0.15, 0).val)) == 2


def test_one_patient_who_has_all_images_is_refused_with_what_to_do() -> None:
    """As where an export calls every patient ANONYMOUS."""
    records = [replace(record, group="anonymous") for record in rows(5)]
    with pytest.raises(DataError, match=r"'anonymous' has all 5 images .*validation.*group_column"):
        split_records(records, 0.1, 0)
    with pytest.raises(DataError, match=r"'anonymous' .* the test: .*--test_fraction 0\)"):
        split_records(records, 0, 0, test_fraction=0.2)
    assert split_records(records, 0, 0) == Splits(records, [], [], held_out=False)
    labelled = [*records, record(99, "v.png", "val")]
    assert split_records(labelled, 0.1, 0).train == records
    # One image alone is no sign of a wrong column.
    assert split_records(records[:3], 0.1, 0) == Splits(records[:3], [], [], held_out=False)


def test_of_large_patients_the_smallest_is_held_out() -> None:
    assert group_names(split_records(grouped([30, 20, 40]), 0.01, 0).val) == {"p1"}


def test_a_shared_patient_is_reported_where_images_are_held_out_too() -> None:
    records = [
        replace(record(2, "a.png", "train"), group="p1"),
        replace(record(3, "b.png", "test"), group="p1"),
        record(4, "c.png", "train"),
        record(5, "d.png", "train"),
    ]
    splits = split_records(records, 0.4, 0)
    assert splits.held_out
    assert splits.shared_groups == [
        "patient or study 'p1' is in several splits: train (a.csv:2), test (a.csv:3)"
    ]


@pytest.mark.parametrize("train", ["train", ""])
def test_a_patient_in_two_labelled_splits_is_reported_and_left_there(train: str) -> None:
    records = [
        replace(record(2, "a.png", train), group="p1"),
        replace(record(3, "b.png", "test"), group="p1"),
        replace(record(4, "c.png", "val"), group="p2"),
        replace(record(5, "d.png", "test"), group="p2"),
        replace(record(6, "e.png", "test"), group="p1"),
        replace(record(7, "f.png", train), group="p3"),
        record(8, "g.png", train),
        record(9, "h.png", "test"),
    ]
    splits = split_records(records, 0.1, 0)
    assert [len(split) for split in (splits.train, splits.val, splits.test)] == [3, 1, 4]
    assert splits.shared_groups == [
        "patient or study 'p1' is in several splits: train (a.csv:2), test (a.csv:3)",
        "patient or study 'p2' is in several splits: val (a.csv:4), test (a.csv:5)",
    ]
    assert splits.shared_groups_text == (
        "2 of 3 patients or studies are in several splits, as labelled "
        "(train and test: 1, val and test: 1)"
    )


def in_layout(layout: str, count: int, root: Path) -> list[Record]:
    """Rows without split and patient, whose images lie where a layout has them."""
    return [
        replace(record(n + 2, "x.png", ""), image_path=root / layout.format(n=n), root=root)
        for n in range(count)
    ]


LAYOUTS = ("{n}.png", "images/{n}.png", "ct/train_images/{n}.png", "images_and_masks/ct/i/{n}.png")


@given(
    layout=st.sampled_from(LAYOUTS),
    count=st.integers(2, 40),
    parents=st.lists(st.sampled_from(["a", "data", "Bilder ü", "x.y"]), min_size=2, max_size=2),
    fold=st.sampled_from([None, (1, 2)]),
    shares=st.tuples(st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2])),
)
@settings(max_examples=60, deadline=None)
def test_another_name_of_the_data_root_moves_no_image(
    layout: str, count: int, parents: list[str], fold, shares: tuple[float, float]
) -> None:
    if count < 4:
        shares = (shares[0], 0.0)
    found = []
    for parent in parents:
        records = in_layout(layout, count, Path("/srv") / parent / "root")
        splits = split_records(records, shares[0], 0, test_fraction=shares[1], fold=fold)
        found.append([{r.row_id for r in part} for part in (splits.train, splits.val, splits.test)])
    assert found[0] == found[1]


@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=15),
    order=st.randoms(use_true_random=False),
    test_fraction=st.sampled_from([0.0, 0.2, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_moves_no_image(
    sizes: list[int], order: random.Random, test_fraction: float
) -> None:
    records = grouped(sizes)
    mixed = list(records)
    order.shuffle(mixed)
    try:
        expected = split_records(records, 0.2, 3, test_fraction=test_fraction)
    except DataError:
        with pytest.raises(DataError):
            split_records(mixed, 0.2, 3, test_fraction=test_fraction)
        return
    found = split_records(mixed, 0.2, 3, test_fraction=test_fraction)
    for name in ("train", "val", "test"):
        assert names(getattr(found, name)) == names(getattr(expected, name))


@given(
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=15),
    fraction=st.floats(0.01, 0.7),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_the_test_holds_out_patients_as_a_whole(
    sizes: list[int], fraction: float, seed: int
) -> None:
    records = grouped(sizes)
    try:
        splits = split_records(records, 0.1, seed, test_fraction=fraction)
    except DataError:
        # The test took all patients but one, who has several images.
        assert fraction > 0.2
        return
    parts = [splits.train, splits.val, splits.test]
    assert splits.test_held_out
    assert splits.test
    assert splits.train
    assert sum(len(part) for part in parts) == len(records)
    for number, part in enumerate(parts):
        for other in parts[number + 1 :]:
            assert group_names(part).isdisjoint(group_names(other))
    share, largest = max(1, round(fraction * sum(sizes))), max(sizes)
    held_out = len(names(splits.test))
    assert min(share - largest / 2, sum(sizes) - largest) <= held_out
    assert held_out <= max(share + largest / 2, min(sizes))
    # What is held out for validation does not depend on the test's, except where it took them.
    assert names(split_records(records, 0, seed, test_fraction=fraction).test) == names(splits.test)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=5, max_size=20),
    parts=st.integers(2, 5),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_folds_hold_every_patient_out_once(sizes: list[int], parts: int, seed: int) -> None:
    records = grouped(sizes)
    folds = [split_records(records, 0.1, seed, fold=(k, parts)) for k in range(1, parts + 1)]
    held_out = [group_names(fold.val) for fold in folds]
    assert sum(len(groups) for groups in held_out) == len(sizes)
    assert set().union(*held_out) == group_names(records)
    for fold, groups in zip(folds, held_out, strict=True):
        assert groups
        assert fold.held_out
        assert group_names(fold.train) == group_names(records) - groups
    counts = [len(names(fold.val)) for fold in folds]
    assert max(counts) - min(counts) <= max(sizes)


def test_folds_leave_the_test_alone() -> None:
    records = grouped([1, 2, 3] * 5)
    folds = [split_records(records, 0.1, 0, test_fraction=0.2, fold=(k, 3)) for k in (1, 2, 3)]
    assert len({frozenset(names(fold.test)) for fold in folds}) == 1
    for fold in folds:
        assert names(fold.test).isdisjoint(names(fold.val) | names(fold.train))


def test_what_is_held_out_is_said_with_counts() -> None:
    splits = split_records(grouped([2] * 10), 0.1, 0, test_fraction=0.2)
    assert splits.how == (
        "no row is labelled test: 20% of the training images are held out for the test "
        "(--test_fraction): 4 of 20 images, 2 of 10 patients or studies; no row is labelled val: "
        "10% of the training images are held out for validation (--val_fraction): 2 of 20 images, "
        "1 of 10 patients or studies"
    )
    assert split_records(rows(10), 0.1, 0, fold=(2, 5)).how == (
        "no row is labelled val: part 2 of 5 of the training images is held out for validation "
        "(--fold): 2 of 10 images"
    )


def test_labels_and_what_would_replace_them_exclude_each_other() -> None:
    with pytest.raises(DataError, match=r"^--test_fraction 0\.2: .* labelled test .*a\.csv:2;"):
        split_records(rows(3) + rows(1, split="test"), 0.1, 0, test_fraction=0.2)
    with pytest.raises(DataError, match=r"^--fold 1/2: .* labelled val already, .*a\.csv:2;"):
        split_records(rows(3) + rows(1, split="val"), 0.1, 0, fold=(1, 2))
    with pytest.raises(DataError, match=r"^--fold 1/4: there are only 3 patients"):
        split_records(rows(3), 0.1, 0, fold=(1, 4))
