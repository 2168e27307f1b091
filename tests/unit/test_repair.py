"""Rows with commas outside quotes are read as they were meant, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.repair import repair

COLUMNS = ("image_path", "question", "answer", "position", "split")
PATHS = ("ct/train_masks/x.png", "ct/a, b/train_masks/x.png", "ct/train_masks/x,1.png")
SPLITS = ("train", "val", "test")
RECOGNISED = {"image_path": PATHS.__contains__, "split": SPLITS.__contains__}

# As they are read: without white space around them.
TEXTS = st.text("ab ?.,\t'\"", max_size=12).map(str.strip)
SENTENCES = st.lists(
    st.sampled_from(["Where is it?", "top left", "train", "The position of it is left", "1", ""]),
    max_size=4,
)
WRITTEN = SENTENCES.flatmap(
    lambda parts: st.sampled_from([",", ", "]).map(lambda comma: comma.join(parts).strip())
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, str]:
    text = TEXTS | WRITTEN
    values = {"image_path": draw(st.sampled_from(PATHS)), "split": draw(st.sampled_from(SPLITS))}
    order = draw(st.permutations(COLUMNS))
    return {column: values.get(column, draw(text)) for column in order}


@given(rows(), st.booleans())
@settings(max_examples=800)
def test_a_row_is_read_as_written_or_refused(row: dict[str, str], spaced: bool) -> None:
    separator = ", " if spaced else ","
    read = repair(separator.join(row.values()), list(row), RECOGNISED, tight=not spaced)
    assert read in (None, list(row.values()))


@given(rows())
@settings(max_examples=300)
def test_ordinary_prose_is_always_repaired(row: dict[str, str]) -> None:
    row |= {
        "question": "In this scan, where is the tumour?",
        "answer": "It is in the top left, near the center, and large.",
        "position": "The position of the tumor is top left and it is near the center.",
    }
    text = ",".join(row.values())
    assert repair(text, list(row), RECOGNISED, tight=True) == list(row.values())


def read(text: str, columns: str, tight: bool = True) -> list[str] | None:
    return repair(text, columns.split(), RECOGNISED, tight)


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        # One text between columns that show what is theirs: its commas cannot be separators.
        (f"{PATHS[0]},a,b, c,train", "image_path answer split", [PATHS[0], "a,b, c", "train"]),
        # A comma within a file name.
        (f"{PATHS[2]},q,train", "image_path question split", [PATHS[2], "q", "train"]),
        # White space tells the comma of a text from a separator.
        ("a, b,c,d, e", "question answer other", ["a, b", "c", "d, e"]),
        ('the "left", lung,a', "question answer", ['the "left", lung', "a"]),
    ],
)
def test_what_is_repaired(text: str, columns: str, values: list[str]) -> None:
    assert read(text, columns) == values


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        # Which comma separates question and answer?
        ("a,b,c", "question answer"),
        (f"{PATHS[0]},a?,b,c,train", "image_path question answer split"),
        (f"{PATHS[0]},a,train,b,train,c", "image_path question split answer"),
        # The question mark says another thing than the spaces do.
        ("Where is it?, It measures 1,5 cm", "question answer"),
        (
            f"{PATHS[0]},q,a, The position of it is left,1,5,train",
            "image_path question answer x y split",
        ),
        # Every way has a wrong path or split.
        ("ct/none.png,a,b, c,train", "image_path answer split"),
        (f"{PATHS[0]},a,b, c,training", "image_path answer split"),
        # Someone quoted what needed quotes: the rest are separators.
        ('"a, b",c, d', "question answer"),
        ('a,"b, c", d', "question answer"),
        # Not too many fields.
        ("a, b", "question answer"),
        ("a", "question answer"),
    ],
)
def test_what_is_refused(text: str, columns: str) -> None:
    assert read(text, columns) is None


def test_white_space_means_nothing_where_separators_have_it_too() -> None:
    assert read("a, b, c", "question answer", tight=False) is None
    text = f"{PATHS[0]}, a, b, train"
    assert read(text, "image_path answer split", tight=False) == [PATHS[0], "a, b", "train"]
    assert read(text, "image_path answer split") is None


def test_many_commas_take_no_time() -> None:
    columns = " ".join(["question", "answer", *"abcdefghij"])
    assert read("x," * 400, columns) is None


@pytest.mark.parametrize("order", ["image_path question split", "question image_path split"])
@pytest.mark.parametrize("text", ["x," * 4000, "," * 8000, ",x, y" * 2000, "train," * 1500])
def test_the_search_for_a_way_has_an_end(order: str, text: str) -> None:
    looked = []

    def is_a_file(value: str) -> bool:
        looked.append(value)
        return False

    def never(value: str) -> bool:
        looked.append(value)
        return len(looked) % 2 == 0

    for recognise in (is_a_file, never):
        looked.clear()
        recognised = {"image_path": recognise, "split": SPLITS.__contains__}
        assert repair(text, [*order.split(), "answer", "position"], recognised, True) is None
        assert len(looked) <= 300


def test_a_row_of_thousands_of_columns_is_not_repaired() -> None:
    columns = [f"c{number}" for number in range(5000)]
    assert repair("x," * 5001, columns, {}, True) is None
