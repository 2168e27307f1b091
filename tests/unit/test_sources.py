"""Every layout a data set comes in, and every way a row can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.records import DataError, Record
from prs_med.data.sources import Annotations, read_annotations

SAMPLE_DATA = os.environ.get("PRS_MED_SAMPLE_DATA")
OFFICIAL = "image_path,image_name,question,answer,position,split"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root: Path, *lines: str, name: str = "a.csv", prefix: bytes = b"") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / name).write_bytes(prefix + "\n".join(lines).encode() + b"\n")


def read(root: Path) -> list[Record]:
    return read_annotations(root, None, "error").records


def files(root: Path, record: Record) -> tuple[str, str]:
    base = root.resolve()
    return str(record.image_path.relative_to(base)), str(record.mask_path.relative_to(base))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image and mask under each split, in the official folders."""
    for split in ("train", "val", "test"):
        touch(tmp_path, f"ct/{split}_images/x.png", f"ct/{split}_masks/x.png")
    return tmp_path


def test_official_image_path_is_the_mask_and_never_the_image(root: Path) -> None:
    write(
        root,
        OFFICIAL,
        "ct/train_masks/x.png,x.png,Where?,Here.,It is here.,train",
        '"ct/test_masks/x.png",x.png,"Where, then?","There,',
        'or not.",,test',
        "",
        "ct/val_masks/x.png,x.png,Where?,Here.,,VAL",
    )
    first, second, third = read(root)
    assert files(root, first) == ("ct/train_images/x.png", "ct/train_masks/x.png")
    assert first == Record(
        row_id="a.csv:2",
        image_path=first.image_path,
        mask_path=first.mask_path,
        question="Where?",
        answer="Here.",
        position="It is here.",
        modality="ct",
        split="train",
    )
    assert (second.row_id, second.question, second.answer) == (
        "a.csv:3",
        "Where, then?",
        "There,\nor not.",
    )
    # A line break within quotes and an empty line: the number is still the editor's.
    assert (third.row_id, third.split, third.position) == ("a.csv:6", "val", "")


def test_without_a_split_column_test_folders_stay_out_of_training(tmp_path: Path) -> None:
    touch(tmp_path, "t/test_images/x.png", "t/test_masks/x.png")
    write(tmp_path, "image_path,question,answer", "t/test_masks/x.png,Where?,Here.")
    assert [record.split for record in read(tmp_path)] == ["test"]


@pytest.mark.parametrize(
    ("row", "image", "mask"),
    [
        # Skin: the mask has a longer name and another extension.
        ("s/train_masks/x_Segmentation.png", "s/train_images/x.jpg", None),
        ("s/train_images/x.jpg", None, "s/train_masks/x_Segmentation.png"),
        ("s/train_images/x", "s/train_images/x.jpg", "s/train_masks/x_Segmentation.png"),
        ("s/train_masks/y.jpg", "s/train_images/y.bmp", None),
        ("s/train_images/y.bmp", None, "s/train_masks/y.jpg"),
        # A dot in the name is not an extension.
        ("s/train_images/v1.2", "s/train_images/v1.2.tif", "s/train_masks/v1.2.tiff"),
        (r"s\train_masks\y.jpg", "s/train_images/y.bmp", "s/train_masks/y.jpg"),
        ("./s//train_masks/y.jpg", "s/train_images/y.bmp", "s/train_masks/y.jpg"),
        ("images_and_masks/z_Segmentation.png", "images_and_masks/z.jpeg", None),
        ("images_and_masks/z.jpeg", None, "images_and_masks/z_Segmentation.png"),
    ],
)
def test_the_partner_is_found(
    tmp_path: Path, row: str, image: str | None, mask: str | None
) -> None:
    touch(tmp_path, "s/train_images/x.jpg", "s/train_masks/x_Segmentation.png")
    touch(tmp_path, "s/train_images/y.bmp", "s/train_masks/y.jpg")
    touch(tmp_path, "s/train_images/v1.2.tif", "s/train_masks/v1.2.tiff")
    touch(tmp_path, "images_and_masks/z.jpeg", "images_and_masks/z_Segmentation.png")
    write(tmp_path, "image_path,question,answer", f"{row},Where?,Here.")
    (record,) = read(tmp_path)
    assert files(tmp_path, record) == (image or row, mask or row)
    assert record.split == ("" if "images_and_masks" in row else "train")
    assert record.modality == (None if "images_and_masks" in row else "s")


def test_the_rows_own_extension_is_preferred(root: Path) -> None:
    touch(root, "ct/train_images/x.jpg", "ct/train_masks/x.jpg")
    write(root, OFFICIAL, "ct/train_masks/x.jpg,x,q,a,,train", "ct/train_masks/x.png,x,q,a,,train")
    assert [record.image_path.suffix for record in read(root)] == [".jpg", ".png"]


@pytest.mark.parametrize("name", ["x.png", "x"])
def test_image_name_with_task_and_split(root: Path, name: str) -> None:
    write(root, "image_name,task,split,question,answer,extra", f"{name},ct,test,q,a,7")
    (record,) = read(root)
    assert files(root, record) == ("ct/test_images/x.png", "ct/test_masks/x.png")
    assert (record.modality, record.split) == ("ct", "test")


def test_explicit_mask_path(root: Path) -> None:
    touch(root, "all/i.png", "all/m.png")
    write(
        root,
        "image_path,mask_path,modality,task,question,answer",
        "all/i.png,all/m.png,MRI,brain,q,a",
        r"all\i.png,all\m.png,,brain,q,a",
        "ct/val_masks/x.png,ct/val_masks/x.png,,,q,a",
        "ct/val_images/x.png,,,,q,a",
    )
    records = read(root)
    assert [record.modality for record in records] == ["MRI", "brain", "ct", "ct"]
    assert files(root, records[1]) == ("all/i.png", "all/m.png")
    assert files(root, records[2]) == ("ct/val_images/x.png", "ct/val_masks/x.png")
    assert files(root, records[3]) == ("ct/val_images/x.png", "ct/val_masks/x.png")


def test_byte_order_mark(root: Path) -> None:
    row = "ct/train_masks/x.png,x,où ?,là,,train"
    write(root, OFFICIAL, row, prefix=b"\xef\xbb\xbf")
    assert read(root)[0].question == "où ?"


def test_files_are_read_in_order_or_as_named(root: Path) -> None:
    for name in ("b.csv", "a.csv"):
        write(root, OFFICIAL, "ct/train_masks/x.png,x,q,a,,train", name=name)
    assert [record.row_id for record in read(root)] == ["a.csv:2", "b.csv:2"]
    chosen = read_annotations(root, [root / "annotations" / "b.csv"], "error")
    assert [record.row_id for record in chosen.records] == ["b.csv:2"]


GOOD = "ct/train_masks/x.png,x,q,a,,train"
BAD_ROWS = {
    "ct/train_masks/none.png,x,q,a,,train": "no image file 'ct/train_images/none.png' in ",
    "ct/train_images/lone.png,x,q,a,,train": "no mask file 'ct/train_masks/lone.png' or ",
    "ct/lone.png,x,q,a,,train": "no mask file 'ct/lone.png' or .*add a mask_path column",
    "ct/train_masks/x.png,x,  ,a,,train": "the question is empty",
    "ct/train_masks/x.png,x,q,,,train": "the answer is empty",
    "ct/train_masks/x.png,x,q,a,,valid": "unknown split 'valid'; use one of train, val, test",
    "ct/train_masks/x.png,x,q,a,,": "unknown split ''",
    "ct/train_masks/x.png,x,q,a, or b,,train": "1 field too many for the header; quote",
    "ct/train_masks/x.png,x,q,a": "2 fields too few for the header",
    ",x,q,a,,train": "image_path is empty",
    "ct/../../secret.png,x,q,a,,train": "leads out of the data root",
    r"ct\..\..\secret.png,x,q,a,,train": "leads out of the data root",
    "/etc/passwd,x,q,a,,train": "leads out of the data root",
    r"C:\data\x.png,x,q,a,,train": "leads out of the data root",
    r"\\server\share\x.png,x,q,a,,train": "leads out of the data root",
    "ct/link_images/x.png,x,q,a,,train": "image .* is a link that leads out of the data root",
    "x" * 5000 + ",x,q,a,,train": "no image file",
    "ct/\0.png,x,q,a,,train": "no image file",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_bad_rows(root: Path, tmp_path_factory: pytest.TempPathFactory, row: str) -> None:
    outside = tmp_path_factory.mktemp("outside")
    touch(outside, "x.png")
    touch(root, "ct/train_images/lone.png", "ct/lone.png", "ct/link_masks/x.png")
    (root / "ct" / "link_images").symlink_to(outside)
    write(root, OFFICIAL, GOOD, row, GOOD)
    with pytest.raises(DataError, match=rf"^a\.csv:3: .*{BAD_ROWS[row]}"):
        read(root)
    annotations = read_annotations(root, None, "skip")
    assert [record.row_id for record in annotations.records] == ["a.csv:2", "a.csv:4"]
    (message,) = annotations.bad_rows
    assert message.startswith("a.csv:3: ")
    assert "\n" not in message


def test_a_mask_path_cannot_escape_either(root: Path) -> None:
    write(root, "image_path,mask_path,question,answer", "ct/val_images/x.png,../m.png,q,a")
    with pytest.raises(DataError, match=r"^a\.csv:2: mask_path '../m.png' leads out"):
        read(root)
    write(root, "image_name,task,split,question,answer", "x.png,../ct,test,q,a")
    with pytest.raises(DataError, match=r"^a\.csv:2: task '../ct' leads out"):
        read(root)


def test_the_image_is_not_its_own_mask(root: Path) -> None:
    row = "ct/val_images/x.png,ct/val_images/x.png,q,a"
    write(root, "image_path,mask_path,question,answer", row)
    with pytest.raises(DataError, match=r"^a\.csv:2: no mask file .*other than the image itself"):
        read(root)


def test_a_link_within_the_root_is_fine(root: Path) -> None:
    (root / "ct" / "train_images" / "l.png").symlink_to(root / "ct" / "train_images" / "x.png")
    touch(root, "ct/train_masks/l.png")
    write(root, OFFICIAL, "ct/train_masks/l.png,l,q,a,,train")
    assert read(root)[0].image_path.name == "l.png"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image_path,question,split"], "a.csv:1: column 'answer' is missing; the columns found"),
        (["image_path,answer"], "a.csv:1: column 'question' .* found are image_path, answer$"),
        (["", "question,answer,x"], "a.csv:2: column 'image_path' or 'image_name' is missing"),
        (["image_name,split,question,answer"], "a.csv:1: column 'task' is missing, without"),
        ([""], "a.csv:1: the file is empty"),
        ([OFFICIAL], "no usable row in a.csv: the files have no row"),
        ([OFFICIAL, GOOD, 'ct,x,"q,a,,train', GOOD], "a.csv:3: broken CSV"),
    ],
)
def test_bad_files(root: Path, lines: list[str], message: str) -> None:
    write(root, *lines)
    for mode in ("error", "skip"):
        with pytest.raises(DataError, match=f"^{message}"):
            read_annotations(root, None, mode)  # type: ignore[arg-type]


def test_not_utf8(root: Path) -> None:
    write(root, OFFICIAL, GOOD)
    path = root / "annotations" / "a.csv"
    path.write_bytes(path.read_bytes() + b"ct,x,o\xf9,a,,train\n")
    with pytest.raises(DataError, match=r"^a\.csv:3: not UTF-8"):
        read(root)


def test_only_bad_rows(root: Path) -> None:
    write(root, OFFICIAL, "ct/train_masks/x.png,x,,a,,train")
    with pytest.raises(DataError, match=r"a\.csv: all 1 rows are bad, the first: a\.csv:2: the q"):
        read_annotations(root, None, "skip")


def test_which_files(root: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file in .*annotations"):
        read(root)
    with pytest.raises(DataError, match=r"cannot read the annotation file .*none\.csv"):
        read_annotations(root, [root / "none.csv"], "error")
    with pytest.raises(DataError, match=r"two annotation files are named a\.csv"):
        read_annotations(root, [root / "a.csv", root / "b" / "a.csv"], "error")


@pytest.mark.skipif(SAMPLE_DATA is None, reason="PRS_MED_SAMPLE_DATA names no sample data")
def test_real_sample() -> None:
    root = Path(SAMPLE_DATA or "") / "real"
    annotations = read_annotations(root, None, "error")
    assert isinstance(annotations, Annotations)
    assert len(annotations.records) == 16
    assert not annotations.bad_rows
    for record in annotations.records:
        assert record.image_path.parent.name == f"{record.split}_images"
        assert record.mask_path.parent.name == f"{record.split}_masks"
        check_same_size(load_image(record.image_path), load_mask(record.mask_path), record.row_id)
