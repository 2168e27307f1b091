"""One norm over both optimizers, whatever each of them would have done by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prs_med.train.joint_norm import JointNorm


class Stage2:
    """What of DeepSpeed's optimizer of stages 1 and 2 matters here."""

    def __init__(self, own: float) -> None:
        self.own = own

    def scaled_global_norm(self, norm_type: int = 2) -> Tensor:
        return torch.tensor(float(self.own))

    def used(self) -> float:
        """What it would clip by."""
        return float(self.scaled_global_norm())


class Stage3:
    """Of stage 3: a norm for each group of parameters."""

    def __init__(self, *own: float) -> None:
        self.own = own

    def _get_norm_groups(self) -> list[Tensor]:
        return [torch.tensor(float(norm)) for norm in self.own]

    def used(self) -> float:
        """What it would clip by."""
        return float(torch.stack(self._get_norm_groups()).norm())


def taken_over(*optimizers: Stage2 | Stage3) -> JointNorm:
    return JointNorm(list(optimizers))


@pytest.mark.parametrize(
    "pair",
    [
        lambda: (Stage2(3), Stage2(4)),
        lambda: (Stage2(3), Stage3(0, 4)),
        lambda: (Stage3(3), Stage3(4, 0)),
    ],
    ids=["stages 1 and 2", "stages 2 and 3", "stage 3"],
)
def test_both_clip_by_the_norm_over_both(
    pair: Callable[[], tuple[Stage2 | Stage3, Stage2 | Stage3]],
) -> None:
    optimizers = pair()
    norms = taken_over(*optimizers).update()
    assert norms == pytest.approx([5, 3, 4])
    assert [optimizer.used() for optimizer in optimizers] == pytest.approx([5, 5])


def test_the_norm_over_the_groups_of_an_optimizer_is_its_own() -> None:
    assert taken_over(Stage3(3, 4), Stage2(12)).update() == pytest.approx([13, 5, 12])


def test_each_update_measures_the_gradients_at_hand() -> None:
    one, other = Stage2(3), Stage3(4)
    joint = taken_over(one, other)
    joint.update()
    one.own, other.own = 6, (8,)
    # Between updates it stays what it was: both step by one number.
    assert [one.used(), other.used()] == pytest.approx([5, 5])
    assert joint.update() == pytest.approx([10, 6, 8])
    assert [one.used(), other.used()] == pytest.approx([10, 10])


@pytest.mark.parametrize("broken", [math.inf, math.nan, -1.0])
def test_a_norm_that_is_none_makes_both_discard_the_step(broken: float) -> None:
    """DeepSpeed's helpers say -1 where a norm is not finite."""
    for optimizers in ((Stage2(broken), Stage3(4)), (Stage2(3), Stage3(4, broken))):
        joint, *own = taken_over(*optimizers).update()
        assert math.isinf(joint)
        assert sum(map(math.isinf, own)) == 1
        assert all(math.isinf(optimizer.used()) for optimizer in optimizers)


def test_a_veto_makes_both_discard_the_step_and_still_tells_the_norms() -> None:
    one, other = Stage2(3), Stage3(4)
    joint = taken_over(one, other)
    assert joint.update(veto=True) == pytest.approx([5, 3, 4])
    assert math.isinf(one.used())
    assert math.isinf(other.used())
    assert joint.update() == pytest.approx([5, 3, 4])
    assert [one.used(), other.used()] == pytest.approx([5, 5])


def test_the_method_takes_what_deepspeed_gives_it() -> None:
    optimizer = Stage2(3)
    taken_over(optimizer).update()
    assert float(optimizer.scaled_global_norm(norm_type=2)) == pytest.approx(3)


def test_any_number_of_optimizers_share_one_norm() -> None:
    optimizers = [Stage2(1), Stage2(2), Stage3(2)]
    assert taken_over(*optimizers).update() == pytest.approx([3, 1, 2, 2])
    assert [optimizer.used() for optimizer in optimizers] == pytest.approx([3, 3, 3])
