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


def write(
    root: Path, *lines: str, name: str = "a.csv", prefix: bytes = b"", folder: str = "annotations"
) -> None:
    (root / folder).mkdir(exist_ok=True)
    (root / folder / name).write_bytes(prefix + "\n".join(lines).encode() + b"\n")


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
        task="ct",
        root=root.resolve(),
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
    assert [record.task for record in records] == ["brain", "brain", "ct", "ct"]
    assert files(root, records[1]) == ("all/i.png", "all/m.png")
    assert files(root, records[2]) == ("ct/val_images/x.png", "ct/val_masks/x.png")
    assert files(root, records[3]) == ("ct/val_images/x.png", "ct/val_masks/x.png")


def test_everything_in_one_folder_with_a_file_for_each_split(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"images_and_masks/{kind}_{n}.png" for kind in ("image", "mask") for n in "123")
    )
    header = "image_path,mask_path,question,answer,modality"
    for split, n, folder in [("train", 1, ""), ("val", 2, "images_and_masks/"), ("test", 3, "")]:
        row = f"{folder}image_{n}.png,{folder}mask_{n}.png,Where?,Here.,CT"
        write(tmp_path, header, row, name=f"{split}.csv", folder="csv")
    test, train, val = read(tmp_path)
    assert [record.split for record in (train, val, test)] == ["train", "val", "test"]
    assert [record.row_id for record in (train, test)] == ["train.csv:2", "test.csv:2"]
    assert files(tmp_path, train) == ("images_and_masks/image_1.png", "images_and_masks/mask_1.png")
    assert files(tmp_path, val) == ("images_and_masks/image_2.png", "images_and_masks/mask_2.png")
    assert train.modality == "CT"
    # The folder that is the custom of this package comes first.
    write(tmp_path, header + ",split", "image_1.png,mask_1.png,q,a,CT,val")
    assert [record.row_id for record in read(tmp_path)] == ["a.csv:2"]


@pytest.mark.parametrize("path", ["lung_CT/train_images/x.png", "lung_CT/train_masks/x.png"])
def test_task_folders_below_the_shared_folder(tmp_path: Path, path: str) -> None:
    touch(tmp_path, *(f"images_and_masks/lung_CT/train_{k}/x.png" for k in ("images", "masks")))
    for named in (path, f"images_and_masks/{path}"):
        write(tmp_path, "image_path,question,answer,split", f"{named},q,a,train")
        (record,) = read(tmp_path)
        assert files(tmp_path, record) == (
            "images_and_masks/lung_CT/train_images/x.png",
            "images_and_masks/lung_CT/train_masks/x.png",
        )
        assert (record.modality, record.split) == ("lung_CT", "train")


def test_a_files_name_is_its_rows_split_unless_they_say_otherwise(root: Path) -> None:
    touch(root, "all/i.png", "all/m.png")
    header, row = "image_path,mask_path,question,answer", "all/i.png,all/m.png,q,a"
    write(root, header, row, name="test.csv")
    assert [record.split for record in read(root)] == ["test"]
    write(root, header + ",split", row + ",val", name="test.csv")
    assert [record.split for record in read(root)] == ["val"]
    write(root, "image_name,task,question,answer", "x,ct,q,a", name="test.csv")
    assert files(root, read(root)[0])[0] == "ct/test_images/x.png"
    write(root, "image_path,question,answer", "ct/train_masks/x.png,q,a", name="test.csv")
    with pytest.raises(DataError, match=r"^test\.csv:2: the folder of .* is of split 'train', but"):
        read(root)


@pytest.mark.parametrize(
    ("image", "mask", "split"),
    [
        ("t/images/x.png", "t/masks/x.png", ""),
        ("t/val/images/x.jpg", "t/val/masks/x.png", "val"),
        ("t/images/test/x.png", "t/masks/test/x.png", "test"),
        ("old_images/train_images/x.png", "old_images/train_masks/x.png", "train"),
        ("t/train_images/X.PNG", "t/train_masks/X.JPG", "train"),
    ],
)
def test_sister_folders_of_other_names(tmp_path: Path, image: str, mask: str, split: str) -> None:
    touch(tmp_path, image, mask)
    for named in (image, mask):
        write(tmp_path, "image_path,question,answer", f"{named},q,a")
        (record,) = read(tmp_path)
        assert files(tmp_path, record) == (image, mask)
        assert record.split == split


def test_an_absolute_path_into_the_data_root(root: Path) -> None:
    path = root.resolve() / "ct" / "val_masks" / "x.png"
    write(root, OFFICIAL, f"{path},x,q,a,,val")
    (record,) = read(root)
    assert files(root, record) == ("ct/val_images/x.png", "ct/val_masks/x.png")
    assert (record.modality, record.split) == ("ct", "val")


def test_other_spellings_of_columns(root: Path) -> None:
    touch(root, "all/i.png", "all/m.png")
    write(
        root,
        "image,mask,Question,Answer,source",
        "all/i.png,all/m.png,Where?,Here.,Kvasir",
        name="a.csv",
    )
    write(
        root,
        "image_path,image_name,split,description,position",
        "ct/val_masks/x.png,x.png,val,Find it.,It is top left.",
        name="b.csv",
    )
    write(
        root,
        ",Image Path,description,question,answer,position",
        "0,ct/val_masks/x.png,A scan.,Where?,Here.,top left",
        name="c.csv",
    )
    first, second, third = read(root)
    assert files(root, first) == ("all/i.png", "all/m.png")
    assert (first.question, first.answer) == ("Where?", "Here.")
    assert (second.question, second.answer, second.position) == ("Find it.", "It is top left.", "")
    assert (third.question, third.answer, third.position) == ("Where?", "Here.", "top left")


@pytest.mark.parametrize("spelling", ["{}", "is_{}", "split_{}", "{}_set"])
def test_a_column_for_each_split(root: Path, spelling: str) -> None:
    columns = ",".join(spelling.format(split) for split in ("train", "val", "test"))
    header = f"image_path,question,answer,{columns}"
    row = "ct/val_masks/x.png,q,a"
    write(root, header, f"{row},0,1,0", f"{row},False,True,False", f"{row},0.0,1.0,0.0")
    assert [record.split for record in read(root)] == ["val"] * 3
    for flags in ("0,0,0", "0,1,1", "0,1,", "yes,0,0"):
        write(root, header, f"{row},{flags}")
        with pytest.raises(DataError, match=r"^a\.csv:2: .*exactly one must be 1"):
            read(root)


TASKS = {
    "brain_tumors_ct_scan": ("1000.png", "1000.png"),
    "breast_tumors_ct_scan": ("benign (1).png", "benign (1).png"),
    "dental_xray": ("12.png", "12.png"),
    "lung_CT": ("ID00010637202177584971671_25.jpg", "ID00010637202177584971671_25.jpg"),
    "lung_Xray": ("covid_1.png", "covid_1.png"),
    "polyp_endoscopy": ("1.png", "1.png"),
    "skin_rgbimage": ("ISIC_0000000.jpg", "ISIC_0000000_Segmentation.png"),
    "head_and_neck": ("scan7_channel_00.png", "scan7_channel_00.png"),
    "prostate": ("example1.png", "example1.png"),
    "something_new": ("a.tif", "a.bmp"),
}


def test_all_tasks_in_one_run_each_in_a_layout_of_its_own(tmp_path: Path) -> None:
    headers = {
        OFFICIAL: r"{task}\train_masks\{mask},{stem},q,a,,train",
        "\ufeffimage_path,question,answer,split": "{task}/train_images/{image},q,a,train",
        "image_name,task,split,question,answer": "{stem},{task},train,q,a",
        "image_path,mask_path,modality,question,answer": (
            "{task}/train_images/{image},{task}/train_masks/{mask},{task},q,a"
        ),
    }
    for number, (task, (image, mask)) in enumerate(TASKS.items()):
        touch(tmp_path, f"{task}/train_images/{image}", f"{task}/train_masks/{mask}")
        header, row = list(headers.items())[number % len(headers)]
        row = row.format(task=task, image=image, mask=mask, stem=Path(image).stem)
        write(tmp_path, header, row, name=f"{task}.csv")
    found = {record.modality: record for record in read(tmp_path)}
    assert {task: files(tmp_path, record) for task, record in found.items()} == {
        task: (f"{task}/train_images/{image}", f"{task}/train_masks/{mask}")
        for task, (image, mask) in TASKS.items()
    }
    assert {record.split for record in found.values()} == {"train"}


def test_the_name_of_a_file_tells_the_task_where_nothing_else_does(tmp_path: Path) -> None:
    touch(tmp_path, "images_and_masks/i.png", "images_and_masks/m.png")
    for name, task in [("lung_CT.csv", "lung_CT"), ("train.csv", None)]:
        write(tmp_path, "image_path,mask_path,question,answer", "i.png,m.png,q,a", name=name)
        paths = [tmp_path / "annotations" / name]
        assert [r.modality for r in read_annotations(tmp_path, paths, "error").records] == [task]


def test_only_the_tasks_asked_for(root: Path) -> None:
    touch(root, "mr/val_images/x.png", "mr/val_masks/x.png")
    missing = "xray/val_masks/none.png,x,q,a,,val"
    write(root, OFFICIAL, GOOD, "mr/val_masks/x.png,x,q,a,,val", missing)
    annotations = read_annotations(root, None, "error", tasks=["mr"])
    assert [record.row_id for record in annotations.records] == ["a.csv:3"]
    with pytest.raises(DataError, match=r"^--tasks us: no row of a\.csv has it; .*ct, mr, xray"):
        read_annotations(root, None, "skip", tasks=["mr", "us"])


def test_commas_outside_quotes(root: Path) -> None:
    row = (
        "ct/train_masks/x.png,x,Where is it?,Top left, near the center.,In position top left,train"
    )
    unclear = "ct/train_masks/x.png,x,q,a,b,,train"
    write(root, OFFICIAL, row, GOOD)
    annotations = read_annotations(root, None, "error")
    assert [record.answer for record in annotations.records] == ["Top left, near the center.", "a"]
    assert annotations.records[0].split == "train"
    assert annotations.repaired_rows == [
        "a.csv:2: 1 field too many for the header, read as answer 'Top left, near the center.'"
    ]
    write(root, OFFICIAL, row, GOOD, unclear)
    annotations = read_annotations(root, None, "skip")
    assert len(annotations.records) == 2
    assert [message.split(": ")[0] for message in annotations.bad_rows] == ["a.csv:4"]
    # Here a space may follow a separator, so it tells nothing.
    write(root, OFFICIAL, row, "ct/train_masks/x.png, x, q, a,, train")
    with pytest.raises(DataError, match=r"^a\.csv:2: 1 field too many for the header; quote"):
        read(root)


def test_a_repaired_row_can_still_be_bad(root: Path) -> None:
    write(root, OFFICIAL, GOOD, "ct/train_masks/x.png,x,,a, b,,train")
    annotations = read_annotations(root, None, "skip")
    assert annotations.bad_rows == ["a.csv:3: the question is empty"]
    assert annotations.repaired_rows == []


def groups(root: Path, group_column: str | None = None) -> list[str]:
    return [r.group for r in read_annotations(root, None, "error", group_column).records]


def test_groups_come_from_a_column(root: Path) -> None:
    header, row = "image_path,question,answer", "ct/val_masks/x.png,q,a"
    write(root, f"{header},Study ID,patient_id,ward", f"{row},s1,p1,w1", f"{row},s2,,w2")
    write(root, header, row, name="b.csv")
    assert groups(root) == ["p1", "s2", ""]
    assert groups(root, "ward") == ["w1", "w2", ""]
    assert groups(root, "Study-ID") == ["s1", "s2", ""]
    with pytest.raises(DataError, match=r"^--group_column room: no such column in a\.csv, b\.csv"):
        groups(root, "room")


@pytest.mark.parametrize(
    ("image", "group"),
    [
        ("lung_CT/train_images/ID00010637202177584971671_25.jpg", "ID00010637202177584971671"),
        ("head_and_neck/train_images/scan_7_channel_00.png", "scan_7"),
        ("brain_tumors_ct_scan/train_images/TCGA_CS_4941_19960909_11.tif", "TCGA_CS_4941"),
        ("lung_Xray/train_images/sub-S03047_ses-E07494_run-1_vp-ap_cr.png", "sub-S03047"),
        ("lung_Xray/train_images/00000013_005.png", "00000013"),
        # Numbers of images, not of patients, and names of another task's data.
        ("brain_tumors_ct_scan/train_images/1000.png", None),
        ("breast_tumors_ct_scan/train_images/benign (1).png", None),
        ("skin_rgbimage/train_images/ISIC_0000000.jpg", None),
        ("lung_Xray/train_images/covid_1.png", None),
        ("lung_CT/train_images/00000013_005.png", None),
        ("something_new/train_images/scan_7_channel_00.png", None),
    ],
)
def test_groups_come_from_file_names_that_tell(
    tmp_path: Path, image: str, group: str | None
) -> None:
    mask = image.replace("_images", "_masks")
    touch(tmp_path, image, mask)
    expected = f"{image.split('/')[0]}/{group}" if group else ""
    write(tmp_path, "image_path,question,answer", f"{mask},q,a")
    assert groups(tmp_path) == [expected]
    write(tmp_path, "image_path,question,answer,patient", f"{mask},q,a,p", f"{mask},q,a,")
    assert groups(tmp_path) == ["p", expected]


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
    "ct/train_masks/x.png,x,q,a,b,,train": "1 field too many for the header; quote",
    "ct/train_masks/x.png,x,q,a": "2 fields too few for the header",
    ",x,q,a,,train": "image_path is empty",
    "./,x,q,a,,train": "image_path './' names no file in the data root",
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
        (["image_path,Question,question,answer"], "a.csv:1: two columns mean 'question'; remove"),
        (["image_path,question,answer,train,is_train"], "a.csv:1: two columns mean 'is_train'"),
        (["image_path,question,position"], "a.csv:1: column 'answer' is missing"),
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
