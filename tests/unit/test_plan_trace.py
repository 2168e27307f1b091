"""What is traced on the meta device is what the real modules do."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from prs_med.config import Settings
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.initial_weights import new_segmentation
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import build_mllm
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from prs_med.model.shared_prefix import shared_prefix_mask
from prs_med.model.tiny_encoders import write_sam
from prs_med.plan.gpu_attention import gpu_attention
from prs_med.plan.meta_model import MetaModel, meta_model
from prs_med.plan.op_trace import OpRecorder, Part, Phase
from prs_med.plan.step_trace import Lengths, meta_batch, step_costs, trace_step

SHARING = {"batch_by_image": True, "data": "somewhere", "share_image_prefix": True}
META, CPU = torch.device("meta"), torch.device("cpu")
TOLERANCE = 0.10
"""What predicted bytes may differ by from those that are counted."""


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    write_sam(path, seed=4)
    return path


def small_settings(small, sam: Path | None = None, **more: object) -> Settings:
    encoder = {"encoder_type": "sam", "sam_ckpt": str(sam)} if sam else {}
    common = {"vlm_path": str(small.llava_med), "sam_ckpt": str(small.tinysam)}
    return Settings(**{**common, **encoder, "image_size": 96, "precision": "fp32", **more})


def real_model(settings: Settings) -> MetaModel:
    """The same model with its weights, on the CPU."""
    mllm = build_mllm(read_layout(settings.vlm_path), settings)
    if settings.freeze_mllm:
        mllm.requires_grad_(False)
    encoder = load_encoder(settings.encoder_type, settings.sam_ckpt)
    segmentation = new_segmentation(encoder, settings, mllm.hidden_size, ("",) * 6)
    return MetaModel(mllm.use_one_precision(), segmentation, settings)


def lengths_of(model: MetaModel) -> Lengths:
    return Lengths(model.image_tokens, prompt_text=9, answer=7, questions_per_image=2)


def run_step(model: MetaModel, units: int) -> None:
    """Forward and backward on the CPU, without fused attention."""
    batch = meta_batch(model, lengths_of(model), units, CPU)
    with sdpa_kernel(SDPBackend.MATH):
        frozen = nullcontext() if model.trains_mllm else torch.no_grad()

        def mllm(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            with frozen:
                return model.mllm(*inputs)

        outputs = forward(mllm, model.segmentation, batch)
        loss_terms(outputs, batch, model.settings).total(model.settings, 0.0, batch).backward()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gradient_checkpointing": True},
        {"finetune": "full"},
        {"freeze_mllm": True},
        {"freeze_encoder": True},
        {"train_projector": True},
        {"batch_by_image": True, "data": "somewhere"},
        SHARING,
        {"prompt_tokens": "all"},
        {"segmentation_loss": "bce_dice"},
    ],
)
def test_flops_are_those_of_pytorchs_counter(small, sam: Path, more: dict[str, object]) -> None:
    settings = small_settings(small, sam, **more)
    real, planned = real_model(settings), meta_model(settings, None)
    with FlopCounterMode(display=False) as counter:
        run_step(real, units=2)
    trace = trace_step(planned, meta_batch(planned, lengths_of(planned), 2, META), on_gpu=False)
    assert trace.flops.sum() == counter.get_total_flops() > 0


def test_a_depthwise_convolution_counts_once_for_each_gradient() -> None:
    flops = {}
    for groups in (1, 8):
        with torch.device("meta"):
            layer = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
            image = torch.zeros(2, 8, 10, 10, requires_grad=True)
        recorder = OpRecorder([image, *layer.parameters()])
        with recorder:
            result = layer(image)
            recorder.in_backward = True
            result.sum().backward()
        trace = recorder.trace()
        flops[groups] = [trace.flops[trace.phase == phase].sum() for phase in (0, 1)]
    assert flops[1] == [2 * 2 * 8 * 100 * 8 * 9, 2 * 2 * 2 * 8 * 100 * 8 * 9]
    assert flops[8] == [each / 8 for each in flops[1]]


def test_a_frozen_base_costs_four_flops_for_each_weight_and_token() -> None:
    """Two forward, two for the gradients of activations, none for those of weights."""
    settings = Settings(lora_targets="q_proj", lora_rank=1, freeze_encoder=True)
    model = meta_model(settings, None)
    lengths = Lengths(model.image_tokens, prompt_text=48, answer=40)
    phases = step_costs(model, lengths).flops_by(2)[Part.LANGUAGE_MODEL]
    layers = model.mllm.llava.model.language_model.layers
    weights = sum(
        p.numel() for n, p in layers.named_parameters() if "proj" in n and "lora" not in n
    )
    each = 2 * weights * 2 * lengths.total
    # The rest is attention. In the first layer, only what LoRA needs flows back.
    assert each < phases[Phase.FORWARD] < 1.04 * each
    assert 0.96 * each < phases[Phase.BACKWARD] < 1.08 * each
    assert phases[Phase.RECOMPUTE] == 0


def kept_on_cpu(module: nn.Module, compute: Callable[[torch.device], object]) -> int:
    """Bytes that a real forward pass leaves: what autograd saved and still holds, and results."""
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = weakref.ref(storage)
        return tensor.detach()  # so that the graph does not hold itself

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, sdpa_kernel(SDPBackend.MATH):
        results = compute(CPU)
    for result in tree_leaves(results):
        kept[result.untyped_storage().data_ptr()] = weakref.ref(result.untyped_storage())
    # What led to results that nobody took is free again.
    alive = {address: storage() for address, storage in kept.items() if address not in known}
    return sum(storage.nbytes() for storage in alive.values() if storage is not None)


def kept_on_meta(module: nn.Module, compute: Callable[[torch.device], object]) -> int:
    """The same, predicted."""
    recorder = OpRecorder([*module.parameters(), *module.buffers()])
    with recorder:
        results = compute(META)
        held = sum(recorder.held().values())
    assert results is not None
    return held


def images(device: torch.device) -> Tensor:
    return torch.zeros(2, 3, 96, 96, device=device)


@pytest.mark.parametrize("more", [{}, SHARING])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_language_model_keeps_what_is_predicted(
    small, checkpointing: bool, more: dict[str, object]
) -> None:
    settings = small_settings(small, gradient_checkpointing=checkpointing, **more)
    real, planned = real_model(settings), meta_model(settings, None)

    def compute(model: MetaModel) -> Callable[[torch.device], object]:
        def run(device: torch.device) -> object:
            batch = meta_batch(model, lengths_of(model), 2, device)
            shape = (*batch.input_ids.shape, model.mllm.hidden_size)
            embeddings = torch.zeros(shape, device=device)
            packing = batch.packing
            mask = (
                batch.attention_mask.long()
                if packing is None
                else shared_prefix_mask(packing.segments, packing.position_ids, None)
            )
            return model.mllm.llava.model.language_model(
                inputs_embeds=embeddings, attention_mask=mask
            ).last_hidden_state

        return run

    found = kept_on_cpu(real.mllm, compute(real))
    predicted = kept_on_meta(planned.mllm, compute(planned))
    assert predicted == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("family", ["tinysam", "sam"])
def test_encoder_keeps_what_is_predicted(small, sam: Path, family: str) -> None:
    settings = small_settings(small, sam if family == "sam" else None)
    real, planned = real_model(settings), meta_model(settings, None)
    found = kept_on_cpu(
        real.segmentation, lambda device: real.segmentation.image_encoder(images(device))
    )
    predicted = kept_on_meta(
        planned.segmentation, lambda device: planned.segmentation.image_encoder(images(device))
    )
    assert predicted == pytest.approx(found, rel=TOLERANCE)


def test_mask_decoder_keeps_what_is_predicted(small) -> None:
    settings = small_settings(small)
    real, planned = real_model(settings), meta_model(settings, None)

    def compute(model: MetaModel) -> Callable[[torch.device], object]:
        decoder, width = model.segmentation.mask_decoder, model.mllm.hidden_size

        def run(device: torch.device) -> object:
            features = torch.zeros(2, 256, 8, 8, device=device, requires_grad=True)
            prompt = torch.zeros(2, 20, width, device=device, requires_grad=True)
            return decoder(features, prompt, torch.ones(2, 20, device=device).bool(), (96, 96))

        return run

    found = kept_on_cpu(real.segmentation, compute(real))
    predicted = kept_on_meta(planned.segmentation, compute(planned))
    assert predicted == pytest.approx(found, rel=TOLERANCE)


def test_fused_attention_keeps_no_matrix_of_weights() -> None:
    with torch.device("meta"):
        q, k, v = (
            torch.zeros(2, 4, 100, 32, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"
        )
        mask = torch.ones(2, 1, 100, 100, dtype=torch.bool)
    recorder = OpRecorder([q, k, v, mask])
    with gpu_attention(), recorder:
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    held = sum(recorder.held().values())
    result = 2 * 4 * 100 * 32 * 2
    log_sums = 2 * 4 * 128 * 4  # rounded up to multiples of 32 queries
    bias = 2 * 100 * 112 * 2  # one for all heads, rows rounded up to 16 keys
    assert mixed.shape == q.shape
    assert result + log_sums + bias <= held < result + log_sums + bias + 1000


@pytest.mark.parametrize("units", [1, 5])
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}, SHARING])
def test_two_traces_give_all_others(small, units: int, more: dict[str, object]) -> None:
    settings = small_settings(small, precision="bf16", **more)
    model = meta_model(settings, None)
    costs = step_costs(model, lengths_of(model))
    direct = trace_step(model, meta_batch(model, lengths_of(model), units, META))
    near = pytest.approx if units == 1 else lambda value, rel: pytest.approx(value, rel=1e-9)
    assert costs.flops(units).sum() == direct.flops.sum()
    assert costs.moved(units).sum() == near(direct.moved.sum(), rel=0.05)
    assert sum(costs.peak(units).values()) == near(direct.live.sum(1).max(), rel=0.05)


def test_a_shared_sequence_has_the_image_once() -> None:
    model = meta_model(Settings(**SHARING), None)
    lengths = Lengths(model.image_tokens, prompt_text=48, answer=40, questions_per_image=3)
    batch = meta_batch(model, lengths, 2, META)
    assert batch.input_ids.shape == (2, 576 + 3 * 88)
    assert batch.packing.prompt_index.shape == (6, 576 + 48)
    apart = meta_model(dataclasses.replace(model.settings, share_image_prefix=False), None)
    work = [
        step_costs(each, lengths).flops_by(2)[Part.LANGUAGE_MODEL][Phase.FORWARD]
        for each in (model, apart)
    ]
    # The rest is attention, which is a little more than in proportion.
    assert work[0] / work[1] == pytest.approx((576 + 3 * 88) / (3 * (576 + 88)), rel=0.02)


def test_checkpointing_keeps_less_and_computes_more(small) -> None:
    plain = small_settings(small)
    costs = {
        again: step_costs(
            meta_model(dataclasses.replace(plain, gradient_checkpointing=again), None),
            Lengths(16, 9, 7),
        )
        for again in (False, True)
    }
    of_language_model = [costs[again].peak(8)[Part.LANGUAGE_MODEL] for again in (False, True)]
    recomputed = costs[True].flops_by(8)[Part.LANGUAGE_MODEL]
    assert of_language_model[1] < of_language_model[0] / 2
    assert 0.5 < recomputed[Phase.RECOMPUTE] / recomputed[Phase.FORWARD] <= 1
