"""How the next token is chosen."""

from __future__ import annotations

import pytest
import torch

from prs_med.evaluate.generate import Sampling, choose_tokens

PROBABILITIES = torch.tensor([0.1, 0.5, 0.05, 0.35])


def draw(sampling: Sampling, count: int = 4000) -> torch.Tensor:
    """Share of each token among many draws."""
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = choose_tokens(PROBABILITIES.log().repeat(count, 1), sampling, generator)
    assert tokens.shape == (count, 1)
    return torch.bincount(tokens[:, 0], minlength=4) / count


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draw(Sampling(1)).tolist() == [0, 1, 0, 0]


def test_an_answer_can_be_had_again_unless_asked_otherwise() -> None:
    assert Sampling(5) == Sampling(5, temperature=0.0, top_p=1.0, seed=0)


def test_temperature_one_draws_by_probability() -> None:
    torch.testing.assert_close(draw(Sampling(1, 1.0)), PROBABILITIES, atol=0.03, rtol=0)


def test_a_high_temperature_evens_out() -> None:
    expected = (PROBABILITIES.log() / 2).softmax(0)
    torch.testing.assert_close(draw(Sampling(1, 2.0)), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.4, [1]), (0.5, [1]), (0.6, [1, 3]), (0.9, [0, 1, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_draws_from_the_likeliest_that_reach_it(top_p: float, kept: list[int]) -> None:
    shares = draw(Sampling(1, 1.0, top_p))
    assert shares.nonzero()[:, 0].tolist() == kept
    expected = torch.zeros(4)
    expected[kept] = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)


def test_the_seed_decides() -> None:
    assert torch.equal(draw(Sampling(1, 1.0, seed=3)), draw(Sampling(1, 1.0, seed=3)))
    assert not torch.equal(draw(Sampling(1, 1.0, seed=3)), draw(Sampling(1, 1.0, seed=4)))
