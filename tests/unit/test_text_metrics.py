"""Likeness of texts against NLTK's BLEU and readings by hand."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

import nltk.corpus
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu
from nltk.translate.bleu_score import sentence_bleu

from prs_med.evaluate.text_metrics import bleu_signature, corpus_bleu, text_scores

REFERENCE = "The tumor is located in the top left of the image, near the center."
ANSWERS = (
    REFERENCE,
    "The tumor is located in the bottom left of the image.",
    "The tumor is located in the top left.",
    "It lies in the top left of the image, near the center of it.",
    "I see a tumor in the top left of the image",
)
texts = st.lists(
    st.sampled_from(["tumor", "tumors", "left", "the", "in", "is", "image"]), min_size=1, max_size=9
).map(" ".join)


def tokens(text: str) -> list[str]:
    """As sacrebleu's 13a splits these texts."""
    return re.findall(r"\w+|[.,]", text)


def f1(common: int, answered: int, expected: int) -> float:
    return 2 * common / (answered + expected) if common else 0.0


def subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            same = table[i][j] + 1
            table[i + 1][j + 1] = same if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.parametrize("answer", ANSWERS)
def test_bleu_of_a_sentence_is_that_of_nltk(answer: str) -> None:
    expected = sentence_bleu([tokens(REFERENCE)], tokens(answer))
    assert 0.2 < expected <= 1
    assert text_scores(answer, REFERENCE).bleu == pytest.approx(expected)


def test_bleu_of_a_data_set_is_that_of_nltk_and_not_the_mean_of_its_sentences() -> None:
    references = [REFERENCE] * len(ANSWERS)
    expected = nltk_corpus_bleu([[tokens(REFERENCE)]] * len(ANSWERS), list(map(tokens, ANSWERS)))
    found = corpus_bleu(ANSWERS, references)
    assert found == pytest.approx(expected)
    mean = sum(text_scores(answer, REFERENCE).bleu for answer in ANSWERS) / len(ANSWERS)
    assert abs(found - mean) > 0.01


def test_bleu_of_a_short_answer_by_hand() -> None:
    # Two of two words and one of one pair, five words expected.
    found = text_scores("top left", "in the top left .").bleu
    assert found == pytest.approx(math.exp(1 - 5 / 2))


@settings(max_examples=100)
@given(texts, texts)
def test_rouge_is_its_definition(answer: str, reference: str) -> None:
    a, b = answer.split(), reference.split()
    scores = text_scores(answer.upper(), reference)
    common = sum((Counter(a) & Counter(b)).values())
    assert scores.rouge1 == pytest.approx(f1(common, len(a), len(b)))
    pairs = [Counter(pairwise(words)) for words in (a, b)]
    common = sum((pairs[0] & pairs[1]).values())
    assert scores.rouge2 == pytest.approx(f1(common, len(a) - 1, len(b) - 1))
    assert scores.rouge_l == pytest.approx(f1(subsequence(a, b), len(a), len(b)))


def meteor(matches: int, answered: int, expected: int, chunks: int) -> float:
    precision, recall = matches / answered, matches / expected
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the tumor is top left", "the tumor is top left", meteor(5, 5, 5, 1)),
        # Two chunks: "the tumor" and "left".
        ("the tumor is bottom left", "the tumor lies top left", meteor(3, 5, 5, 2)),
        # Same stem, in small letters and capitals.
        ("The tumor LOCATES left", "the tumor located left", meteor(4, 4, 4, 1)),
        ("tumors", "the tumor", meteor(1, 1, 2, 1)),
        # Only WordNet would know these for synonyms.
        ("upper", "top", 0),
        ("big image", "large image", meteor(1, 2, 2, 1)),
    ],
)
def test_meteor_by_hand(answer: str, reference: str, expected: float) -> None:
    assert text_scores(answer, reference).meteor_exact_stem == pytest.approx(expected)
    # Nothing looked for a corpus, which NLTK would want downloaded.
    assert type(nltk.corpus.wordnet).__name__ == "LazyCorpusLoader"


@pytest.mark.parametrize("answer", ["", "  ", "?!", "\n"])
def test_an_answer_without_words_scores_nothing(answer: str) -> None:
    scores = text_scores(answer, REFERENCE)
    assert (scores.bleu, scores.rouge1, scores.rouge2) == (0, 0, 0)
    assert (scores.rouge_l, scores.meteor_exact_stem) == (0, 0)


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_any_answer_has_scores_from_0_to_1(answer: str) -> None:
    scores = text_scores(answer, REFERENCE)
    for value in vars(scores).values():
        assert 0 <= value <= 1 + 1e-9


def test_a_reference_in_another_script_has_bleu_alone() -> None:
    reference = "опухоль находится слева вверху на снимке"
    same, other = text_scores(reference, reference), text_scores("top left", reference)
    assert (same.bleu, other.bleu) == pytest.approx((1, 0))
    for scores in (same, other):
        assert {scores.rouge1, scores.rouge2, scores.rouge_l, scores.meteor_exact_stem} == {None}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="2 answers need as many references, not 1"):
        corpus_bleu(["a", "b"], ["a"])
    assert corpus_bleu([], []) is None


def test_the_signature_says_how_bleu_counts() -> None:
    assert "tok:13a" in bleu_signature()
    assert "case:mixed" in bleu_signature()
