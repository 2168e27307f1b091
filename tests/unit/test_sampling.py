"""How the next token is chosen."""

from __future__ import annotations

from random import Random

import pytest
import torch

from prs_med.evaluate.generate import Sampling, choose_tokens

PROBABILITIES = torch.tensor([0.1, 0.5, 0.05, 0.35])


def draw(sampling: Sampling, count: int = 4000) -> torch.Tensor:
    """Share of each token among many draws."""
    source = Random(sampling.seed)
    tokens = choose_tokens(PROBABILITIES.log().repeat(count, 1), sampling, [source] * count)
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


def test_rows_draw_alone() -> None:
    """Whatever stands beside a row, and in whichever order."""
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))

    def drawn(rows: list[int]) -> list[int]:
        sources = [Random(row) for row in rows]
        sampling = Sampling(1, 1.0, 0.9)
        steps = [choose_tokens(logits[rows], sampling, sources) for _ in range(20)]
        return torch.cat(steps, 1).tolist()

    together = drawn([0, 1, 2, 3, 4])
    assert [drawn([row])[0] for row in range(5)] == together
    assert drawn([4, 2, 0]) == [together[4], together[2], together[0]]


def test_rounding_of_the_logits_hardly_changes_what_is_drawn() -> None:
    """Also where it changes which tokens are the likelier."""
    logits = torch.zeros(1, 1000)
    noise = 1e-5 * torch.randn(1, 1000, generator=torch.Generator().manual_seed(2))
    sources = Random(3), Random(3)
    sampling = Sampling(1, 1.0)
    pairs = [
        (
            choose_tokens(logits, sampling, sources[:1]),
            choose_tokens(logits + noise, sampling, sources[1:]),
        )
        for _ in range(300)
    ]
    assert sum(int(one != other) for one, other in pairs) <= 3


class _Extreme(Random):
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (1 - 2**-53, 3)])
def test_the_ends_of_the_range_name_tokens_that_may_be_drawn(number: float, token: int) -> None:
    drawn = choose_tokens(PROBABILITIES.log()[None], Sampling(1, 1.0, 0.6), [_Extreme(number)])
    assert drawn.tolist() == [[token]]
