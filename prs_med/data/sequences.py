"""The sequences of a batch for the language model, as tensors: one sample in each, or several that
share what they begin with.

::

    prefix       | own tokens of a sample | own tokens of another  | ...
    <s> image    | question answer </s>   | question answer </s>   |
    0 1 2 ... p-1  p p+1 ...                p p+1 ...                  position_ids
    0 0 0 ... 0    1 1 ...                  2 2 ...                    segments

A sample alone has all its tokens to itself: a prefix of length 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prs_med.batch import PADDING, PREFIX
from prs_med.data.prompt import EncodedText


@dataclass(frozen=True)
class TokenSequence:
    """Which samples lie in one sequence."""

    image: int
    """Their image's place in the batch."""
    prefix: int
    """How many of their first tokens all of them share; none has fewer."""
    samples: tuple[int, ...]
    """Their places in the batch, in the order in which their own tokens follow."""

    def own_lengths(self, texts: Sequence[EncodedText]) -> list[int]:
        """Tokens that each sample has to itself."""
        return [len(texts[sample].ids) - self.prefix for sample in self.samples]

    def length(self, texts: Sequence[EncodedText]) -> int:
        """Tokens of all."""
        return self.prefix + sum(self.own_lengths(texts))


@dataclass(frozen=True)
class LaidOut:
    """R sequences padded on the right to the longest one, T tokens."""

    input_ids: Tensor
    """(R, T) int64."""
    position_ids: Tensor
    """(R, T) int64, 0 at padding."""
    segments: Tensor
    """(R, T) int64: ``PREFIX``, 1 and up for the samples of a sequence, or ``PADDING``."""
    places: list[Tensor]
    """Of each sample: where its tokens, prefix included, lie in the flattened (R·T) sequences."""


def lay_out(
    texts: Sequence[EncodedText], sequences: Sequence[TokenSequence], pad_token: int
) -> LaidOut:
    """Write the tokens of samples, each of which is in one sequence, where they belong."""
    shape = (len(sequences), max(sequence.length(texts) for sequence in sequences))
    input_ids = torch.full(shape, pad_token)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    segments = torch.full(shape, PADDING)
    places: dict[int, Tensor] = {}
    for row, sequence in enumerate(sequences):
        prefix, start = sequence.prefix, sequence.prefix
        segments[row, :prefix] = PREFIX
        for number, sample in enumerate(sequence.samples, start=1):
            ids = torch.tensor(texts[sample].ids)
            end = start + len(ids) - prefix
            segments[row, start:end] = number
            places[sample] = row * shape[1] + torch.cat(
                [torch.arange(prefix), torch.arange(start, end)]
            )
            input_ids.view(-1)[places[sample]] = ids
            position_ids.view(-1)[places[sample]] = torch.arange(len(ids))
            start = end
    return LaidOut(
        input_ids, position_ids, segments, [places[sample] for sample in range(len(texts))]
    )
