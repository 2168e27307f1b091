"""What a validation is about is saved before it; its scores are added afterwards."""

from __future__ import annotations

import pytest
import torch

from prs_med.data.order import Rank
from prs_med.train.heartbeat import Heartbeat
from prs_med.train.loop import LoopHooks, _save_and_validate
from prs_med.train.progress import Progress
from prs_med.train.validation import ValidationStopped

SCORES = {"val_dice": 0.5, "val_iou": 0.4, "val_loss_txt": 1.0}


class Calls:
    """Hooks that note in which order they are called."""

    def __init__(self, **asked: str) -> None:
        """``asked``: who asks for the end, by the name of the hook that finds out."""
        self.made: list[str] = []
        self.progress = Progress(torch.device("cpu"), Rank(0, 1))
        self.progress.step = 7
        self.heartbeat = Heartbeat()
        self._asked = asked

    def hook(self, name: str):
        def call(step: int) -> str:
            assert step == 7
            self.made.append(f"{name}: {self.heartbeat.place.phase}")
            return self._asked.get(name, "")

        return call

    def validate(self, step: int) -> dict[str, float]:
        if reason := self.hook("validate")(step):
            raise ValidationStopped(reason)
        return SCORES

    def run(self, validation: bool) -> str:
        hooks = LoopHooks(
            validates=True,
            validate=self.validate,
            log=lambda step, row: self.made.append("log"),
            say=lambda text: None,
            before_validation=self.hook("before"),
            after_validation=self.hook("after"),
            after_step=self.hook("step"),
            log_ranks=lambda step, seconds: None,
            bad_step=lambda bad, action: None,
        )
        reason, seconds = _save_and_validate(
            self.progress, hooks, self.heartbeat, validation=validation
        )
        assert seconds >= 0
        return reason


def test_it_is_saved_before_a_validation_and_gets_its_scores_after_it() -> None:
    calls = Calls()
    assert calls.run(validation=True) == ""
    assert calls.made == ["before: saving", "validate: validating", "log", "after: saving"]
    assert (calls.progress.scores, calls.progress.scored_at) == (SCORES, 7)


def test_who_is_asked_to_end_begins_no_validation() -> None:
    calls = Calls(before="SIGTERM")
    assert calls.run(validation=True) == "SIGTERM"
    assert calls.made == ["before: saving"]


def test_who_is_asked_to_end_within_a_validation_leaves_it_without_scores() -> None:
    calls = Calls(validate="SIGUSR1")
    assert calls.run(validation=True) == "SIGUSR1"
    assert calls.made == ["before: saving", "validate: validating"]
    assert calls.progress.scored_at == 0


@pytest.mark.parametrize("reason", ["", "SIGTERM"])
def test_a_step_without_a_validation_is_saved_when_it_is_time(reason: str) -> None:
    calls = Calls(step=reason)
    assert calls.run(validation=False) == reason
    assert calls.made == ["step: saving"]
