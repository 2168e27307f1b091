"""Questions that share the computation of their image: loss, masks and gradients stay the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prs_med.batch import Batch
from prs_med.config import LossSettings, ModelSettings
from prs_med.data.augment import Target
from prs_med.data.collate import Collator
from prs_med.data.images import load_image, load_mask
from prs_med.data.phantoms import phantom_texts
from prs_med.data.samples import Sample
from prs_med.model.llava_loading import choose_attention
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import Outputs, forward
from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med
from prs_med.model.trained_weights import load_trained
from tests.conftest import Small
from tests.unit.assembled import Assembled, assemble

LOSS = LossSettings()
OUTPUTS = ("mask_logits", "text_logits", "modality_logits")
QUESTIONS = {0: 1, 5: 3, 9: 2, 12: 3}
"""Number of questions about each image of the batch, by the number of its record."""
WORDS = ("Look:", "Well,", "I wonder:")


@pytest.fixture(scope="module")
def large(small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Images of 64 tokens, so that they are most of a sequence, as those of real models are."""
    folder = tmp_path_factory.mktemp("large") / "llava_med"
    write_llava_med(folder, phantom_texts(small.data), seed=2, size=TinyLlavaSize(image_size=112))
    return replace(small, llava_med=folder)


@pytest.fixture(scope="module")
def model(large: Small) -> Assembled:
    return assemble(large, train_projector=True)


def samples_of(model: Assembled, words: Sequence[str] = WORDS) -> list[Sample]:
    """Questions that begin with ``words``, and answers of different length."""
    samples: list[Sample] = []
    for number, questions in QUESTIONS.items():
        record = model.records[number]
        image, mask = load_image(record.image_path), load_mask(record.mask_path)
        targets = [
            Target(mask, f"{words[n]} {record.question}", " ".join([record.answer] * (n + 1)))
            for n in range(questions)
        ]
        rows = [f"{record.row_id}/{n}" for n in range(questions)]
        samples += model.preparation.samples(image, targets, rows, record.modality, 1.0, None)
    return samples


def apart(model: Assembled, samples: Sequence[Sample]) -> Batch:
    """A sequence for each sample."""
    return Collator(model.tokenizer.pad_token_id, model.settings.prompt_tokens)(list(samples))


def shared(model: Assembled, samples: Sequence[Sample]) -> Batch:
    """A sequence for each image."""
    collator = Collator(model.tokenizer.pad_token_id, model.settings.prompt_tokens, True)
    batch = collator(list(samples))
    assert batch.packing.segments.max(1).values.tolist() == list(QUESTIONS.values())
    return batch


def run(model: Assembled, batch: Batch) -> Outputs:
    return forward(model.mllm, model.segmentation, batch)


def loss_and_gradients(model: Assembled, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    trained = {n: p for n, p in model.parameters().items() if p.requires_grad}
    loss = loss_terms(run(model, batch), batch, LOSS).total(LOSS, 0, batch)
    found = torch.autograd.grad(loss, list(trained.values()))
    return loss.detach(), dict(zip(trained, found, strict=True))


def assert_same_outputs(model: Assembled, samples: Sequence[Sample], sharing: Batch) -> None:
    found, expected = run(model, sharing), run(model, apart(model, samples))
    for name in ("mask_logits", "text_logits", "modality_logits"):
        one, other = getattr(found, name), getattr(expected, name)
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * scale)


def assert_same_training(model: Assembled, samples: Sequence[Sample]) -> None:
    expected_loss, expected = loss_and_gradients(model, apart(model, samples))
    loss, found = loss_and_gradients(model, shared(model, samples))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        # Biases in front of a normalisation have none but rounding.
        error = (found[name] - gradient).norm()
        assert error <= 1e-5 * gradient.norm() + 1e-9 * whole, name


@torch.no_grad()
def test_outputs_are_those_of_samples_apart(model: Assembled) -> None:
    samples = samples_of(model)
    assert_same_outputs(model, samples, shared(model, samples))


def test_loss_and_every_gradient_are_those_of_samples_apart(model: Assembled) -> None:
    assert_same_training(model, samples_of(model))


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"finetune": "full"},
        {"prompt_tokens": "all"},
        {"freeze_encoder": True},
        {"load_4bit": True},
    ],
)
def test_so_they_are_with_other_settings(large: Small, changes: dict[str, object]) -> None:
    model = assemble(large, lora_dropout=0.0, decoder_dropout=0.0, **changes)
    model.mllm.train()  # Checkpointing works in training mode alone.
    assert_same_training(model, samples_of(model))


@torch.no_grad()
def test_so_they_are_with_a_sliding_window(large: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than the prefix, so that a question sees the last part of it alone."""
    model = assemble(large)
    samples = samples_of(model)
    without = run(model, apart(model, samples)).text_logits
    monkeypatch.setattr(model.mllm.llava.config.text_config, "sliding_window", 9)
    assert_same_outputs(model, samples, shared(model, samples))
    assert (run(model, apart(model, samples)).text_logits - without).abs().max() > 1e-3


@torch.no_grad()
def test_prompts_that_differ_before_the_image_are_computed_apart(model: Assembled) -> None:
    samples = samples_of(model)
    text = samples[2].text
    other = replace(
        text, ids=(text.ids[0], text.ids[-2], *text.ids[1:]), prompt_length=text.prompt_length + 1
    )
    samples[2] = replace(samples[2], text=other)
    batch = Collator(model.tokenizer.pad_token_id, "question", True)(samples)
    rows = batch.packing.prompt_index[:, 0] // batch.input_ids.shape[1]
    assert rows.tolist().count(rows[2]) == 1
    assert len(rows.unique()) < len(batch)
    assert_same_outputs(model, samples, batch)


@torch.no_grad()
def test_a_question_changes_nothing_for_the_others(model: Assembled) -> None:
    """Not a bit of it, whether it stands before them in the sequence or behind."""
    before = shared(model, samples_of(model))
    after = shared(model, samples_of(model, (WORDS[0], "Now,", WORDS[2])))
    assert before.input_ids.shape == after.input_ids.shape
    changed = {2, 5, 7}  # each second question about an image
    one, other = run(model, before), run(model, after)
    for sample in range(len(before)):
        same = sample not in changed
        assert torch.equal(one.mask_logits[sample], other.mask_logits[sample]) is same
        of_sample = before.label_sample == sample
        assert torch.equal(one.text_logits[of_sample], other.text_logits[of_sample]) is same


@torch.no_grad()
def test_the_language_model_sees_each_image_once(model: Assembled) -> None:
    seen: list[torch.Size] = []
    first_layer = model.mllm.llava.model.language_model.layers[0]
    handle = first_layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    samples = samples_of(model)
    run(model, shared(model, samples))
    run(model, apart(model, samples))
    handle.remove()
    (images, longer, width), (questions, longest, _) = seen
    assert (images, questions, width) == (4, 9, model.mllm.hidden_size)
    assert images * longer < questions * longest


def test_flash_attn_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert choose_attention(ModelSettings()) == "flash_attention_2"
    assert choose_attention(ModelSettings(share_image_prefix=True)) == "sdpa"


def test_trained_weights_are_used_with_any_attention(model: Assembled, tmp_path: Path) -> None:
    trained_so = replace(
        model.settings, data_root="", data="a", batch_by_image=True, share_image_prefix=True
    )
    replace(model, settings=trained_so).save(tmp_path / "best")
    assert not load_trained(tmp_path / "best").settings.share_image_prefix
