"""Whatever files, names, rows and arguments hold, a program ends with a status that it documents,
says in one line what is wrong, and takes little memory.

``PRS_MED_HOSTILE_EXAMPLES=2000`` tries more than the few examples of an ordinary run.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.phantoms import write_phantoms
from prs_med.programs import data, evaluate, export, infer, plan
from tests import hostile

FEW = settings(max_examples=hostile.EXAMPLES or 12)
COLUMNS = ("image_path", "mask_path", "question", "answer", "split", "patient_id")


def ends_well(main, argv: Sequence[str], statuses: tuple[int, ...] = (0, 2)) -> str:
    """Run a program; what it says on stderr."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    shown = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    with (
        hostile.bounded_memory(),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(shown),
    ):
        status = main([*argv])
    said.seek(0)
    text = said.read()
    assert status in statuses, text
    assert "Traceback" not in text
    assert status != 2 or "error: " in text
    return text


@contextlib.contextmanager
def folder():
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


@st.composite
def data_roots(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of a data root by their paths."""
    files = {
        f"{folder}/{draw(hostile.names)}": draw(hostile.contents())
        for folder in draw(
            st.lists(
                st.sampled_from(["ct/train_images", "ct/train_masks", "ct/test_images", "."]),
                max_size=4,
            )
        )
    }
    for image, mask in draw(
        st.lists(st.tuples(hostile.contents(), hostile.contents()), max_size=2)
    ):
        name = draw(hostile.names)
        files |= {f"ct/train_images/{name}": image, f"ct/train_masks/{name}": mask}
    files["annotations/a.csv"] = draw(hostile.tables(COLUMNS, sorted(files)))
    return files


def fill(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        hostile.put(root / name, content)


@given(data_roots(), st.sampled_from(["error", "skip"]))
@FEW
def test_building_from_any_data_root(files: dict[str, bytes], on_bad_rows: str) -> None:
    with folder() as root:
        fill(root / "data", files)
        arguments = ["--data_root", str(root / "data"), "--output", str(root / "out")]
        arguments += ["--on_bad_rows", on_bad_rows, "--num_workers", "1"]
        ends_well(data.main, ["build", *arguments])
        ends_well(data.main, ["check", str(root / "out"), "--num_workers", "1"], (0, 1, 2))
        ends_well(data.main, ["stats", str(root / "out"), "--output_dir", str(root / "stats")])


@given(data_roots(), st.booleans())
@FEW
def test_annotating_any_data_root(files: dict[str, bytes], named: bool) -> None:
    with folder() as root:
        fill(root, files)
        pairs = ["--pairs", str(root / "annotations" / "a.csv")] if named else []
        output = ["--output", str(root / "new.csv"), "--num_workers", "1"]
        ends_well(data.main, ["annotate", str(root), *pairs, *output])


@given(st.dictionaries(hostile.names, hostile.contents(), max_size=4), st.data())
@FEW
def test_slicing_any_files(files: dict[str, bytes], drawn: st.DataObject) -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("nibabel")
    with folder() as root:
        for name, content in files.items():
            ending = drawn.draw(st.sampled_from(["", ".dcm", ".nii", ".nii.gz"]))
            hostile.put(root / "scans" / f"{name}{ending}", content)
            hostile.put(root / "masks" / f"{name}{ending}", drawn.draw(hostile.contents()))
        (root / "scans").mkdir(exist_ok=True)
        arguments = ["--scans", str(root / "scans"), "--output", str(root / "out"), "--task", "ct"]
        masks = ["--masks", str(root / "masks")] if drawn.draw(st.booleans()) else []
        ends_well(data.main, ["slices", *arguments, *masks, "--num_workers", "1"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    write_phantoms(root / "data", {"train": 4, "val": 2}, size=32, seed=0)
    output = ["--data_root", str(root / "data"), "--output", str(root / "dataset")]
    assert data.main(["build", *output]) == 0
    return root / "dataset"


@given(st.data())
@FEW
def test_reading_a_dataset_whose_files_were_changed(dataset: Path, drawn: st.DataObject) -> None:
    with folder() as root:
        copy = shutil.copytree(dataset, root / "copy")
        file = drawn.draw(st.sampled_from(sorted(p for p in copy.rglob("*") if p.is_file())))
        content = bytearray(file.read_bytes())
        for _ in range(drawn.draw(st.integers(1, 4))):
            at = drawn.draw(st.integers(0, len(content) - 1))
            content[at : at + 1] = drawn.draw(st.sampled_from([b"", b"9", b"-", b"/", b"\xff"]))
        file.write_bytes(content)
        ends_well(data.main, ["check", str(copy), "--num_workers", "1"], (0, 1, 2))
        ends_well(data.main, ["stats", str(copy), "--output_dir", str(root / "stats")])


PROGRAMS = {
    "build": (
        data.main,
        ["build"],
        ["data_root", "output", "ann_paths", "tasks", "classes", "seed"],
    ),
    "check": (data.main, ["check"], ["data", "output", "position_words"]),
    "annotate": (data.main, ["annotate"], ["data_root", "pairs", "output", "structure", "classes"]),
    "slices": (data.main, ["slices"], ["scans", "masks", "output", "task", "window", "label"]),
    "eval": (evaluate.main, [], ["checkpoint", "data", "output_dir", "position_words", "seed"]),
    "compare": (evaluate.main, ["compare"], ["output_dir", "pictures", "data_root"]),
    "infer": (infer.main, [], ["checkpoint", "images", "question", "output_dir", "csv"]),
    "export": (export.main, ["trained"], ["checkpoint", "output_dir"]),
    "plan": (plan.main, [], ["config", "vlm_path", "batch_size", "gpus"]),
}
"""Programs, their commands, and settings that name files, numbers or lists."""


@given(st.data())
@settings(max_examples=hostile.EXAMPLES or 60)
def test_any_arguments(drawn: st.DataObject) -> None:
    main, command, flags = PROGRAMS[drawn.draw(st.sampled_from(sorted(PROGRAMS)))]
    argv = [*command]
    for flag in drawn.draw(st.lists(st.sampled_from(flags), unique=True)):
        # As the system hands them over: without NUL.
        argv += [f"--{flag}", drawn.draw(hostile.texts).replace("\0", "")]
    with folder() as root, contextlib.chdir(root):
        ends_well(main, argv)
