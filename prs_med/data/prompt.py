"""From question and answer to token ids, as the models were trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prs_med.batch import IMAGE_TOKEN
from prs_med.data.records import DataError


@dataclass(frozen=True)
class Template:
    """Text around the image, the question and the answer."""

    before_image: str
    before_question: str
    after_question: str


TEMPLATES = {
    # The text that the released PRS-Med training code writes.
    "released": Template("", "\n### User: ", " \n### Assistant: \n"),
    # LLaVA-Med v1.5's conversation form 'mistral_instruct'.
    "llava_med": Template("[INST] ", "\n", " [/INST] "),
}


_ROOM = 4
"""The end token, and the space that SentencePiece may put in front of a text."""


@dataclass(frozen=True)
class EncodedText:
    """Token ids of one sample; the first ``prompt_length`` are image and question."""

    ids: tuple[int, ...]
    prompt_length: int


class PromptEncoder:
    """Turns questions and answers into token ids with the image in its place.

    Text from data stays text: ``</s>`` in a question or an answer gives the tokens of these four
    letters, whatever the tokenizer is set to. Only the end token that :meth:`encode` adds ends an
    answer.
    """

    def __init__(self, tokenizer: Any, template: str, image_tokens: int, max_length: int) -> None:
        """``tokenizer`` is a transformers tokenizer; ``image_tokens`` the number of features that
        the vision tower gives for one image."""
        self._tokenizer = tokenizer
        self._template = TEMPLATES[template]
        self._image_tokens = image_tokens
        self._max_length = max_length

    def prompt(self, question: str) -> tuple[int, ...]:
        """Ids of start token, image and question."""
        template = self._template
        head = self._ids(template.before_image)
        return (
            *head,
            *[IMAGE_TOKEN] * self._image_tokens,
            *self._without_start(self._question_text(question)),
        )

    def encode(self, question: str, answer: str, where: str) -> EncodedText:
        """Ids of prompt, answer and end token.

        Raises:
            DataError: if the sequence is longer than allowed; ``where`` names the row.
        """
        prompt = self.prompt(question)
        ids = (*prompt, *self._answer(question, answer), self._tokenizer.eos_token_id)
        if len(ids) > self._max_length:
            raise DataError(
                f"{where}: {len(ids)} tokens with the image's {self._image_tokens}, more than "
                f"--max_length {self._max_length}; shorten the text or raise --max_length"
            )
        return EncodedText(ids, len(prompt))

    def fits(self, text_bytes: int) -> bool:
        """Whether a question and its answer of so many UTF-8 bytes are short enough for certain:
        a token stands for one byte at least."""
        return len(self.prompt("")) + text_bytes + _ROOM <= self._max_length

    def _question_text(self, question: str) -> str:
        return f"{self._template.before_question}{question}{self._template.after_question}"

    def _answer(self, question: str, answer: str) -> list[int]:
        # Tokenised behind the question, as the models saw it: on its own, the answer would start
        # with another token (SentencePiece puts a space in front of a text).
        before = self._without_start(self._question_text(question))
        whole = self._without_start(self._question_text(question) + answer)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self._without_start(answer)

    def _without_start(self, text: str) -> list[int]:
        ids = self._ids(text)
        return ids[1:] if ids and ids[0] == self._tokenizer.bos_token_id else ids

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, split_special_tokens=True).input_ids)
