"""Which samples share a sequence of the language model: those of one image, so that what their
prompts begin with, the image above all, is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from prs_med.batch import IMAGE_TOKEN
from prs_med.data.prompt import EncodedText
from prs_med.data.sequences import TokenSequence


def shared_sequences(texts: Sequence[EncodedText], images: Sequence[int]) -> list[TokenSequence]:
    """Put the samples of a batch into sequences, so that all of them, padded to the longest, have
    the fewest tokens; never more than with a sequence for each sample.

    An image with many more questions than the others gets several sequences: in a single one it
    would stretch them all with padding.

    Args:
        texts: of each sample.
        images: place in the batch of the image that each sample asks about.
    """
    groups = list(_groups(texts, images))
    alone = max(len(text.ids) for text in texts)
    # The best limit is the length of some sequence, and each is a run of its group's samples.
    limits = {max(alone, length) for group in groups for length in _lengths_of_runs(group, texts)}
    layouts = (_cut(groups, texts, limit) for limit in sorted(limits))
    return min(layouts, key=lambda layout: len(layout) * max(s.length(texts) for s in layout))


def _groups(texts: Sequence[EncodedText], images: Sequence[int]) -> Iterator[TokenSequence]:
    """The samples that may share a sequence: of one image, and equal up to the end of it."""
    members: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for sample, (text, image) in enumerate(zip(texts, images, strict=True)):
        members.setdefault((image, _through_the_image(text)), []).append(sample)
    for (image, _), samples in members.items():
        yield TokenSequence(image, _common([texts[s] for s in samples]), tuple(samples))


def _through_the_image(text: EncodedText) -> tuple[int, ...]:
    last = max((place for place, token in enumerate(text.ids) if token == IMAGE_TOKEN), default=-1)
    return text.ids[: last + 1]


def _common(texts: Sequence[EncodedText]) -> int:
    """Tokens that all prompts begin with. The last token of a prompt is never one of them: it
    predicts the answer, so each sample keeps one of its own."""
    length = min(text.prompt_length for text in texts) - 1
    columns = zip(*(text.ids[:length] for text in texts), strict=True)
    return next((place for place, tokens in enumerate(columns) if len({*tokens}) > 1), length)


def _lengths_of_runs(group: TokenSequence, texts: Sequence[EncodedText]) -> Iterator[int]:
    own = group.own_lengths(texts)
    for first in range(len(own)):
        yield from (group.prefix + length for length in accumulate(own[first:]))


def _cut(
    groups: Sequence[TokenSequence], texts: Sequence[EncodedText], limit: int
) -> list[TokenSequence]:
    """The groups in as few sequences of at most ``limit`` tokens as keep the samples' order; no
    sample alone exceeds it."""
    sequences = []
    for group in groups:
        runs: list[list[int]] = []
        length = limit
        for sample, own in zip(group.samples, group.own_lengths(texts), strict=True):
            if length + own > limit:
                runs.append([])
                length = group.prefix
            runs[-1].append(sample)
            length += own
        sequences += [replace(group, samples=tuple(run)) for run in runs]
    return sequences
