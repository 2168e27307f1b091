"""Parameters are counted on the real modules, and are those of the published models."""

from __future__ import annotations

import sys

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit

from prs_med.config import Settings
from prs_med.plan.meta_model import meta_model
from prs_med.plan.model_counts import ModelCounts, model_counts
from prs_med.plan.partitions import group_share, parameter_shares
from prs_med.plan.quantised import nf4_bytes, nf4_scale_bytes


def counts(encoder_size: str | None = None, **settings: object) -> ModelCounts:
    return model_counts(meta_model(Settings(**settings), encoder_size))


def by_name(found: ModelCounts, kind: str = "total") -> dict[str, int]:
    return {part.name: getattr(part, kind) for part in found.parts}


def test_the_language_model_is_the_published_one() -> None:
    total = by_name(counts())
    assert total["language model"] + total["LM head"] == 7_241_732_096
    assert total["CLIP tower"] == 303_507_456
    assert total["projector"] == 20_979_712
    assert total["mask decoder"] == 5_366_465


@pytest.mark.parametrize(
    ("family", "size", "parameters"),
    [
        ("tinysam", None, 6_065_532 - 321_640),
        ("sam", "b", 89_670_912),
        ("sam", "l", 308_278_272),
        ("sam", "h", 637_026_048),
        ("sam_med2d", None, 267_177_216),
    ],
)
def test_encoders_are_the_published_ones(family: str, size: str | None, parameters: int) -> None:
    assert by_name(counts(size, encoder_type=family))["encoder"] == parameters


@pytest.mark.parametrize("rank", [8, 16])
@pytest.mark.parametrize("targets", ["q_proj", "q_proj,k_proj,v_proj,o_proj,gate_proj"])
def test_lora_has_two_matrices_for_each_layer(rank: int, targets: str) -> None:
    found = counts(lora_rank=rank, lora_targets=targets)
    outputs = {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024, "o_proj": 4096, "gate_proj": 14336}
    expected = 32 * sum(rank * (4096 + outputs[name]) for name in targets.split(","))
    assert by_name(found)["LoRA"] == by_name(found, "trained")["LoRA"] == expected


def test_what_is_trained_follows_the_settings() -> None:
    assert by_name(counts(freeze_mllm=True), "trained")["LoRA"] == 0
    assert by_name(counts(freeze_encoder=True), "trained")["encoder"] == 0
    full = by_name(counts(finetune="full"), "trained")
    assert full["language model"] + full["LM head"] == 7_241_732_096
    # One LayerNorm of the released decoder is used by nothing.
    assert by_name(counts(), "trained")["mask decoder"] == 5_366_465 - 512


class _Refusing:
    """Finds no bitsandbytes."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "bitsandbytes":
            raise ImportError(name)


def test_the_model_is_built_without_importing_bitsandbytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Refusing(), *sys.meta_path])
    assert by_name(counts(), "trained")["LoRA"] == 13_631_488


@pytest.mark.parametrize("shape", [(4096, 1024), (192, 320)])
def test_nf4_takes_what_bitsandbytes_takes(shape: tuple[int, int]) -> None:
    rows, columns = shape
    layer = Linear4bit(columns, rows, bias=False, quant_type="nf4")
    weight = Params4bit(
        torch.randn(rows, columns), False, quant_type="nf4", quant_storage=torch.bfloat16
    ).to("cpu")
    layer.weight = weight
    state = weight.quant_state
    scales = [state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset]
    assert nf4_bytes([shape]) == weight.nbytes
    assert nf4_scale_bytes([shape]) == sum(tensor.nbytes for tensor in scales)


def test_partitions_are_rounded_as_deepspeed_does() -> None:
    assert group_share([5, 4], processes=2) == 6  # 12 elements, a multiple of 2 x 2
    assert group_share([], processes=4) == 0
    assert parameter_shares([5, 4, 1], processes=2) == 3 + 2 + 1
