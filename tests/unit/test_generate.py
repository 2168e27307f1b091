"""How long decoding goes on."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prs_med.evaluate.generate import Predictions, Sampling, predict

END = 0
PIXELS = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


class Countdown:
    """Stands for a language model whose every token is one less than the last; zero ends."""

    llava = SimpleNamespace(lm_head=lambda hidden: hidden)

    def __init__(self) -> None:
        self.decoded = 0

    def prefill(self, input_ids: Tensor, mask: Tensor, image: Tensor) -> SimpleNamespace:
        return self._says(input_ids - 1)

    def decode(self, token: Tensor, mask: Tensor, cache: None) -> SimpleNamespace:
        self.decoded += 1
        return self._says((token - 1).clamp(min=END))

    def _says(self, tokens: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=F.one_hot(tokens, 9), past_key_values=None)


def asked(model: Countdown, longest: int, **more: Callable[[bool], bool]) -> Predictions:
    return predict(
        model,
        lambda image, hidden, mask, size: (hidden, hidden),
        [(3,), (6,)],
        PIXELS,
        PIXELS,
        pad_token=END,
        end_token=END,
        sampling=Sampling(longest),
        **more,
    )


ANSWERS = [(2, 1), (5, 4, 3, 2, 1)]


def test_decoding_ends_with_the_last_answer() -> None:
    model = Countdown()
    assert asked(model, 20).answers == ANSWERS
    assert model.decoded == 5


@pytest.mark.parametrize("longest", [1, 4])
def test_long_answers_are_cut(longest: int) -> None:
    model = Countdown()
    assert asked(model, longest).answers == [answer[:longest] for answer in ANSWERS]
    assert model.decoded == longest - 1


def test_others_are_asked_before_each_token_whether_to_go_on() -> None:
    told: list[bool] = []

    def two_more(is_open: bool) -> bool:
        told.append(is_open)
        return len(told) < 8

    model = Countdown()
    assert asked(model, 20, any_open=two_more).answers == ANSWERS
    assert told == [True] * 5 + [False] * 3
    assert model.decoded == 7


def test_no_answer_is_longer_than_allowed_whoever_goes_on() -> None:
    model = Countdown()
    assert asked(model, 7, any_open=lambda is_open: True).answers == ANSWERS
    assert model.decoded == 6
