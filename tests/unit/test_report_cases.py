"""Which samples are shown, and their pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prs_med.data.overlay import PREDICTION_COLOUR, TRUTH_COLOUR
from prs_med.report.cases import CHOSEN, Case, case_card, choose_cases
from prs_med.report.content import Picture
from prs_med.report.thumbnails import SIDE, mask_thumbnail

rows_strategy = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()), max_size=30
).map(
    lambda drawn: [
        {"number": number, "dice": dice, "error": "bad" if failed else None}
        for number, (dice, failed) in enumerate(drawn)
    ]
)


@given(rows_strategy, st.integers(0, 5), st.randoms())
def test_cases_are_chosen_once_and_by_rank(rows: list, per_kind: int, random) -> None:
    chosen = choose_cases(rows, per_kind)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert choose_cases(shuffled, per_kind) == chosen
    assert tuple(chosen) == CHOSEN
    numbers = [row["number"] for kind in CHOSEN for row in chosen[kind]]
    assert len(numbers) == len(set(numbers))
    good = [row["dice"] for row in rows if row["error"] is None]
    assert all(len(found) <= per_kind for found in chosen.values())
    scored = [chosen[kind] for kind in ("best", "median", "worst")]
    assert sum(map(len, scored)) == min(len(good), 3 * per_kind) or len(good) < 3 * per_kind
    assert len(chosen["failed"]) == min(per_kind, len(rows) - len(good))
    assert all(row["error"] for row in chosen["failed"])
    best, median, worst = ([row["dice"] for row in found] for found in scored)
    assert best == sorted(good, reverse=True)[: len(best)]
    assert worst == sorted(good)[: len(worst)]
    assert not (median and best) or max(median) <= min(best)
    assert not (median and worst) or min(median) >= max(worst)


def test_the_median_case_is_in_the_middle() -> None:
    rows = [{"number": n, "dice": n / 100, "error": None} for n in range(101)]
    chosen = choose_cases(rows, 1)
    assert [chosen[kind][0]["number"] for kind in ("best", "median", "worst")] == [100, 50, 0]
    with pytest.raises(ValueError, match="per_kind"):
        choose_cases(rows, -1)


def case(height: int = 40, width: int = 80, **changes: object) -> Case:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    plain = Case(
        title="row 1",
        kind="worst",
        modality="mri",
        question="Where?",
        answer="There.",
        predicted_answer="Here.",
        scores={"dice": 0.25, "hd95": None},
        zone_correct=False,
        image=Image.new("RGB", (width, height), (100, 100, 100)),
        truth=mask,
        predicted=~mask,
    )
    return replace(plain, **changes)


def opened(picture: Picture) -> Image.Image:
    assert picture.source is not None
    head, data = picture.source.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_cards_show_pictures_texts_and_scores() -> None:
    card = case_card(case())
    assert [picture.caption for picture in card.pictures] == ["Image", "Truth", "Prediction"]
    assert {opened(picture).size for picture in card.pictures} == {(SIDE, SIDE // 2)}
    image, truth, prediction = (np.asarray(opened(p)).astype(int) for p in card.pictures)
    inside, outside = (int(SIDE * 0.17), int(SIDE * 0.35)), (5, 5)
    assert np.abs(image - 100).max() < 12
    for picture, place, colour in (
        (truth, inside, TRUTH_COLOUR),
        (prediction, (60, 200), PREDICTION_COLOUR),
    ):
        expected = (np.array(colour) + 100) / 2
        assert np.abs(picture[place] - expected).max() < 25
    assert np.abs(truth[outside] - 100).max() < 12
    assert dict(card.texts) == {
        "Question": "Where?",
        "Reference answer": "There.",
        "Model's answer": "Here.",
    }
    assert dict(card.scores) == {"Dice": "0.250", "HD95": "n/a", "Zone": "wrong"}
    assert "covers 6.2 % of the image" in card.pictures[1].description


def test_cards_say_what_there_is_not() -> None:
    card = case_card(
        case(image=None, truth=None, predicted=None, answer=None, zone_correct=None, error="torn")
    )
    assert [picture.source for picture in card.pictures] == [None, None, None]
    assert dict(card.texts)["Reference answer"] == "none in the data"
    assert dict(card.scores)["Zone"] == "nothing to compare with"
    assert card.warning == "Failed: torn"
    empty = case_card(case(predicted=np.zeros((40, 80), dtype=bool), predicted_answer=""))
    assert empty.pictures[2].description == "Prediction: the mask is empty"
    assert dict(empty.texts)["Model's answer"] == "(empty)"


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (1, 900), (900, 1), (7, 5)])
def test_a_single_pixel_stays_visible(height: int, width: int) -> None:
    mask = np.zeros((height, width), dtype=bool)
    mask[-1, -1] = True
    image = Image.new("RGB", (width, height))
    small = np.asarray(mask_thumbnail(image, mask, TRUTH_COLOUR))
    assert max(small.shape[:2]) == SIDE
    assert (small == TRUTH_COLOUR).all(axis=2).any()
    nothing = np.asarray(mask_thumbnail(image, np.zeros_like(mask), TRUTH_COLOUR))
    assert not nothing.any()


@pytest.mark.parametrize(
    "mask", [np.zeros((80, 40), dtype=bool), np.zeros((40, 80), dtype=np.uint8)]
)
def test_masks_that_do_not_fit_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be bool and"):
        case_card(case(truth=mask))
