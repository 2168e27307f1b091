"""Answers and masks from images and questions, without any reference answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from prs_med.model.mllm import Mllm
from prs_med.model.segmentation import SegmentationBranch


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen."""

    max_new_tokens: int
    """Answers that have not ended by then are cut."""
    temperature: float = 0.0
    """0 takes the likeliest token; else logits are divided by it and a token is drawn."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Another seed draws other tokens."""


@dataclass(frozen=True)
class Predictions:
    """What the model says about B questions."""

    mask_logits: Tensor
    """(B, 1, S, S) float32."""
    answers: list[tuple[int, ...]]
    """Token ids of each answer, without the end token."""


@torch.no_grad()
def predict(
    mllm: Mllm,
    segmentation: SegmentationBranch,
    prompts: list[tuple[int, ...]],
    image_vlm: Tensor,
    image_seg: Tensor,
    *,
    pad_token: int,
    end_token: int,
    sampling: Sampling,
    draws: Sequence[Random] = (),
    any_open: Callable[[bool], bool] = bool,
) -> Predictions:
    """One prefill gives the mask; decoding goes on from its cache and gives the answer.

    Args:
        prompts: token ids of image and question, as :class:`prs_med.data.prompt.PromptEncoder`
            makes them.
        image_vlm: (B, 3, V, V) uint8.
        image_seg: (B, 3, S, S) uint8.
        draws: where tokens are drawn, B sources of randomness, one for each question.
        any_open: whether decoding goes on, given before each token whether an answer of these has
            not ended; by default, just that. Where processes hold the weights in parts (ZeRO-3),
            all must decode until the last answer of any of them has ended, and so agree on it.
    """
    device = image_vlm.device
    input_ids, mask = _pad_left(prompts, pad_token, device)
    prefill = mllm.prefill(input_ids, mask, image_vlm)
    hidden = prefill.last_hidden_state
    height, width = image_seg.shape[-2:]
    mask_logits, _ = segmentation(image_seg, hidden, mask, (height, width))
    answers = _decode(
        *(mllm, hidden[:, -1:], mask, prefill.past_key_values),
        *(end_token, sampling, draws, any_open),
    )
    return Predictions(mask_logits, answers)


def _pad_left(
    prompts: list[tuple[int, ...]], pad_token: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_token)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = True
    return ids.to(device), mask.to(device)


def _decode(
    mllm: Mllm,
    last_hidden: Tensor,
    mask: Tensor,
    cache: Any,
    end_token: int,
    sampling: Sampling,
    draws: Sequence[Random],
    any_open: Callable[[bool], bool],
) -> list[tuple[int, ...]]:
    answers: list[list[int]] = [[] for _ in range(len(mask))]
    open_rows = set(range(len(mask)))
    for length in range(1, sampling.max_new_tokens + 1):
        token = choose_tokens(mllm.llava.lm_head(last_hidden[:, -1]), sampling, draws)
        for row, value in enumerate(token[:, 0].tolist()):
            if row in open_rows:
                if value == end_token:
                    open_rows.discard(row)
                else:
                    answers[row].append(value)
        if length == sampling.max_new_tokens or not any_open(bool(open_rows)):
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = mllm.decode(token, mask, cache)
        last_hidden, cache = output.last_hidden_state, output.past_key_values
    return [tuple(answer) for answer in answers]


def choose_tokens(logits: Tensor, sampling: Sampling, draws: Sequence[Random]) -> Tensor:
    """The next token of each row, (B, 1) int64, from its (B, V) logits.

    A row that is drawn takes one number from its own source, whatever the rows beside it, and
    tokens share the numbers from 0 to 1 in the order of their ids: where rounding changes which of
    two is the likelier, almost every number still names the same token.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    # A token is left out if those before it have enough probability already.
    left_out = ordered.cumsum(-1) - ordered >= sampling.top_p
    shares = probabilities.masked_fill(left_out.scatter(-1, tokens, left_out), 0)
    reached = shares.cumsum(-1, dtype=torch.float64)
    total = reached[:, -1:]
    numbers = torch.tensor([[source.random()] for source in draws]).to(total)
    drawn = (reached <= numbers * total).sum(-1, keepdim=True)
    # The last token that has a share, should the product be rounded up to the total.
    return torch.minimum(drawn, (reached < total).sum(-1, keepdim=True))
