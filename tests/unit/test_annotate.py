"""Questions and answers made from masks: positions, pieces, wording, and what is refused."""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from prs_med.data.annotate import Pair, Summary, annotate, find_pairs
from prs_med.data.answer_position import ParsedPosition, parse_position
from prs_med.data.components import label_components, pieces
from prs_med.data.images import load_mask
from prs_med.data.phantoms import write_phantoms
from prs_med.data.position import ZONES, Position, describe, position_of, position_statement
from prs_med.data.question_templates import (
    ANSWERS,
    GENERAL_QUESTIONS,
    KIND_QUESTIONS,
    ORDINALS,
    STRUCTURES,
    answers_about,
    kind_of,
    questions_and_answers,
)
from prs_med.data.records import DataError, Record
from prs_med.data.sources import TASKS, read_annotations
from prs_med.mask_classes import parse_classes
from prs_med.storage.store import StorageError

POSITIONS = [
    Position(zone, near) for zone in ZONES for near in (True, False) if near or zone != "center"
]
MASKS = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.booleans())
# A box of each size at its own place: top right, bottom left, middle, and a speck.
BOXES = {"right": (4, 44, 10, 12), "left": (40, 2, 12, 8), "middle": (28, 28, 9, 9)}
SPECK = (60, 60, 1, 1)


def mask_of(*boxes: tuple[int, int, int, int], size: int = 64) -> np.ndarray:
    """A mask with boxes of (top, left, height, width)."""
    mask = np.zeros((size, size), dtype=bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def save(root: Path, image: str, mask: str, pixels: np.ndarray) -> None:
    for name, values in ((image, np.full_like(pixels, 90, dtype=np.uint8)), (mask, pixels)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        scale = 255 if values.dtype == bool else 1
        Image.fromarray(values.astype(np.uint8) * scale).save(root / name)


def add(root: Path, name: str, *boxes: tuple[int, int, int, int], task: str = "lung_CT") -> None:
    save(root, f"{task}/train_images/{name}", f"{task}/train_masks/{name}", mask_of(*boxes))


def run(root: Path, pairs: list[Pair] | None = None, **changes: object) -> Summary:
    arguments: dict = {
        "structure": None,
        "seed": 0,
        "min_component": 0.0005,
        "workers": 2,
        "show_progress": False,
    }
    pairs = find_pairs(root, None) if pairs is None else pairs
    return annotate(root, pairs, root / "annotations" / "a.csv", **{**arguments, **changes})


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "annotations" / "a.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def records_of(root: Path) -> list[Record]:
    return read_annotations(root, None, "error").records


# Pieces


def flood_fill(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The pieces, by walking from pixel to pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        waiting = [left.pop()]
        piece = set(waiting)
        while waiting:
            y, x = waiting.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            piece |= around
            waiting += around
        found.append(piece)
    return found


@given(MASKS)
def test_components_are_those_of_a_flood_fill(mask: np.ndarray) -> None:
    labels, components = label_components(mask)
    assert labels.shape == mask.shape
    expected = sorted(flood_fill(mask), key=min)
    assert [component.label for component in components] == list(range(1, len(expected) + 1))
    for component, pixels in zip(components, expected, strict=True):
        assert {(int(y), int(x)) for y, x in np.argwhere(labels == component.label)} == pixels
        rows, columns = zip(*pixels, strict=True)
        assert component.area == len(pixels)
        assert (component.top, component.bottom) == (min(rows), max(rows))
        assert (component.left, component.right) == (min(columns), max(columns))


@given(MASKS, st.sampled_from([0.0, 0.01, 0.05, 0.3]), st.integers(1, 5))
def test_pieces_are_the_largest_in_reading_order(
    mask: np.ndarray, min_share: float, most: int
) -> None:
    found = pieces(mask, min_share, most)
    sizes = sorted((len(piece) for piece in flood_fill(mask)), reverse=True)
    large = [size for size in sizes if size >= min_share * mask.size]
    assert sorted((int(piece.sum()) for piece in found.masks), reverse=True) == large[:most]
    assert found.dropped == len(sizes) - len(large)
    assert found.left_out == max(0, len(large) - most)
    middles = []
    for piece in found.masks:
        rows, columns = np.nonzero(piece)
        middles.append((rows.min() + rows.max(), columns.min() + columns.max()))
    assert middles == sorted(middles)
    if not found.dropped and not found.left_out:
        assert np.array_equal(sum(found.masks, np.zeros(mask.shape, dtype=int)), mask)


# Wording


@pytest.mark.parametrize("position", POSITIONS, ids=str)
@pytest.mark.parametrize("name", [*sorted(set(STRUCTURES.values())), "finding", "left lung"])
def test_every_answer_reads_back(name: str, position: Position) -> None:
    expected = ParsedPosition(position.zone, position.near_center)
    for full in (name, *(f"{ordinal} {name}" for ordinal in ORDINALS)):
        answers = answers_about(full, position)
        assert len(set(answers)) == len(ANSWERS) >= 4
        assert answers[0] == describe(full, position)
        for answer in answers:
            assert full in answer
            assert parse_position(answer) == expected, answer


def test_every_task_has_a_structure_and_every_kind_its_questions() -> None:
    assert set(STRUCTURES) == set(TASKS)
    assert len(set(GENERAL_QUESTIONS)) >= 6
    for kind, questions in KIND_QUESTIONS.items():
        assert len(set(questions)) >= 2, kind
        assert all("{target}" in question for question in (*questions, *GENERAL_QUESTIONS))


@pytest.mark.parametrize(
    ("modality", "task", "kind"),
    [
        ("", "lung_CT", "CT"),
        ("lung_CT", "lung_CT", "CT"),
        ("", "brain_tumors_ct_scan", "MRI"),
        ("breast_tumors_ct_scan", "breast_tumors_ct_scan", "ultrasound"),
        ("CT", "brain_tumors_ct_scan", "CT"),
        ("", "dental_xray", "X-ray"),
        ("", "lung_Xray", "X-ray"),
        ("Chest X-Ray", "", "X-ray"),
        ("x ray", "", "X-ray"),
        ("", "polyp_endoscopy", "endoscopy"),
        ("", "skin_rgbimage", "skin"),
        ("brain MRI (T1)", "", "MRI"),
        ("US", "thyroid", "ultrasound"),
        ("", "head_and_neck", ""),
        ("", "prostate", ""),
        ("", "structure_and_rays", ""),
        ("PET-CT", "lung_CT", ""),
        ("", "", ""),
    ],
)
def test_kind_of_image(modality: str, task: str, kind: str) -> None:
    assert kind_of(modality, task) == kind


@given(st.text(max_size=20), st.sampled_from(["", *KIND_QUESTIONS]), st.sampled_from(POSITIONS))
def test_wording_is_chosen_by_the_key_and_differs(key: str, kind: str, position: Position) -> None:
    most = len(GENERAL_QUESTIONS)
    texts = questions_and_answers("tumor", "", kind, position, key, most)
    assert texts == questions_and_answers("tumor", "", kind, position, key, most)
    assert texts[:1] == questions_and_answers("tumor", "", kind, position, key, 1)
    assert len({question for question, _ in texts}) == most
    assert len({answer for _, answer in texts}) == len(ANSWERS)
    assert all("the tumor" in question for question, _ in texts)


def test_all_wordings_are_used() -> None:
    texts = [
        questions_and_answers("tumor", "", "CT", Position("top left", True), str(key), 1)[0]
        for key in range(400)
    ]
    assert len({question for question, _ in texts}) == len(GENERAL_QUESTIONS) + len(
        KIND_QUESTIONS["CT"]
    )
    assert len({answer for _, answer in texts}) == len(ANSWERS)


# Rows


def test_one_piece_is_asked_about_with_its_own_mask(tmp_path: Path) -> None:
    add(tmp_path, "a.png", BOXES["right"])
    summary = run(tmp_path)
    (row,) = rows_of(tmp_path)
    columns = "image_path,mask_path,question,answer,position,modality,task,split"
    assert ",".join(row) == columns
    assert row["image_path"] == "lung_CT/train_images/a.png"
    assert row["mask_path"] == "lung_CT/train_masks/a.png"
    assert "the tumor" in row["question"]
    assert parse_position(row["answer"]) == ParsedPosition("top right", False)
    assert row["position"] == (
        "The position of the tumor is top right and it is away from the center."
    )
    assert (row["modality"], row["task"], row["split"]) == ("lung_CT", "lung_CT", "train")
    assert (summary.images, summary.rows, summary.several, summary.dropped) == (1, 1, 0, 0)
    assert not (tmp_path / "lung_CT" / "train_masks_parts").exists()


def test_several_pieces_are_counted_from_the_top(tmp_path: Path) -> None:
    add(tmp_path, "a.png", BOXES["left"], BOXES["right"], BOXES["middle"], SPECK)
    summary = run(tmp_path, questions_per_target=2)
    assert (summary.rows, summary.several, summary.dropped, summary.left_out) == (6, 1, 1, 0)
    rows = rows_of(tmp_path)
    for number, (box, ordinal, zone) in enumerate(
        (
            ("right", "first", "top right"),
            ("middle", "second", "center"),
            ("left", "third", "bottom left"),
        ),
        start=1,
    ):
        first, second = rows[2 * number - 2 : 2 * number]
        assert first["question"] != second["question"]
        for row in (first, second):
            path = f"lung_CT/train_masks_parts/a_{number}.png"
            assert row["mask_path"] == path
            with Image.open(tmp_path / path) as image:
                assert image.mode == "L"
                assert set(np.unique(np.asarray(image))) == {0, 255}
            assert np.array_equal(load_mask(tmp_path / path), mask_of(BOXES[box]))
            assert f"the {ordinal} tumor (counted from the top)" in row["question"]
            assert f"the {ordinal} tumor" in row["answer"].lower()
            assert parse_position(row["answer"]).zone == zone
            assert f"the {ordinal} tumor is {zone}" in row["position"]


def test_dropped_specks_leave_the_mask_without_changing_the_question(tmp_path: Path) -> None:
    add(tmp_path, "a.png", BOXES["left"], SPECK)
    summary = run(tmp_path)
    (row,) = rows_of(tmp_path)
    assert (summary.dropped, summary.several) == (1, 0)
    assert row["mask_path"] == "lung_CT/train_masks_parts/a_1.png"
    assert np.array_equal(load_mask(tmp_path / row["mask_path"]), mask_of(BOXES["left"]))
    assert "counted" not in row["question"]
    # With the speck, the box of the whole mask would reach beyond the centre.
    assert parse_position(row["answer"]).zone == "bottom left"
    run(tmp_path, min_component=0.0)
    assert len(rows_of(tmp_path)) == 2


def test_of_many_pieces_the_five_largest_count(tmp_path: Path) -> None:
    sizes = (3, 8, 4, 7, 5, 6, 2)
    add(tmp_path, "a.png", *((9 * n, 8 * n, size, size) for n, size in enumerate(sizes)))
    summary = run(tmp_path)
    assert (summary.rows, summary.left_out, summary.dropped) == (5, 2, 0)
    rows = rows_of(tmp_path)
    areas = [int(load_mask(tmp_path / row["mask_path"]).sum()) for row in rows]
    assert areas == [64, 16, 49, 25, 36]
    assert "the first tumor (counted from the top among the five largest)" in rows[0]["question"]


def test_masks_without_a_question_are_listed(tmp_path: Path) -> None:
    add(tmp_path, "a.png", BOXES["left"])
    add(tmp_path, "empty.png")
    add(tmp_path, "small.png", SPECK)
    summary = run(tmp_path)
    assert [row["image_path"] for row in rows_of(tmp_path)] == ["lung_CT/train_images/a.png"]
    assert summary.empty == [PurePosixPath("lung_CT/train_masks/empty.png")]
    assert summary.too_small == [PurePosixPath("lung_CT/train_masks/small.png")]
    assert (summary.images, summary.rows, summary.dropped) == (3, 1, 1)
    assert "1 masks are empty and have no question:\n  lung_CT/train_masks/empty.png" in (
        summary.text()
    )


@settings(max_examples=15)
@given(
    st.lists(
        arrays(bool, (12, 12), elements=st.sampled_from([False, False, False, True])),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0.0, 0.02]),
)
def test_any_masks_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, masks: list[np.ndarray], min_component: float
) -> None:
    root = tmp_path_factory.mktemp("root").resolve()
    masks[0][:2, :2] = True
    for number, mask in enumerate(masks):
        save(root, f"ct/test_images/{number}.png", f"ct/test_masks/{number}.png", mask)
    summary = run(root, min_component=min_component)
    rows, records = rows_of(root), records_of(root)
    assert len(rows) == len(records) == summary.rows
    united = [np.zeros((12, 12), dtype=int) for _ in masks]
    for row, record in zip(rows, records, strict=True):
        assert record.image_path == root / row["image_path"]
        assert record.mask_path == root / row["mask_path"]
        assert (record.question, record.answer) == (row["question"], row["answer"])
        assert (record.modality, record.task, record.split) == ("ct", "ct", "test")
        mask = load_mask(record.mask_path)
        position = position_of(mask)
        parsed = ParsedPosition(position.zone, position.near_center)
        assert parse_position(record.answer) == parse_position(record.position) == parsed
        united[int(record.image_path.stem)] += mask
    for mask, whole in zip(masks, united, strict=True):
        fills = sorted((len(piece) for piece in flood_fill(mask)), reverse=True)
        large = [size for size in fills if size >= min_component * mask.size]
        assert whole.max() <= 1
        assert whole.sum() == sum(large[:5])
        assert not (whole.astype(bool) & ~mask).any()


def test_bytes_do_not_depend_on_order_or_threads(tmp_path: Path) -> None:
    write_phantoms(tmp_path, {"train": 8, "val": 4}, size=48, seed=1)
    add(tmp_path, "a.png", *BOXES.values())
    pairs = find_pairs(tmp_path, None)
    assert len(pairs) == 13
    written = tmp_path / "annotations" / "a.csv"
    run(tmp_path, pairs, workers=1)
    part = tmp_path / "lung_CT" / "train_masks_parts" / "a_2.png"
    expected = written.read_bytes(), part.read_bytes()
    assert b"\r" not in expected[0]
    random.Random(0).shuffle(pairs)
    run(tmp_path, pairs, workers=4)
    assert (written.read_bytes(), part.read_bytes()) == expected
    assert [path.name for path in part.parent.iterdir()].count("a_2.png") == 1
    assert not list(tmp_path.rglob(".unfinished-*"))
    run(tmp_path, pairs, seed=1)
    assert written.read_bytes() != expected[0]


def test_more_images_change_no_row(tmp_path: Path) -> None:
    add(tmp_path, "m.png", *BOXES.values())
    run(tmp_path)
    before = rows_of(tmp_path)
    add(tmp_path, "b.png", BOXES["left"])
    add(tmp_path, "z.png", BOXES["right"], task="prostate")
    run(tmp_path)
    after = rows_of(tmp_path)
    assert len(after) == 5
    assert [row for row in after if row["image_path"].endswith("m.png")] == before


def test_structure_by_task_or_by_name(tmp_path: Path) -> None:
    add(tmp_path, "a.png", BOXES["left"], task="polyp_endoscopy")
    add(tmp_path, "b.png", BOXES["left"], task="something_else")
    run(tmp_path)
    polyp, other = rows_of(tmp_path)
    assert "the polyp" in polyp["question"]
    assert "the polyp" in polyp["answer"].lower()
    assert "the finding" in other["question"]
    for name in ("left lung", "central line"):
        run(tmp_path, structure=name)
        assert all(f"the {name}" in row["question"] for row in rows_of(tmp_path))
    for name in ("lesion in the top right", "upper", "no lesion", "possible tumor", " "):
        with pytest.raises(DataError, match="structure"):
            run(tmp_path, structure=name)


# Pairs


def test_pairs_of_folders(tmp_path: Path) -> None:
    box = mask_of(BOXES["left"])
    save(tmp_path, "lung_CT/train_images/a.png", "lung_CT/train_masks/a.png", box)
    save(tmp_path, "skin/test_images/i.jpg", "skin/test_masks/i_Segmentation.png", box)
    shared = "images_and_masks/polyp"
    save(tmp_path, f"{shared}/val_images/v.png", f"{shared}/val_masks/v.png", box)
    save(tmp_path, "scans/images/deep/d.png", "scans/masks/deep/d.png", box)
    save(tmp_path, "images/r.png", "masks/r.png", box)
    (tmp_path / "lung_CT/train_images/.DS_Store").touch()
    (tmp_path / "lung_CT/train_images/Thumbs.db").touch()
    found = [
        (str(pair.image), str(pair.mask), pair.task, pair.split)
        for pair in find_pairs(tmp_path, None)
    ]
    assert found == [
        ("images/r.png", "masks/r.png", "", ""),
        (
            "images_and_masks/polyp/val_images/v.png",
            "images_and_masks/polyp/val_masks/v.png",
            "polyp",
            "val",
        ),
        ("lung_CT/train_images/a.png", "lung_CT/train_masks/a.png", "lung_CT", "train"),
        ("scans/images/deep/d.png", "scans/masks/deep/d.png", "scans", ""),
        ("skin/test_images/i.jpg", "skin/test_masks/i_Segmentation.png", "skin", "test"),
    ]


def test_a_second_run_finds_no_pieces(tmp_path: Path) -> None:
    save(tmp_path, "images/deep/d.png", "masks/deep/d.png", mask_of(*BOXES.values()))
    pairs = find_pairs(tmp_path, None)
    run(tmp_path, pairs)
    assert (tmp_path / "masks_parts/deep/d_3.png").is_file()
    assert find_pairs(tmp_path, None) == pairs
    # Nothing tells a split, so there is no such column, and reading still works.
    assert "split" not in rows_of(tmp_path)[0]
    assert {record.split for record in records_of(tmp_path)} == {""}


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (("ct/train_images/x.png",), r"ct/train_images/x\.png: no mask file"),
        (
            ("ct/train_images/y.png", "ct/train_masks/y.png", "ct/train_masks/x.png"),
            r"mask ct/train_masks/x\.png has no image",
        ),
        (
            ("ct/images/x.png", "ct/images/x.jpg", "ct/masks/x.png"),
            r"ct/images/x\.jpg and ct/images/x\.png have one mask",
        ),
        (("ct/images/x.nii",), r"ct/images/x\.nii is no image"),
        (("notes/x.png",), "no image in"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, present: tuple[str, ...], missing: str) -> None:
    for name in present:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=missing):
        find_pairs(tmp_path, None)


def test_links_out_of_the_data_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    save(tmp_path, "far/train_images/x.png", "far/train_masks/x.png", mask_of(BOXES["left"]))
    (root / "ct").symlink_to(tmp_path / "far")
    with pytest.raises(DataError, match="leads out of the data root"):
        find_pairs(root, None)


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    add(tmp_path, "a.png", BOXES["left"])
    (tmp_path / "lung_CT" / "back").symlink_to(tmp_path)
    assert len(find_pairs(tmp_path, None)) == 1


def test_pairs_of_a_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path, f"scans/{name}.png", f"outlines/{name}.png", mask_of(*BOXES.values()))
    table = tmp_path / "pairs.csv"
    table.write_text(
        "Image Path,mask,task,modality,split,patient,other\n"
        "scans\\a.png,outlines/a,thyroid,US,val,p7,x\n"
        "scans/b.png,outlines/b.png,thyroid,,train,,\n"
    )
    pairs = find_pairs(tmp_path, table)
    assert pairs == [
        Pair(
            PurePosixPath("scans/a.png"),
            PurePosixPath("outlines/a.png"),
            "thyroid",
            "val",
            "US",
            "p7",
        ),
        Pair(
            PurePosixPath("scans/b.png"),
            PurePosixPath("outlines/b.png"),
            "thyroid",
            "train",
            "thyroid",
            "",
        ),
    ]
    run(tmp_path, pairs, structure="nodule")
    records = records_of(tmp_path)
    assert [record.group for record in records] == ["p7"] * 3 + [""] * 3
    assert [record.split for record in records] == ["val"] * 3 + ["train"] * 3
    assert records[0].modality == "US"
    assert records[1].mask_path == tmp_path.resolve() / "outlines_parts" / "a_2.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_path,split\nscans/a.png,train\n", r"pairs\.csv:1: column 'mask_path' is missing"),
        ("image_path,mask_path\n", "has no row"),
        ("image_path,mask_path\nscans/a.png\n", r"pairs\.csv:2: 1 fields"),
        ("image_path,mask_path\nscans/a.png,\n", r"pairs\.csv:2: mask_path is empty"),
        ("image_path,mask_path\nscans/a.png,../a.png\n", r"pairs\.csv:2: .*leads out"),
        ("image_path,mask_path\n\nscans/z.png,outlines/a.png\n", r"pairs\.csv:3: .*no image file"),
        ("image_path,mask_path\nscans/a.png,scans/a.png\n", r"pairs\.csv:2: .*no mask file"),
        (
            "image_path,mask_path,split\nscans/a.png,outlines/a.png,\n",
            r"pairs\.csv:2: unknown split",
        ),
        (
            "image_path,mask_path\nscans/a.png,outlines/a.png\nscans/a,outlines/a\n",
            r"pairs\.csv:3: the same image and mask as in line 2",
        ),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    save(tmp_path, "scans/a.png", "outlines/a.png", mask_of(BOXES["left"]))
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        find_pairs(tmp_path, tmp_path / "pairs.csv")


def pair(image: str, mask: str, split: str = "") -> Pair:
    return Pair(PurePosixPath(image), PurePosixPath(mask), "ct", split, "ct", "")


def test_what_cannot_be_annotated(tmp_path: Path) -> None:
    box = mask_of(BOXES["left"])
    for name in ("a", "b"):
        save(tmp_path, f"i/{name}.png", f"m/{name}.png", box)
    save(tmp_path, "i/c.png", "m/a.bmp", box)
    save(tmp_path, "e/e.png", "f/e.png", mask_of())
    save(tmp_path, "e/small.png", "f/unused.png", mask_of(size=32))
    one, two = pair("i/a.png", "m/a.png", "val"), pair("i/b.png", "m/b.png")
    for pairs, message in (
        ([one, two], r"i/a\.png is of split 'val', but i/b\.png of none"),
        ([two, pair("i/b.png", "m/a.png")], r"i/b\.png has the masks m/a\.png and m/b\.png"),
        ([pair("i/a.png", "m/a.png"), pair("i/c.png", "m/a.bmp")], "named so alike"),
        ([pair("e/e.png", "f/e.png")], "nothing to ask about"),
        ([pair("e/small.png", "m/a.png")], r"e/small\.png: the image is 32 x 32"),
        ([pair("i/gone.png", "m/a.png")], r"gone\.png: no such file"),
    ):
        with pytest.raises(DataError, match=message):
            run(tmp_path, pairs)
    with pytest.raises(DataError, match="from 1 to"):
        run(tmp_path, [two], questions_per_target=len(GENERAL_QUESTIONS) + 1)
    assert not (tmp_path / "annotations").exists()


# Data that others annotated


def test_phantoms_get_the_positions_they_were_drawn_with(tmp_path: Path) -> None:
    write_phantoms(tmp_path, {"train": 12}, size=64, seed=4)
    drawn = {record.mask_path: record.position for record in records_of(tmp_path)}
    pairs = find_pairs(tmp_path, None)
    assert run(tmp_path, pairs, structure="mass").rows == len(drawn)
    for row in rows_of(tmp_path):
        published = drawn[tmp_path.resolve() / row["mask_path"]]
        assert parse_position(published) == parse_position(row["position"])


def test_real_masks_get_the_published_positions(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "real"
    published = {
        record.mask_path: record for record in read_annotations(root, None, "error").records
    }
    pairs = find_pairs(root, None)
    assert {root.resolve() / pair.mask for pair in pairs} == set(published)
    whole = 0
    for pair in pairs:
        record = published[root.resolve() / pair.mask]
        assert root.resolve() / pair.image == record.image_path
        assert (pair.task, pair.split, pair.modality) == (
            record.task,
            record.split,
            record.modality,
        )
        mask = load_mask(record.mask_path)
        position = position_of(mask)
        name = re.sub("^The position of the (.*) is .* and it is .*$", r"\1", record.position)
        assert position_statement(name, position) == record.position
        (tmp_path / pair.image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / pair.mask).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / pair.image).write_bytes(record.image_path.read_bytes())
        (tmp_path / pair.mask).write_bytes(record.mask_path.read_bytes())
    run(tmp_path, pairs)
    for row in rows_of(tmp_path):
        position = position_of(load_mask(tmp_path / row["mask_path"]))
        assert parse_position(row["answer"]) == ParsedPosition(position.zone, position.near_center)
        if row["mask_path"].endswith("_masks/" + Path(row["mask_path"]).name):
            record = published[root.resolve() / row["mask_path"]]
            assert parse_position(record.position) == parse_position(row["position"])
            whole += 1
    assert whole >= 5


# Several classes in one mask


CLASSES = parse_classes("1:tumor,2:cyst,9:")


def add_classes(root: Path, name: str, **boxes: tuple[int, int, int, int]) -> None:
    """A mask with boxes of class ``v1``, ``v2`` and so on."""
    mask = np.zeros((64, 64), np.uint8)
    for value, box in boxes.items():
        mask[mask_of(box)] = int(value[1:])
    save(root, f"lung_CT/train_images/{name}", f"lung_CT/train_masks/{name}", mask)


def test_each_class_of_a_mask_is_asked_about(tmp_path: Path) -> None:
    add_classes(tmp_path, "a.png", v1=BOXES["right"], v2=BOXES["left"], v9=BOXES["middle"])
    add_classes(tmp_path, "b.png", v1=BOXES["left"])
    with pytest.raises(DataError, match="--classes 1:NAME,2:NAME"):
        run(tmp_path)
    summary = run(tmp_path, classes=CLASSES)
    rows = rows_of(tmp_path)
    assert [row["mask_path"].rpartition("/")[2] for row in rows] == [
        *("a_tumor.png", "a_cyst.png", "b_tumor.png"),
    ]
    for row, word, zone in zip(
        rows, ("tumor", "cyst", "tumor"), ("top right", "bottom left", "bottom left"), strict=True
    ):
        assert word in row["question"] + row["answer"]
        assert position_of(load_mask(tmp_path / row["mask_path"])).zone == zone
        assert parse_position(row["answer"]).zone == zone
    assert "2 masks show tumor\n1 masks show cyst" in summary.text()
    assert len(records_of(tmp_path)) == 3


def test_pieces_of_a_class_have_masks_of_their_own(tmp_path: Path) -> None:
    add_classes(tmp_path, "a.png", v1=BOXES["right"], v2=BOXES["left"])
    mask = np.array(Image.open(tmp_path / "lung_CT/train_masks/a.png"))
    mask[mask_of(BOXES["middle"])] = 1
    Image.fromarray(mask).save(tmp_path / "lung_CT/train_masks/a.png")
    run(tmp_path, classes=CLASSES)
    names = [Path(row["mask_path"]).name for row in rows_of(tmp_path)]
    assert names == ["a_tumor.1.png", "a_tumor.2.png", "a_cyst.png"]
    assert "second tumor" in rows_of(tmp_path)[1]["answer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": "cyst"}, "--structure and --classes exclude each other"),
        ({"classes": parse_classes("1:tumor")}, "--classes does not name its values 2, 9"),
        ({"classes": parse_classes("1:a,2:tumor in the top left,9:")}, "its words hide"),
    ],
)
def test_classes_that_cannot_be_used(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    add_classes(tmp_path, "a.png", v1=BOXES["right"], v2=BOXES["left"], v9=BOXES["middle"])
    with pytest.raises(DataError, match=message):
        run(tmp_path, **{"classes": CLASSES, **changes})


def test_masks_of_two_names_do_not_share_the_mask_of_a_class(tmp_path: Path) -> None:
    add_classes(tmp_path, "a.png", v1=BOXES["right"])
    add_classes(tmp_path, "a_b.png", v1=BOXES["left"])
    with pytest.raises(DataError, match="named so alike"):
        run(tmp_path, classes=parse_classes("1:b c,2:c"))


# Links


@pytest.mark.parametrize("link", ["lung_CT/train_masks_parts", "annotations"])
def test_nothing_is_written_through_a_link_out_of_the_data_root(tmp_path: Path, link: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    add(root, "a.png", BOXES["right"], BOXES["left"])
    elsewhere.mkdir()
    (root / link).symlink_to(elsewhere)
    with pytest.raises(StorageError, match=rf"{link}: is, or lies below, a link that leads out"):
        run(root)
    assert list(elsewhere.iterdir()) == []
    (root / link).unlink()
    (root / "inside").mkdir()
    (root / link).symlink_to(root / "inside")
    run(root)
    assert rows_of(root)
