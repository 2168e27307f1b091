"""Random changes keep image, mask and words together, or are not made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prs_med.data.answer_position import parse_position
from prs_med.data.augment import (
    Augmentation,
    Target,
    flipped,
    words_can_be_flipped,
)
from prs_med.data.mirrored_words import MIRRORED, UNMOVED
from prs_med.data.position import describe, position_of
from prs_med.data.question_templates import (
    GENERAL_QUESTIONS,
    KIND_QUESTIONS,
    OTHER_STRUCTURE,
    STRUCTURES,
    answers_about,
)

SIDES = st.integers(8, 21)
ALWAYS = Augmentation(flip=1.0)


@st.composite
def masks(draw) -> np.ndarray:
    height, width = draw(SIDES), draw(SIDES)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top, height - 1)), draw(st.integers(left, width - 1))
    mask = np.zeros((height, width), np.uint8)
    mask[top : bottom + 1, left : right + 1] = 1
    return mask


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(
    mask=masks(),
    form=st.sampled_from(
        [
            "{answer}",
            "In the {zone}.",
            "It lies in the {zone} corner of the image{near}.",
            "{ZONE}{near}.",
        ]
    ),
    flip=st.sampled_from(["horizontal", "vertical"]),
)
def test_a_flipped_answer_is_true_of_the_flipped_mask(
    mask: np.ndarray, form: str, flip: str
) -> None:
    position = position_of(mask)
    answer = form.format(
        answer=describe("tumor", position),
        zone=position.zone,
        ZONE=position.zone.capitalize(),
        near=", near the center" if position.near_center else "",
    )
    target = Target(mask, "Where is it in this image?", answer)
    said = parse_position(answer)
    result = flipped(target, flip)
    if result is None:
        # Left out only where the rule itself is not symmetric, or the answer was not true before.
        mirrored = position_of(np.flip(mask, 1 if flip == "horizontal" else 0))
        words = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
        axis = ("left", "right") if flip == "horizontal" else ("top", "bottom")
        expected = " ".join(words[w] if w in axis else w for w in position.zone.split())
        asymmetric = (mirrored.zone, mirrored.near_center) != (expected, position.near_center)
        assert asymmetric or (said.zone, said.near_center) != (
            position.zone,
            position.near_center,
        )
        return
    after = parse_position(result.answer)
    assert (after.zone, after.near_center) == (
        position_of(result.mask).zone,
        position_of(result.mask).near_center,
    )
    assert flipped(result, flip) is not None
    back = flipped(result, flip)
    assert back is not None
    assert (back.question, back.answer) == (target.question, target.answer)
    assert np.array_equal(back.mask, mask)


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Top left, near the center.", "Top right, near the center."),
        ("TOP LEFT.", "TOP RIGHT."),
        ("The upper-left quadrant of the image.", "The upper-right quadrant of the image."),
        ("It is on the left side of this image.", "It is on the right side of this image."),
        ("In the left half.", "In the right half."),
        ("It is left upper, away from the center.", "It is right upper, away from the center."),
        ("There is a tumor.", "There is a tumor."),
    ],
)
def test_words_of_place_are_exchanged(text: str, mirrored: str) -> None:
    mask = np.zeros((40, 40), np.uint8)
    # Near the centre where the text says so.
    place = 15 if "near" in text else 2
    mask[place, place] = 1
    result = flipped(Target(mask, "Where?", text), "horizontal")
    assert result is not None
    assert result.answer == mirrored


@pytest.mark.parametrize(
    "text",
    [
        "The tumor lies in the left lung.",
        "It is in the top left of the image, in the right upper lobe.",
        "The left femur is broken.",
        "It lies in the upper left femur.",
        "It is on the left side of the abdomen.",
        "The lower right molar.",
        "There is a medial lesion.",
        "It is upper_left.",
        "It is in the topleft corner.",
        "The leftmost nodule.",
        "It lies above the diaphragm.",
        "It is superior to the hilum.",
        "A nodule in the LUL.",
        "It is at the 10 o'clock position.",
        "It is on the patient's left side.",
        "It is on the left side (of the patient).",
        "The left side mandible.",
        "tOP lEFT.",
        "It is in the top left and extends inferiorly.",
        "A superomedial lesion in the top left.",
        "It is nasal to the optic disc.",
        "It is links oben.",
        "Der Tumor liegt oben links.",
        "The tumor is in the top left of the image, counted from the top.",
        "It is in the top left of the brain.",
        "The left lung is in the top left of the image.",
        "It is to the left of the polyp.",
        "It isn't in the bottom right.",
        "It points up in the top left.",
        "It is on the dorsal side.",
        "It is in the top left, dextrally.",
    ],
)
@pytest.mark.parametrize("place", ["question", "answer"])
def test_anatomy_is_never_mirrored(text: str, place: str) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2, 2] = 1
    texts = {"question": "Where is it?", "answer": "Top left.", place: text}
    for direction in ("horizontal", "vertical"):
        assert flipped(Target(mask, **texts), direction) is None


@pytest.mark.parametrize("text", ["It is on the left side.", "It is in the left half."])
def test_one_side_must_be_that_of_the_mask(text: str) -> None:
    """The middle columns of an even width are mirrored to the same side by the rule."""
    left, right, middle = (np.zeros((40, 40), np.uint8) for _ in range(3))
    left[2, 2], right[2, 37], middle[2, :] = 1, 1, 1
    for question, answer in (("Where is it?", text), (text, "Yes.")):
        result = flipped(Target(left, question, answer), "horizontal")
        assert result is not None
        assert f"{result.question} {result.answer}" == f"{question} {answer}".replace(
            "left", "right"
        )
        assert flipped(Target(right, question, answer), "horizontal") is None
        assert flipped(Target(middle, question, answer), "horizontal") is None


def test_an_answer_that_is_not_true_is_left_alone() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2, 2] = 1
    assert flipped(Target(mask, "Where?", "Bottom right."), "horizontal") is None
    assert flipped(Target(np.zeros_like(mask), "Where?", "Top left."), "horizontal") is None
    assert flipped(Target(np.zeros_like(mask), "Is there a tumor?", "No."), "horizontal")


def test_image_and_mask_flip_together_for_all_targets_or_none() -> None:
    image = picture(20, 30)
    one, two = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    one[2, 3], two[17, 25] = 1, 1
    targets = [Target(one, "Where?", "Top left."), Target(two, "And?", "Bottom right.")]
    flipped_image, found = ALWAYS.apply_to_image(image, targets, (0, 1))
    assert [target.answer for target in found] == ["Bottom right.", "Top left."]
    original, changed = np.asarray(image), np.asarray(flipped_image)
    for before, after in zip((one, two), found, strict=True):
        assert np.array_equal(original[before == 1], changed[after.mask == 1])
    stuck = [*targets, Target(one, "Where?", "In the left lung.")]
    same_image, same = ALWAYS.apply_to_image(image, stuck, (0, 1))
    assert same_image is image
    assert same is stuck


def test_nothing_changes_by_default() -> None:
    image, targets = picture(9, 9), [Target(np.ones((9, 9), np.uint8), "?", "Center.")]
    found = Augmentation().apply_to_image(image, targets, (0, 0))
    assert found[0] is image
    assert found[1] is targets


def test_intensity_changes_the_image_alone() -> None:
    image, targets = picture(9, 9), [Target(np.ones((9, 9), np.uint8), "?", "In the left lung.")]
    changed, found = Augmentation(intensity=1.0).apply_to_image(image, targets, (0, 0))
    assert changed.tobytes() != image.tobytes()
    assert found is targets
    # A table: what was one value is one value again, and order is kept.
    before, after = np.asarray(image).ravel(), np.asarray(changed).ravel()
    assert (np.diff(after[np.argsort(before)].astype(int)) >= 0).all()


def test_the_key_decides_and_the_share_of_flips_is_the_one_asked_for() -> None:
    image = picture(12, 12)
    mask = np.zeros((12, 12), np.uint8)
    mask[1, 1] = 1
    augmentation = Augmentation(intensity=0.5, flip=0.3)

    def result(*key: int) -> tuple[bytes, str]:
        changed, (target,) = augmentation.apply_to_image(
            image, [Target(mask, "Where?", "Top left.")], key
        )
        return changed.tobytes(), target.answer

    assert result(3, 5) == result(3, 5)
    results = [result(0, number) for number in range(800)]
    assert len({pixels for pixels, _ in results}) > 700
    answers = [answer for _, answer in results]
    for side in ("right", "Bottom"):
        assert 0.24 < sum(side in answer for answer in answers) / 800 < 0.36


@given(strength=st.floats(0.01, 1), key=st.integers(0, 10**9), grey=st.integers(0, 255))
def test_grey_values_stay_within_the_documented_bounds(
    strength: float, key: int, grey: int
) -> None:
    image = Image.new("RGB", (2, 2), (grey, grey, grey))
    changed, _ = Augmentation(intensity=strength).apply_to_image(image, [], (key,))
    (value,) = {channel for pixel in changed.getdata() for channel in pixel}
    corners = []
    for brightness in (1 - 0.2 * strength, 1 + 0.2 * strength):
        for contrast in (-0.4 * strength, 0.4 * strength):
            for gamma in (1 - 0.4 * strength, 1 + 0.4 * strength):
                y = (grey / 255) ** gamma
                corners.append(brightness * (y + contrast * 2 * y * (1 - y) * (2 * y - 1)))
    # Each of the three changes is monotonic, so the extremes are at the corners; half is rounding.
    assert 255 * min(corners) - 0.51 <= value <= min(255, 255 * max(corners) + 0.51)
    if grey == 0:
        assert value == 0


@given(
    st.lists(st.sampled_from(["It", "is", "in", "the", "top", "left", "tumor", "image", "of"]),
             max_size=9),
    st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=12),
    st.data(),
)  # fmt: skip
def test_a_word_that_is_not_on_the_list_keeps_an_image_as_it_is(
    words: list[str], other: str, data: st.DataObject
) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2, 2] = 1
    words.insert(data.draw(st.integers(0, len(words))), other)
    text = " ".join(words)
    for direction in ("horizontal", "vertical"):
        result = flipped(Target(mask, "Where is it?", text), direction)
        assert result is None or other in UNMOVED | {"left", "right", "top", "bottom", "upper",
                                                     "lower"}  # fmt: skip
        assert words_can_be_flipped("Where is it?", text) or result is None


def test_all_that_annotate_writes_about_a_structure_can_be_flipped() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2, 2] = 1
    for name in (*STRUCTURES.values(), OTHER_STRUCTURE):
        for question in (
            *GENERAL_QUESTIONS,
            *(q for kind in KIND_QUESTIONS.values() for q in kind),
        ):
            asked = question.format(target=f"the {name}")
            for answer in answers_about(name, position_of(mask)):
                target = Target(mask, asked, answer)
                assert all(flipped(target, way) for way in MIRRORED), (asked, answer)


def test_real_answers_stay_true(sample_data: Path) -> None:
    from prs_med.data.images import load_mask
    from prs_med.data.sources import read_annotations

    records = read_annotations(sample_data / "real", None, "error").records

    changed = 0
    for record in records:
        target = Target(load_mask(record.mask_path), record.question, record.answer)
        for direction in ("horizontal", "vertical"):
            result = flipped(target, direction)
            if result:
                changed += 1
                said = parse_position(result.answer)
                assert said.zone in (None, position_of(result.mask).zone)
    assert changed
