"""Which losses jump, and which batches are seen when some are skipped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prs_med.train.bad_steps import LossSpikes, batch_of_step, without

SKIPPED = st.sets(st.integers(0, 30)).map(sorted)


def test_a_loss_far_above_the_median_is_a_spike() -> None:
    spikes = LossSpikes(3.0, [1.0] * 9)
    assert not spikes.is_spike(100.0)
    spikes.remember(2.0)
    assert spikes.is_spike(3.1)
    assert not spikes.is_spike(2.9)
    # One that was remembered does not move the median.
    spikes.remember(100.0)
    assert spikes.is_spike(3.1)


def test_the_level_is_that_of_the_last_fifty() -> None:
    spikes = LossSpikes(2.0, [10.0] * 60)
    for _ in range(26):
        spikes.remember(1.0)
    assert len(spikes.losses) == 50
    assert spikes.is_spike(2.5)
    assert LossSpikes(2.0, spikes.losses).is_spike(2.5)


def test_nothing_is_a_spike_unless_asked_for() -> None:
    spikes = LossSpikes(0.0, [1.0] * 50)
    assert not spikes.wanted
    assert not spikes.is_spike(1e9)


@given(step=st.integers(0, 40), skipped=SKIPPED)
def test_steps_see_the_batches_that_are_left(step: int, skipped: list[int]) -> None:
    left = [batch for batch in range(100) if batch not in skipped]
    assert batch_of_step(step, skipped) == left[step]


@given(steps=st.integers(0, 12), accumulation=st.integers(1, 3), skipped=SKIPPED)
def test_going_on_sees_what_an_undisturbed_run_sees(
    steps: int, accumulation: int, skipped: list[int]
) -> None:
    parts = [(batch, part) for batch in range(60) for part in range(accumulation)]
    whole = list(without(parts, 0, accumulation, skipped))
    first = batch_of_step(steps, skipped)
    rest = list(without(parts[first * accumulation :], first, accumulation, skipped))
    assert rest == whole[steps * accumulation :]
    assert not {batch for batch, _ in whole} & {*skipped}
