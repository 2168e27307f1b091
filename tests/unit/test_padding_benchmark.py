"""What benchmarks/padding.py counts."""

from __future__ import annotations

import pytest

from benchmarks import padding
from prs_med.batch import IMAGE_TOKEN
from prs_med.data.prompt import EncodedText


def image(*own_lengths: int) -> list[EncodedText]:
    """Questions with so many tokens of their own behind ten that they share."""
    prefix = (1, *[IMAGE_TOKEN] * 9)
    return [
        EncodedText((*prefix, *range(100 * number, 100 * number + own)), len(prefix) + 1)
        for number, own in enumerate(own_lengths, start=1)
    ]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(1, 1.0), (2, (2 * 20 + 2 * 18) / (13 + 20 + 18 + 14)), (4, 4 * 20 / (13 + 20 + 18 + 14))],
)
def test_packing_would_save_what_stands_behind_the_ends(
    batch: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [image(3), image(10), image(8), image(4)]
    monkeypatch.setattr(padding, "IMAGES", len(images))
    tokens = sum(padding.positions([each]) for each in images)
    assert tokens == 13 + 20 + 18 + 14
    assert padding.gain(images, batch, tokens) == pytest.approx(expected)


def test_sorting_stays_within_a_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image(9), image(2), image(7, 5), image(1), image(6), image(3)]
    monkeypatch.setattr(padding, "IMAGES", len(images))
    monkeypatch.setattr(padding, "GLOBAL_BATCH", 3)
    found = [padding.positions([each]) for each in padding.by_length(images)]
    assert found == [12, 19, 22, 11, 13, 16]
