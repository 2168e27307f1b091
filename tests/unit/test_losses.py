"""The losses against slow float64 readings of their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prs_med.model.losses import bce_dice_loss, modality_loss, structure_loss, text_loss

SIZES = [(40, 56), (7, 9), (1, 1), (31, 64)]


def masks(batch: int, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and blobs whose boundary is a small part of them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, 1, *size, generator=generator)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    target = torch.zeros(batch, 1, *size)
    for sample in range(batch):
        radius = min(size) * (0.2 + 0.1 * sample)
        distance = ((y - size[0] // 2) ** 2 + (x - size[1] // 3) ** 2).sqrt()
        target[sample, 0] = (distance <= radius).float()
    return logits, target


def plain_weight(target: Tensor) -> Tensor:
    """Boundary weight of one mask (H, W), window by window."""
    height, width = target.shape
    weight = torch.empty_like(target)
    for row in range(height):
        for column in range(width):
            window = target[max(0, row - 15) : row + 16, max(0, column - 15) : column + 16]
            weight[row, column] = 1 + 5 * abs(window.sum() / 31**2 - target[row, column])
    return weight


def plain_structure_loss(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    p = 1 / (1 + (-logits).exp())
    entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    inter = (p * target * weight).sum()
    union = ((p + target) * weight).sum()
    iou = (inter + 1) / (union - inter + 1)
    return float((weight * entropy).sum() / weight.sum() + 1 - iou)


@pytest.mark.parametrize("size", SIZES)
def test_structure_loss_is_its_definition(size: tuple[int, int]) -> None:
    logits, target = masks(2, size)
    expected = [
        plain_structure_loss(one.double(), mask.double(), plain_weight(mask.double()))
        for one, mask in zip(logits[:, 0], target[:, 0], strict=True)
    ]
    loss = structure_loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_boundary_weight_is_that_of_a_square_average_pool(soft: bool) -> None:
    logits, target = masks(2, (96, 80))
    if soft:
        target = F.avg_pool2d(target, 5, stride=1, padding=2)
    weight = 1 + 5 * (F.avg_pool2d(target, 31, stride=1, padding=15) - target).abs()
    assert weight.max() > 3
    expected = [
        plain_structure_loss(*(x[i, 0].double() for x in (logits, target, weight)))
        for i in range(2)
    ]
    torch.testing.assert_close(structure_loss(logits, target), torch.tensor(expected))


def test_boundary_weights_matter() -> None:
    """Older code averaged the cross-entropy before weighting it, and lost the weights."""
    logits, target = masks(1, (64, 64))
    weight = 1 + 5 * (F.avg_pool2d(target, 31, stride=1, padding=15) - target).abs()
    weighted_iou = plain_structure_loss(*(x[0, 0].double() for x in (logits, target, weight)))
    mean_entropy = F.binary_cross_entropy_with_logits(logits, target)

    wrong_here, wrong_there = torch.full_like(target, -8.0), torch.full_like(target, -8.0)
    wrong_here[target > 0] = wrong_there[target > 0] = 8.0
    edge = torch.unravel_index(weight.argmax(), weight.shape)
    wrong_here[edge] *= -1
    wrong_there[0, 0, 0, 63] *= -1  # far from the mask
    assert structure_loss(wrong_here, target) > 1.5 * structure_loss(wrong_there, target)

    p = logits.sigmoid()
    inter = (p * target * weight).sum()
    iou_loss = 1 - (inter + 1) / (((p + target) * weight).sum() - inter + 1)
    faulty = float(mean_entropy + iou_loss)
    assert abs(float(structure_loss(logits, target)) - weighted_iou) < 1e-5
    assert abs(faulty - weighted_iou) > 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_bce_dice_loss_is_its_definition(size: tuple[int, int]) -> None:
    logits, target = masks(2, size)
    loss = bce_dice_loss(logits, target)
    assert loss.dtype == torch.float32
    for i in range(2):
        one, mask = logits[i].double(), target[i].double()
        p = 1 / (1 + (-one).exp())
        entropy = -(mask * p.log() + (1 - mask) * (1 - p).log()).mean()
        dice = (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        assert float(loss[i]) == pytest.approx(float(entropy + 1 - dice), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", [structure_loss, bce_dice_loss])
def test_mask_losses_at_the_extremes(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    _, target = masks(2, (40, 40))
    sign = 2 * target - 1
    torch.testing.assert_close(loss(1e4 * sign, target), torch.zeros(2), atol=1e-5, rtol=0)
    worst = (-1e4 * sign).requires_grad_()
    value = loss(worst, target)
    assert (value > 1e3).all()
    value.sum().backward()
    assert worst.grad is not None
    assert worst.grad.isfinite().all()
    empty = torch.zeros_like(target)
    torch.testing.assert_close(loss(empty - 1e4, empty), torch.zeros(2), atol=1e-5, rtol=0)
    assert loss(torch.full_like(target, math.nan), target).isnan().all()


@settings(max_examples=20)
@given(data=st.data())
def test_mean_does_not_depend_on_the_split_into_batches(data: st.DataObject) -> None:
    batch = data.draw(st.integers(2, 6))
    cuts = sorted(data.draw(st.sets(st.integers(1, batch - 1), min_size=1)))
    logits, target = masks(batch, (20, 24), seed=data.draw(st.integers(0, 99)))
    owners = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=12)))
    vocabulary = torch.randn(len(owners), 11)
    words = torch.randint(0, 11, (len(owners),))
    kinds, kind_logits = torch.randint(-1, 3, (batch,)), torch.randn(batch, 3)

    def losses(start: int, stop: int) -> Tensor:
        here = (owners >= start) & (owners < stop)
        return (
            structure_loss(logits[start:stop], target[start:stop])
            + bce_dice_loss(logits[start:stop], target[start:stop])
            + text_loss(vocabulary[here], words[here], owners[here] - start, stop - start)
            + modality_loss(kind_logits[start:stop], kinds[start:stop])
        )

    edges = [0, *cuts, batch]
    parts = [losses(a, b) for a, b in pairwise(edges)]
    torch.testing.assert_close(torch.cat(parts), losses(0, batch), atol=1e-5, rtol=1e-5)


def test_text_loss_is_the_mean_over_each_samples_own_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(6, 13, generator=generator)).bfloat16().requires_grad_()
    labels = torch.tensor([0, 12, 3, 3, 7, 1])
    owners = torch.tensor([0, 0, 3, 0, 1, 3])  # interleaved; sample 2 has none
    loss = text_loss(logits, labels, owners, 4)
    assert loss.shape == (4,)
    assert loss.dtype == torch.float32
    for sample in range(4):
        own = [
            math.log(sum(math.exp(x) for x in row)) - row[label]
            for row, label, owner in zip(logits.tolist(), labels, owners, strict=True)
            if owner == sample
        ]
        assert loss[sample].item() == pytest.approx(sum(own) / len(own) if own else 0, abs=1e-5)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_batch_without_answers_costs_nothing_but_stays_connected() -> None:
    logits = torch.zeros(0, 13, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = text_loss(logits, none, none, 2)
    assert loss.tolist() == [0, 0]
    loss.sum().backward()


def test_unknown_modality_has_loss_and_gradient_zero() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]], requires_grad=True)
    loss = modality_loss(logits, torch.tensor([-1, 2]))
    assert loss[0] == 0
    expected = math.log(sum(math.exp(x) for x in (0.5, 0.0, 3.0))) - 3
    assert loss[1].item() == pytest.approx(expected)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0, 0, 0]
    assert logits.grad[1].any()


def test_all_modalities_unknown_still_gives_gradients() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = modality_loss(logits, torch.full((3,), -1))
    assert loss.tolist() == [0, 0, 0]
    loss.mean().backward()
    assert logits.grad is not None
    assert not logits.grad.any()
