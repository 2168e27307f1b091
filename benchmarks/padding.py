"""How much of a batch is padding, and what sorting or packing sequences could gain at most.

    python benchmarks/padding.py --tokenizer DIR

No model runs: questions and answers as `launch/data.py annotate` words them are tokenised (DIR has
LLaVA-Med's tokenizer), with 576 positions for each image. Three kinds of images: with one question;
with three that share their image's prefix (--share_image_prefix); with one to five, equally often.
Two orders: as the shuffle gives them, and with each global batch of 64 images sorted by their
tokens before it is dealt out as micro-batches. Packing would leave nothing but the tokens
themselves: `gain` is the positions that training computes over these, so how much faster packing
could be at most.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prs_med.data.position import ZONES, Position
from prs_med.data.prompt import EncodedText, PromptEncoder
from prs_med.data.question_templates import KIND_QUESTIONS, STRUCTURES, questions_and_answers
from prs_med.data.shared_prefix import shared_sequences

IMAGE_TOKENS = 576
IMAGES, GLOBAL_BATCH = 3200, 64
BATCHES = (4, 8, 16)
KINDS = {"one question": (1, 1), "three questions": (3, 3), "one to five": (1, 5)}
"""Least and most questions about an image."""
Texts = list[EncodedText]
"""All that is asked about one image."""


def main() -> None:
    """Print the table."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--tokenizer", required=True, help="a folder with LLaVA-Med's tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(made.parse_args().tokenizer)
    encoder = PromptEncoder(tokenizer, "released", IMAGE_TOKENS, 4096)
    print(
        "| images | tokens of an image | micro-batch | gain | gain, sorted |\n|---|---|---|---|---|"
    )
    for kind, (least, most) in KINDS.items():
        images = texts_of_images(encoder, least, most)
        tokens = np.array([positions([texts]) for texts in images])
        for batch in BATCHES:
            gains = (gain(each, batch, tokens.sum()) for each in (images, by_length(images)))
            cells = (f"{each:.3f}" for each in gains)
            print(
                f"| {kind} | {tokens.min()} to {tokens.max()}, mean {tokens.mean():.0f} "
                f"| {batch} | {' | '.join(cells)} |"
            )


def texts_of_images(encoder: PromptEncoder, least: int, most: int) -> list[Texts]:
    """In random order."""
    draw = np.random.default_rng(0)
    names, kinds = sorted(set(STRUCTURES.values())), sorted(KIND_QUESTIONS)
    found = []
    for image in range(IMAGES):
        zone = str(draw.choice(ZONES))
        near = zone == "center" or bool(draw.integers(2))
        texts = questions_and_answers(
            str(draw.choice(names)),
            "",
            str(draw.choice(kinds)),
            Position(zone, near),
            str(image),
            int(draw.integers(least, most + 1)),
        )
        found.append([encoder.encode(*text, where="") for text in texts])
    return found


def positions(images: Sequence[Texts]) -> int:
    """That a micro-batch of these images has, padding included, laid out as training does."""
    texts = [text for each in images for text in each]
    owners = [place for place, each in enumerate(images) for _ in each]
    sequences = shared_sequences(texts, owners)
    return len(sequences) * max(sequence.length(texts) for sequence in sequences)


def by_length(images: Sequence[Texts]) -> list[Texts]:
    """Each global batch sorted."""
    globals_ = (images[start : start + GLOBAL_BATCH] for start in range(0, IMAGES, GLOBAL_BATCH))
    return [each for batch in globals_ for each in sorted(batch, key=lambda one: positions([one]))]


def gain(images: Sequence[Texts], batch: int, tokens: int) -> float:
    """Positions of all micro-batches over tokens."""
    batches = (images[start : start + batch] for start in range(0, IMAGES, batch))
    return sum(positions(each) for each in batches) / tokens


if __name__ == "__main__":
    main()
