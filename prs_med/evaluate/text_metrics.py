"""How much a generated answer resembles the reference answer, word by word.

These measures see words, not places: "top left" for "bottom left" costs little, and "upper left"
for "top left" as much. Whether the place is right is told by
:mod:`prs_med.evaluate.position_scores`.

All values are from 0 to 1, also where a library counts to 100. Words of ROUGE and METEOR are runs
of the letters a to z and digits, in small letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class TextScores:
    """Likeness of one answer to its reference."""

    bleu: float
    """BLEU-4 of one sentence by sacrebleu, over the lengths of n-grams that the answer has
    (effective order), smoothed exponentially. The BLEU of a data set is `corpus_bleu`, not the mean
    of these."""
    rouge1: float | None
    """F1 of single words by rouge-score, without stemming. This and what follows is None where the
    reference has no word of the letters a to z and digits, as in other scripts."""
    rouge2: float | None
    """F1 of pairs of words; 0 where one of the texts has a single word."""
    rouge_l: float | None
    """F1 of the longest common subsequence of words."""
    meteor_exact_stem: float | None
    """METEOR by NLTK (alpha 0.9, beta 3, gamma 0.5) with its first two stages, same words and same
    Porter stems. The third stage, synonyms, needs the WordNet corpus, which no installed package
    holds; it is left out rather than downloaded, or used only where it happens to lie. So values
    are up to the synonyms lower than those of the full METEOR, and are named apart."""


def text_scores(answer: str, reference: str) -> TextScores:
    """Compare an answer with its reference; an empty answer scores 0 throughout."""
    bleu = _bleu(effective_order=True).sentence_score(answer, [reference]).score / 100
    answered, expected = _words(answer), _words(reference)
    if not expected:
        return TextScores(bleu, None, None, None, None)
    if not answered:
        return TextScores(bleu, 0.0, 0.0, 0.0, 0.0)
    rouge = _rouge().score(reference, answer)
    return TextScores(
        bleu=bleu,
        rouge1=float(rouge["rouge1"].fmeasure),
        rouge2=float(rouge["rouge2"].fmeasure),
        rouge_l=float(rouge["rougeL"].fmeasure),
        meteor_exact_stem=float(single_meteor_score(expected, answered, wordnet=_NoSynonyms())),
    )


def corpus_bleu(answers: Sequence[str], references: Sequence[str]) -> float | None:
    """BLEU-4 of a data set, its n-grams counted over all answers; None where there is no answer.

    Raises:
        ValueError: not one reference for each answer.
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers need as many references, not {len(references)}")
    if not answers:
        return None
    return _bleu(effective_order=False).corpus_score(answers, [references]).score / 100


def bleu_signature() -> str:
    """How `corpus_bleu` counts, in sacrebleu's own words, to be reported beside it."""
    bleu = BLEU()
    bleu.corpus_score(["a"], [["a"]])
    return str(bleu.get_signature())


class _NoSynonyms:
    """Stands for WordNet in NLTK's METEOR and knows no word, so that nothing is looked up."""

    def synsets(self, word: str) -> list[object]:
        return []


@cache
def _bleu(effective_order: bool) -> BLEU:
    return BLEU(effective_order=effective_order)


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(ROUGE_KINDS, use_stemmer=False)


@cache
def _tokenizer() -> DefaultTokenizer:
    return DefaultTokenizer(use_stemmer=False)


def _words(text: str) -> list[str]:
    return list(_tokenizer().tokenize(text))
