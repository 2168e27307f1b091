"""What a validation makes of the model's outputs, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch

from prs_med.batch import UNKNOWN_MODALITY, Batch
from prs_med.config import LossSettings
from prs_med.data.position import position_of
from prs_med.evaluate.mask_metrics import mask_scores
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import Outputs
from prs_med.train import means as means_module
from prs_med.train.means import Means
from prs_med.train.validate import LOSSES, validate

SIDE = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(means_module, "sum_over_ranks", lambda values: values)


@dataclass
class Outlined:
    """Stands for the engines: gives the masks that it is told to."""

    logits: list[torch.Tensor]
    device: torch.device = CPU

    def train(self, mode: bool) -> None:
        self.training = mode

    def forward(self, batch: Batch) -> Outputs:
        assert not self.training
        return Outputs(
            self.logits.pop(0),
            torch.zeros(len(batch.labels), 7),
            torch.zeros(len(batch), 1),
        )


def batch_of(truths: np.ndarray, weights: Iterable[float]) -> Batch:
    """``truths`` (B, S, S) bool; each sample has an answer of one token."""
    count = len(truths)
    pixels = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    return Batch(
        image_vlm=pixels,
        image_seg=pixels,
        image_index=None,
        mask=torch.from_numpy(truths[:, None].astype(np.uint8)),
        input_ids=torch.zeros(count, 2, dtype=torch.long),
        attention_mask=torch.ones(count, 2, dtype=torch.bool),
        prompt_mask=torch.ones(count, 1, dtype=torch.bool),
        label_index=torch.arange(0, 2 * count, 2),
        labels=torch.zeros(count, dtype=torch.long),
        label_sample=torch.arange(count),
        modality=torch.full((count,), UNKNOWN_MODALITY),
        weight=torch.tensor(list(weights)),
        row_ids=tuple(map(str, range(count))),
    )


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = box(0, 0, 0, 0)
PAIRS = [
    (box(1, 1, 5, 5), box(2, 2, 5, 5)),
    (box(1, 9, 4, 6), box(9, 1, 6, 4)),
    (EMPTY, box(3, 3, 4, 4)),
    (box(3, 3, 4, 4), EMPTY),
    (EMPTY, EMPTY),
    (box(6, 6, 4, 4), box(6, 6, 4, 4)),
    (box(0, 0, 3, 3), box(12, 12, 2, 2)),
]
"""Predicted and true masks."""


def logits_of(masks: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(masks, 0.5, -0.5).astype(np.float32))[:, None]


def validated(pairs: list[tuple[np.ndarray, np.ndarray]], size: int) -> dict[str, float]:
    """In batches of ``size``, the last one filled up with samples of no weight."""
    batches, logits = [], []
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        filling = size - len(part)
        predicted, truth = (
            np.stack([*side, *[EMPTY] * filling]) for side in zip(*part, strict=True)
        )
        batches.append(batch_of(truth, [1.0] * len(part) + [0.0] * filling))
        logits.append(logits_of(predicted))
        # A loss of infinity times a weight of zero would be NaN.
        logits[-1][len(part) :] = torch.inf
    engines = Outlined(logits)
    found = validate(engines, batches, LossSettings())
    assert engines.training
    return found


@pytest.mark.parametrize("size", [1, 3, 7])
def test_means_are_those_of_the_scores_of_each_mask(size: int) -> None:
    found = validated(PAIRS, size)
    each = [asdict(mask_scores(*pair)) for pair in PAIRS]
    for name in ("dice", "iou", "precision", "recall"):
        assert found[f"val_{name}"] == pytest.approx(np.mean([one[name] for one in each])), name
    for name in ("hd95", "surface_distance"):
        defined = [one[name] for one in each if one[name] is not None]
        assert len(defined) == found["val_distance_samples"] == 5
        assert found[f"val_{name}"] == pytest.approx(np.mean(defined)), name
    assert found["val_samples"] == 7


def test_the_zone_of_a_mask_is_right_or_wrong_where_there_is_a_true_one() -> None:
    there = [(predicted, truth) for predicted, truth in PAIRS if truth.any()]
    right = [
        predicted.any() and position_of(predicted).zone == position_of(truth).zone
        for predicted, truth in there
    ]
    assert 0 < sum(right) < len(right) == 5
    assert validated(PAIRS, 2)["val_mask_zone_accuracy"] == pytest.approx(np.mean(right))


def test_losses_are_those_of_the_samples_that_count() -> None:
    predicted, truth = (np.stack(side) for side in zip(*PAIRS, strict=True))
    batch = batch_of(truth, [1.0] * len(PAIRS))
    outputs = Outlined([logits_of(predicted)], CPU)
    outputs.train(False)
    terms = loss_terms(outputs.forward(batch), batch, LossSettings())
    found = validated(PAIRS, 3)
    for name, losses in zip(LOSSES, (terms.segmentation, terms.text, terms.modality), strict=True):
        assert found[name] == pytest.approx(losses.mean().item()), name


def test_what_no_sample_has_is_left_out() -> None:
    found = validated([(EMPTY, box(3, 3, 4, 4)), (box(3, 3, 4, 4), EMPTY)], 2)
    assert "val_hd95" not in found
    assert "val_surface_distance" not in found
    assert found["val_distance_samples"] == 0
    assert found["val_dice"] == 0
    assert "val_mask_zone_accuracy" not in validated([(EMPTY, EMPTY)], 1)
    assert validated([(EMPTY, EMPTY)], 1)["val_dice"] == 1


def test_means_over_what_is_there() -> None:
    means = Means(("a", "b", "c"))
    for a, b in ((1, None), (2.5, True), (4, False), (None, True)):
        means.add({"a": a, "b": b, "c": None})
    found, counts = means.read(CPU)
    assert found == {"a": 2.5, "b": pytest.approx(2 / 3)}
    assert counts == {"a": 3, "b": 3, "c": 0}
    with pytest.raises(KeyError):
        means.add({"d": 1.0})
