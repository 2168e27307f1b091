"""Which spellings name one patient, and which columns."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.data.groups import same_name
from prs_med.data.pairs import find_pairs
from prs_med.data.records import DataError
from prs_med.data.sources import read_annotations

HEADER, ROW = "image_path,question,answer", "ct/train_images/x.png,q,a"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("images", "masks"):
        (tmp_path / "ct" / f"train_{kind}").mkdir(parents=True)
        (tmp_path / "ct" / f"train_{kind}" / "x.png").touch()
    (tmp_path / "annotations").mkdir()
    return tmp_path


def groups(root: Path, header: str, *values: str, column: str | None = None) -> list[str]:
    lines = [f"{HEADER},{header}", *(f"{ROW},{value}" for value in values)]
    (root / "annotations" / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [record.group for record in read_annotations(root, None, "error", column).records]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        (
            "12",
            ["12.0", " 12 ", "12.", "012", "12,0", "12.00", "\ufeff12", "\uff11\uff12", "12\u200b"],
        ),
        ("0", ["0.0", "000", "0."]),
        ("p-7a", ["P-7A", " p-7a\t", "P\u00ad-7a"]),
        ("\u00e4", ["a\u200b\u0308", "A\u0308"]),
        ("müller", ["MÜLLER", "mu\u0308ller", " Müller"]),
        ("li wei", ["Li  Wei", "LI\u00a0WEI"]),
        ("", ["nan", "NaN", "None", "NULL", "n/a", "<NA>", "  "]),
    ],
)
def test_spellings_of_one_name(name: str, others: list[str]) -> None:
    assert same_name(name) == name
    assert {same_name(other) for other in others} == {name}


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1,000"), ("1.5", "1.50"), ("12", "12.1"), ("1.2.840.1", "1.2.840.10"), ("1e3", "1000"),
     ("p-7", "p-07"), ("-1", "1")],
)  # fmt: skip
def test_what_may_be_two_patients_stays_two(one: str, other: str) -> None:
    assert same_name(one) != same_name(other)


@given(st.text())
def test_the_common_form_is_one_of_its_own_spellings(text: str) -> None:
    name = same_name(text)
    assert same_name(name) == name
    assert same_name(f" {text}\n") == name
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert same_name(unicodedata.normalize(form, text)) == name


@given(st.integers(0, 10**18), st.sampled_from(["{}", "{}.0", "00{}", " {} ", "{}.", "{},0"]))
def test_whole_numbers_are_one_name_however_tables_write_them(number: int, form: str) -> None:
    assert same_name(form.format(number)) == str(number)


def test_patients_of_two_tables_are_the_same(root: Path) -> None:
    assert groups(root, "patient_id", "12", "12.0", " 12 ") == ["12"] * 3
    assert groups(root, "PatientID", "P1", "p1") == ["p1"] * 2
    assert groups(root, "PatientID,ward", "1,a", "2,A", column="Ward") == ["a", "a"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("patient_id,Patient ID", "p1,"),
        ("patient_id,Patient ID", ",p1"),
        ("patient_id,patient_id", "p1,p2"),
        ("patient,subject_id", "p1,p2"),
        ("study_id,Study-ID", "s1,s2"),
    ],
)
def test_two_columns_of_the_patient_that_differ_are_named(
    root: Path, header: str, value: str
) -> None:
    one, other = (repr(name) for name in header.split(","))
    with pytest.raises(DataError, match=rf"^a\.csv:3: columns {one} and {other} mean the same"):
        groups(root, header, "p,p", value)


def test_two_columns_that_agree_are_one(root: Path) -> None:
    assert groups(root, "patient_id,Patient ID", "12,12.0", ",") == ["12", ""]
    # A study is no patient: the patient comes first.
    assert groups(root, "study_id,patient_id", "s1,p1", "s2,") == ["p1", "s2"]
    assert groups(root, "patient,subject", "p1,x", column="subject") == ["x"]


def test_a_table_of_pairs_is_held_to_the_same_rule(root: Path) -> None:
    table = root / "pairs.csv"
    paths = "ct/train_images/x.png,ct/train_masks/x.png"
    table.write_text(f"image_path,mask_path,patient_id,Patient ID\n{paths},P1,\n")
    with pytest.raises(DataError, match=r"^pairs\.csv:2: columns 'patient_id' and 'Patient ID'"):
        find_pairs(root, table)
    table.write_text(f"image_path,mask_path,patient_id,Patient ID\n{paths},P1,P1\n")
    assert [pair.patient_id for pair in find_pairs(root, table)] == ["P1"]
