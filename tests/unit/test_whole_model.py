"""The whole computation: language model, mask decoder and modality head on batches of samples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prs_med.batch import UNKNOWN_MODALITY, Batch
from prs_med.config import LossSettings
from prs_med.data.collate import Collator
from prs_med.data.records import Record
from prs_med.evaluate.answered import answer_all
from prs_med.evaluate.answering import Answer, Answerer
from prs_med.evaluate.generate import Predictions, Sampling, predict
from prs_med.evaluate.questions import AnnotatedQuestions
from prs_med.model.objective import LossTerms, loss_terms
from prs_med.model.prs_med import Outputs, forward
from prs_med.model.trained_weights import TrainedModel
from tests.unit.assembled import Assembled, assemble

LOSS = LossSettings()
LONG_QUESTION = "Where is the tumor, the nodule, the opacity or the polyp located? " * 3
LONG_ANSWER = "The tumor is located in the top left of the image, and nowhere else at all. " * 2


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


@pytest.fixture(scope="module")
def records(model: Assembled) -> list[Record]:
    """Four modalities, and texts of very different length."""
    first = {record.modality: record for record in reversed(model.records)}
    plain, talkative, curious, terse = (first[modality] for modality in model.modalities)
    return [
        plain,
        replace(talkative, answer=LONG_ANSWER),
        replace(curious, question=LONG_QUESTION),
        replace(terse, question="Where?", answer="Left."),
    ]


def outputs(model: Assembled, batch: Batch) -> Outputs:
    return forward(model.mllm, model.segmentation, batch)


def run(model: Assembled, records: Sequence[Record]) -> tuple[Outputs, LossTerms]:
    batch = model.batch(records)
    out = outputs(model, batch)
    return out, loss_terms(out, batch, LOSS)


def total(model: Assembled, batch: Batch) -> Tensor:
    return loss_terms(outputs(model, batch), batch, LOSS).total(LOSS, epoch=0, batch=batch)


def answer(
    model: Assembled, records: Sequence[Record], max_new_tokens: int = 12, end_token: int = -1
) -> Predictions:
    """Answers that end only at ``end_token``; by default at none."""
    batch = model.batch(records)
    return predict(
        model.mllm,
        model.segmentation,
        [model.prompts.prompt(record.question) for record in records],
        batch.image_vlm,
        batch.image_seg,
        pad_token=model.tokenizer.pad_token_id,
        end_token=end_token,
        sampling=Sampling(max_new_tokens),
    )


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch_mates(model, records) -> None:
    together, terms = run(model, records)
    for row, record in enumerate(records):
        alone, own = run(model, [record])
        torch.testing.assert_close(
            together.mask_logits[row], alone.mask_logits[0], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            together.modality_logits[row], alone.modality_logits[0], rtol=1e-5, atol=1e-5
        )
        for name in ("segmentation", "text", "modality"):
            torch.testing.assert_close(
                getattr(terms, name)[row], getattr(own, name)[0], rtol=1e-5, atol=1e-5
            )


@torch.no_grad()
def test_other_batch_mates_of_the_same_length_change_no_bit_in_bf16(small, records) -> None:
    model = assemble(small, precision="bf16")
    one, _ = run(model, records)
    other, _ = run(model, [*records[:3], records[0]])
    assert one.mask_logits.dtype == torch.float32
    assert torch.equal(one.mask_logits[:3], other.mask_logits[:3])
    assert not torch.equal(one.mask_logits[3], other.mask_logits[3])


@torch.no_grad()
def test_the_mask_does_not_depend_on_the_answer(model, records) -> None:
    texts = ["Top left.", LONG_ANSWER, "none"]
    asked = [replace(records[0], answer=text) for text in texts]
    masks = [run(model, [record])[0].mask_logits for record in asked]
    for other in masks[1:]:
        torch.testing.assert_close(other, masks[0], rtol=1e-5, atol=1e-5)
    seeing_all = replace(model, settings=replace(model.settings, prompt_tokens="all"))
    masks = [run(seeing_all, [record])[0].mask_logits for record in asked]
    for other in masks[1:]:
        assert (other - masks[0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_mask_depends_on_the_question(model, records) -> None:
    masks = [
        run(model, [replace(records[0], question=text)])[0].mask_logits
        for text in ("Where is the tumor?", "Where is the polyp?")
    ]
    assert (masks[0] - masks[1]).abs().max() > 1e-3


@torch.no_grad()
def test_inference_draws_the_mask_that_was_trained(model, records) -> None:
    trained, _ = run(model, records)
    predicted = answer(model, records, max_new_tokens=1)
    torch.testing.assert_close(predicted.mask_logits, trained.mask_logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_inference_draws_the_mask_that_was_trained_in_bf16(small, records) -> None:
    model = assemble(small, precision="bf16")
    trained, _ = run(model, records)
    predicted = answer(model, records, max_new_tokens=1).mask_logits
    other = (trained.mask_logits[0] - trained.mask_logits[1]).abs().mean()
    assert (predicted - trained.mask_logits).abs().mean() < 0.1 * other


@torch.no_grad()
def test_text_loss_equals_all_logits_of_transformers_picked_by_hand(model, records) -> None:
    _, terms = run(model, records)
    for row, record in enumerate(records):
        batch = model.batch([record])
        text = model.prompts.encode(record.question, record.answer, record.row_id)
        logits = model.mllm.llava(
            inputs_embeds=model.mllm.embed(batch.input_ids, batch.image_vlm),
            attention_mask=batch.attention_mask.long(),
        ).logits[0]
        assert logits.shape[0] == len(text.ids)
        assert text.ids[-1] == model.tokenizer.eos_token_id
        surprise = [
            -logits[position - 1].log_softmax(-1)[text.ids[position]]
            for position in range(text.prompt_length, len(text.ids))
        ]
        expected = torch.stack(surprise).mean()
        torch.testing.assert_close(terms.text[row], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_one_forward_of_the_language_model_and_logits_of_supervised_tokens_only(
    model, records
) -> None:
    passes, head_inputs = [], []
    hooks = [
        model.mllm.llava.model.language_model.layers[0].register_forward_hook(
            lambda module, args, output: passes.append(args[0].shape)
        ),
        model.mllm.llava.lm_head.register_forward_hook(
            lambda module, args, output: head_inputs.append(args[0].shape)
        ),
    ]
    batch = model.batch(records)
    outputs(model, batch)
    for hook in hooks:
        hook.remove()
    width = model.mllm.hidden_size
    assert passes == [(*batch.input_ids.shape, width)]
    assert head_inputs == [(len(batch.labels), width)]


@pytest.mark.parametrize("part", [2, 1])
def test_the_loss_is_the_same_mean_however_the_batch_is_split(model, records, part: int) -> None:
    whole = total(model, model.batch(records))
    starts = range(0, len(records), part)
    parts = [total(model, model.batch(records[start : start + part])) for start in starts]
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole, rtol=1e-5, atol=1e-5)
    for side in (model.mllm, model.segmentation):
        trained = [p for p in side.parameters() if p.requires_grad]
        one, other = (
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained, retain_graph=True)])
            for loss in (whole, mean)
        )
        # Not number by number: rounding may carry an activation across the kink of a ReLU.
        assert (one - other).norm() < 0.01 * one.norm()


def backward(model: Assembled, batch: Batch) -> dict[str, Tensor | None]:
    parameters = model.parameters()
    for parameter in parameters.values():
        parameter.grad = None
    total(model, batch).backward()
    return {name: parameter.grad for name, parameter in parameters.items()}


def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one(model, records) -> None:
    gradients = backward(model, model.batch(records))
    trained = {name for name, p in model.parameters().items() if p.requires_grad}
    assert {name for name, gradient in gradients.items() if gradient is not None} == trained
    assert all(gradients[name].isfinite().all() for name in trained)
    moved = {name for name in trained if gradients[name].any()}
    assert {name for name in trained if "lora_" in name} <= moved
    assert {"segmentation.cls.2.weight", "segmentation.cls.2.bias"} <= moved
    for part in ("image_encoder", "mask_decoder"):
        assert any(name.startswith(f"segmentation.{part}.") for name in moved)
    assert {name.split(".")[0] for name in gradients if name not in trained} == {
        "mllm",
        "segmentation",
    }


def test_an_unknown_modality_trains_no_modality(model, records) -> None:
    known, unknown = records[:2], [replace(record, modality="never seen") for record in records[2:]]
    batch = model.batch(known + unknown)
    assert batch.modality.tolist()[2:] == [UNKNOWN_MODALITY] * 2
    mixed = backward(model, batch)
    name = "segmentation.cls.2.weight"
    # The mean is over four samples, and two of them say nothing.
    expected = backward(model, model.batch(known))[name] / 2
    torch.testing.assert_close(mixed[name], expected, rtol=1e-4, atol=1e-7)


def test_a_batch_without_any_known_modality_still_reaches_every_parameter(model, records) -> None:
    gradients = backward(model, model.batch([replace(r, modality=None) for r in records]))
    trained = {name for name, p in model.parameters().items() if p.requires_grad}
    assert all(gradients[name] is not None for name in trained)
    for name in ("segmentation.cls.2.weight", "segmentation.cls.2.bias"):
        assert not gradients[name].any()
    assert gradients["segmentation.mask_decoder.out_dec.weight"].any()
    assert all(gradients[name].any() for name in trained if "lora_" in name)


def test_a_frozen_encoder_gets_no_gradient_and_gives_the_same(small, model, records) -> None:
    frozen = assemble(small, freeze_encoder=True)
    frozen.segmentation.load_state_dict(model.segmentation.state_dict())
    frozen.mllm.load_state_dict(model.mllm.state_dict())
    expected = outputs(model, model.batch(records))
    found = outputs(frozen, frozen.batch(records))
    assert torch.equal(found.mask_logits, expected.mask_logits)
    assert torch.equal(found.modality_logits, expected.modality_logits)
    gradients = backward(frozen, frozen.batch(records))
    encoder = [name for name in gradients if name.startswith("segmentation.image_encoder.")]
    assert encoder
    assert all(gradients[name] is None for name in encoder)
    assert gradients["segmentation.mask_decoder.out_dec.weight"].any()
    assert gradients["segmentation.cls.2.weight"].any()


@torch.no_grad()
def without_cache(model: Assembled, record: Record, tokens: int) -> tuple[int, ...]:
    """Greedy answer, the whole sequence computed anew for every token."""
    image = model.batch([record]).image_vlm
    ids = list(model.prompts.prompt(record.question))
    start = len(ids)
    for _ in range(tokens):
        sequence = torch.tensor([ids])
        last = torch.tensor([len(ids) - 1])
        _, logits = model.mllm(sequence, torch.ones_like(sequence, dtype=torch.bool), image, last)
        ids.append(int(logits[0].argmax()))
    return tuple(ids[start:])


def test_decoding_with_cache_equals_decoding_without(model, records) -> None:
    lengths = {len(model.prompts.prompt(record.question)) for record in records}
    assert len(lengths) > 2
    expected = [without_cache(model, record, tokens=12) for record in records]
    assert len(set(expected)) > 1
    assert answer(model, records).answers == expected
    assert [answer(model, [record]).answers[0] for record in records] == expected


@pytest.mark.parametrize("row", range(4))
def test_an_answer_stops_before_the_end_token_and_the_others_go_on(model, records, row) -> None:
    free = answer(model, records).answers
    end = free[row][3]
    expected = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in free]
    assert len(expected[row]) <= 3
    assert any(len(tokens) > 3 for tokens in expected)
    assert answer(model, records, end_token=end).answers == expected


@pytest.mark.parametrize("limit", [1, 5])
def test_an_answer_is_cut_at_the_limit(model, records, limit: int) -> None:
    cut = answer(model, records, max_new_tokens=limit).answers
    assert cut == [tokens[:limit] for tokens in answer(model, records).answers]


def test_reference_answers_do_not_reach_the_predictions(model, records) -> None:
    trained = TrainedModel(
        model.mllm, model.segmentation, model.layout, model.settings, model.modalities
    )
    answerer = Answerer(trained, Sampling(max_new_tokens=12))
    root = Path(model.settings.data_root)
    told = answered(answerer, records, root)
    without = [replace(record, answer="No answer.", position="") for record in records]
    untold = answered(answerer, without, root)
    assert [one.text for one in told] == [one.text for one in untold]
    for one, other in zip(told, untold, strict=True):
        assert (one.probability == other.probability).all()


def answered(answerer: Answerer, records: Sequence[Record], root: Path) -> list[Answer]:
    with ThreadPoolExecutor(2) as pool:
        questions = AnnotatedQuestions(records, [], root)
        found = list(answer_all(answerer, questions, range(len(records)), 3, pool, strict=True))
    return [one.answer for one in found if one.answer is not None]


def test_padding_tokens_do_not_matter(model, records) -> None:
    dataset = model.dataset(records)
    samples = [dataset[index] for index in range(len(dataset))]
    pads = (model.tokenizer.pad_token_id, 77)
    with torch.no_grad():
        one, other = (outputs(model, Collator(pad, "question")(samples)) for pad in pads)
    assert torch.equal(one.mask_logits, other.mask_logits)
    assert torch.equal(one.text_logits, other.text_logits)
