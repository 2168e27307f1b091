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


class Recorder(Countdown):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[list[list[int]], list[list[bool]]]] = []
        self.caches: list[object] = []

    def prefill(self, input_ids: Tensor, mask: Tensor, image: Tensor) -> SimpleNamespace:
        assert image.shape == (2, 3, 4, 4)
        self.given.append((input_ids.tolist(), mask.tolist()))
        return self._after("prefill", super().prefill(input_ids, mask, image))

    def decode(self, token: Tensor, mask: Tensor, cache: object) -> SimpleNamespace:
        self.given.append((token.tolist(), mask.tolist()))
        self.caches.append(cache)
        return self._after(f"decode {self.decoded}", super().decode(token, mask, None))

    def _after(self, cache: str, said: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=said.last_hidden_state, past_key_values=cache)


def test_prompts_of_different_length_are_padded_before_them_and_decoded_from_their_ends() -> None:
    model = Recorder()
    seen: list[Tensor | tuple[int, int]] = []

    def segmentation(
        image: Tensor, hidden: Tensor, mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, None]:
        seen.extend((image, hidden, mask, size))
        return torch.full((2, 1, *size), 7.0), None

    sharp = torch.zeros(2, 3, 6, 5, dtype=torch.uint8)
    predictions = predict(
        model,
        segmentation,
        [(8, 3), (1, 5, 2, 4)],
        PIXELS,
        sharp,
        pad_token=8,
        end_token=END,
        sampling=Sampling(20),
    )
    padding = [[False, False, True, True], [True] * 4]
    assert model.given[0] == ([[8, 8, 8, 3], [1, 5, 2, 4]], padding)
    image, hidden, mask, size = seen
    assert image is sharp
    assert hidden.argmax(-1).tolist() == [[7, 7, 7, 2], [0, 4, 1, 3]]
    assert mask.tolist() == padding
    assert size == (6, 5)
    assert torch.equal(predictions.mask_logits, torch.full((2, 1, 6, 5), 7.0))
    assert predictions.answers == [(2, 1), (3, 2, 1)]
    # Each token goes on from the cache that the one before it left, and sees all before it.
    assert [tokens for tokens, _ in model.given[1:]] == [[[2], [3]], [[1], [2]], [[0], [1]]]
    assert [mask for _, mask in model.given[1:]] == [
        [[*row, *[True] * more] for row in padding] for more in (1, 2, 3)
    ]
    assert model.caches == ["prefill", "decode 0", "decode 1"]
