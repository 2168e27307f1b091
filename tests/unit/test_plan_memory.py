"""Memory, largest micro-batches, times and scaling behave as they must."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.config import Settings
from prs_med.plan.candidates import Candidate, Workload, candidates, workload
from prs_med.plan.checkpointing import NOTHING, Checkpointing, ways
from prs_med.plan.hardware import CARDS, Cluster, cluster
from prs_med.plan.recommend import recommend
from prs_med.plan.scaling import dealt_out, scaling
from prs_med.plan.traffic import checkpoint, loading
from prs_med.plan_config import PlanSettings
from prs_med.train.deepspeed_config import load_deepspeed_config

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
NAMES = ("zero2.json", "zero3.json", "zero2_offload.json", "zero3_offload.json")
GB = 1e9

which = st.integers(0, 6 * len(NAMES) - 1)
batches = st.integers(1, 64)
numbers = st.sampled_from([1, 2, 4, 8, 16, 64, 256, 1024])


@cache
def published(finetune: str = "lora") -> tuple[Settings, Workload]:
    chosen = Settings(finetune=finetune)
    return chosen, workload(chosen, PlanSettings())


@cache
def every(finetune: str = "lora", plan: tuple[tuple[str, object], ...] = ()) -> list[Candidate]:
    chosen, work = published(finetune)
    configs = {name: load_deepspeed_config(CONFIGS / name, chosen, 8) for name in NAMES}
    return list(candidates(chosen, PlanSettings(**dict(plan)), configs, work))


def one(config: str, *, four_bits: bool = False, again: bool = False, **more: str) -> Candidate:
    return next(
        c
        for c in every(**more)
        if c.zero.name == config
        and (c.settings.load_4bit, c.settings.gradient_checkpointing) == (four_bits, again)
    )


def test_weights_gradients_and_states_are_the_textbooks() -> None:
    frozen, lora = 7_566_219_264, 13_631_488
    parts = one("zero2.json").memory(8).at(1).parts
    assert parts["weights: language model"] == 2 * (frozen + lora)
    assert parts["gradients: language model"] == pytest.approx(4 * lora / 8, rel=1e-6)
    assert parts["optimizer: language model"] == pytest.approx(12 * lora / 8, rel=1e-6)
    spread = one("zero3.json").memory(8).at(1).parts
    # LoRA and norms are small parameters, which stay whole besides their shares.
    assert spread["weights: language model"] == pytest.approx(2 * frozen / 8 + 2 * lora, rel=0.01)
    packed = one("zero2.json", four_bits=True).memory(8).at(1).parts
    linear = 6_979_321_856
    expected = 2 * (frozen + lora - linear) + linear * (0.5 + 1 / 64 + 4 / 64 / 256)
    assert packed["weights: language model"] == pytest.approx(expected, rel=1e-4)


def test_full_finetuning_has_sixteen_bytes_for_each_parameter() -> None:
    parts = one("zero2.json", finetune="full").memory(1).at(1).parts
    trained = 7_241_732_096
    assert parts["optimizer: language model"] == pytest.approx(12 * trained, rel=1e-6)
    assert parts["gradients: language model"] == pytest.approx(4 * trained, rel=1e-6)
    assert not any(candidate.settings.load_4bit for candidate in every("full"))


def test_the_host_holds_a_copy_of_the_model_only_if_its_files_are_converted() -> None:
    lora, segmentation = one("zero2.json").memory(8).shares()
    assert one("zero2.json").memory(8).host() == 12 * (lora + segmentation)
    converted = dataclasses.replace(
        one("zero2.json"),
        settings=dataclasses.replace(one("zero2.json").settings, precision="fp32"),
    )
    assert converted.memory(8).host() == 4 * (7_566_219_264 + 13_631_488)


def test_offloading_moves_states_to_the_host() -> None:
    here, there = (one(f"zero2{kind}.json", finetune="full").memory(8) for kind in ("", "_offload"))
    assert here.at(1).parts["optimizer: language model"] > 10 * GB
    assert "optimizer: language model" not in there.at(1).parts
    assert there.host() >= 12 * 7_241_732_096 / 8


@given(which, batches, numbers)
def test_a_larger_micro_batch_never_needs_less(index: int, batch: int, gpus: int) -> None:
    memory = every()[index].memory(gpus)
    assert memory.at(batch).total < memory.at(batch + 1).total


@given(which, batches, numbers, numbers)
def test_more_gpus_never_need_more(index: int, batch: int, few: int, many: int) -> None:
    few, many = sorted((few, many))
    candidate = every()[index]
    padding = 4096  # of shares that are rounded up
    more = candidate.memory(many).at(batch).total
    assert more <= candidate.memory(few).at(batch).total + padding


@given(which, st.sampled_from(sorted(CARDS)), numbers)
def test_the_largest_micro_batch_fits_and_one_more_does_not(
    index: int, card: str, gpus: int
) -> None:
    memory, room = every()[index].memory(gpus), CARDS[card].memory
    largest = memory.largest_batch(room)
    assert largest == 0 or memory.at(largest).total <= room
    assert memory.at(largest + 1).total > room


def test_ways_to_compute_again_are_compared_from_cheap_to_dear() -> None:
    found = [c for c in every() if c.zero.name == "zero2.json" and not c.settings.load_4bit]
    assert [c.checkpointing.title for c in found] == ["no", "encoder", "both"]
    flops = [c.costs.flops(4).sum() for c in found]
    assert flops[0] < flops[1] < 1.005 * flops[0] < flops[2]
    kept = [c.memory(8).at(8).total for c in found]
    assert kept[0] > kept[1] > kept[2]


def test_the_users_own_way_to_compute_again_is_compared_too() -> None:
    alone = Checkpointing(language_model=True, encoder=False)
    assert ways(Settings(gradient_checkpointing=True)) == (*ways(Settings()), alone)


def test_a_frozen_encoder_has_nothing_to_compute_again() -> None:
    found = ways(Settings(freeze_encoder=True))
    assert [each.title for each in found] == ["no", "language"]
    assert all(each.applied_to(Settings(freeze_encoder=True)) for each in found)


def machines(**chosen: object) -> Cluster:
    return cluster(PlanSettings(**chosen))


def test_a_small_card_is_recommended_what_makes_the_base_smaller() -> None:
    one = machines(gpu="l4", gpus=1)
    small = dataclasses.replace(one, card=dataclasses.replace(one.card, memory=20 * 10**9))
    found = recommend(every(), small, 16)
    assert found is not None
    assert found.candidate.settings.load_4bit or found.candidate.checkpointing != NOTHING
    assert 1 <= found.batch <= found.largest
    on_the_gpu = [c for c in every("full") if not c.zero.offload_optimizer]
    assert recommend(on_the_gpu, machines(gpu="l4", gpus=1), 16) is None


def test_no_larger_micro_batch_is_recommended_than_wanted() -> None:
    found = recommend(every(), machines(gpu="h200"), 4)
    assert found is not None
    assert found.batch == 4 < found.largest


def test_times_are_ranges_that_better_hardware_shortens() -> None:
    candidate = one("zero2.json")
    slow, fast = (candidate.step(4, machines(gpu=name)).total for name in ("a100-80", "h200"))
    assert slow.best < slow.worst
    assert fast.best < slow.best
    assert fast.worst < slow.worst
    # No kernel is faster than the data sheet.
    flops = candidate.costs.flops(4).sum()
    assert slow.best > flops / CARDS["a100-80"].bf16


def test_zero3_sends_the_whole_model_twice() -> None:
    two, three = (one(f"zero{stage}.json").communication(8).sent(8) for stage in (2, 3))
    assert three - two == pytest.approx(2 * 2 * 7_566_219_264 * 7 / 8, rel=0.01)
    assert one("zero3.json").communication(1).sent(1) == 0


def test_a_slow_network_limits_zero3_and_not_zero2() -> None:
    slow = machines(gpus=64, network="ethernet-10")
    for config, limit in (("zero2.json", "compute"), ("zero3.json", "communication")):
        points = scaling(one(config), 4, slow, samples=116_000)
        assert {p.gpus: p.bottleneck for p in points}[64] == limit
    assert [point.gpus for point in points] == [2**n for n in range(11)]


def test_few_loader_processes_limit() -> None:
    plan = (("loader_rate", 0.5),)
    candidate = next(c for c in every(plan=plan) if c.zero.name == "zero2.json")
    (first, *_) = scaling(candidate, 4, machines(), samples=116_000)
    assert first.bottleneck == "loader processes"
    assert first.speed.best == first.speed.worst == 1.0  # two processes


def test_a_global_batch_is_kept_as_long_as_it_can_be_dealt_out() -> None:
    candidate = one("zero2.json")
    kept = dataclasses.replace(candidate.settings, global_batch_size=64)
    candidate = dataclasses.replace(candidate, settings=kept)
    points = scaling(candidate, 8, machines(), samples=116_000)
    assert {point.global_batch for point in points} == {64}
    assert max(point.gpus for point in points) == 64
    assert points[-1].bottleneck != "compute" or points[-1].efficiency < 1
    dealt, batch = dealt_out(candidate, 8, 2)
    assert (batch, dealt.settings.gradient_accumulation_steps) == (8, 4)


def test_checkpoints_and_samples_have_their_sizes() -> None:
    chosen, work = published()
    plan = PlanSettings(disk_mb_s=100, s3_mb_s=50, sample_kb=500)
    saved = checkpoint(chosen, plan, machines(gpus=16), work.counts)
    assert saved.size == pytest.approx(12 * 24_742_875, rel=0.01)
    assert saved.to_disk == saved.size / 100e6
    assert saved.to_s3 == saved.size / (2 * 50e6)
    averaged = checkpoint(
        dataclasses.replace(chosen, ema_decay=0.99), plan, machines(), work.counts
    )
    assert averaged.size == pytest.approx(16 * 24_742_875, rel=0.01)
    assert loading(chosen, plan, machines()).read == 100e6 / 8 / 500e3
