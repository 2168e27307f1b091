"""Language models as judges of answers: yes or no to a question about each of them.

The published evaluation asks two chat models whether an answer is right. Here any chat model that
transformers can load is asked three questions, of which the first is about the place alone. A reply
that is neither yes nor no is counted as such: it is not yes, and it stays in the denominator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from prs_med.model.errors import CheckpointError


@dataclass(frozen=True)
class JudgePrompt:
    """A question to a judge."""

    name: str
    """Short name for tables."""
    text: str
    """With ``{question}``, ``{reference}`` and ``{answer}`` where these belong."""

    def about(self, case: JudgedCase) -> str:
        """The question about one answer. Braces in the texts are left alone."""
        return self.text.format(
            question=case.question, reference=case.reference, answer=case.answer
        )


@dataclass(frozen=True)
class JudgedCase:
    """One answer to be judged."""

    question: str
    reference: str
    answer: str
    """What the judged model said."""


_CASE = """

Question: {question}
Reference answer: {reference}
Given answer: {answer}

Reply with one word, Yes or No."""

POSITION_CORRECT = JudgePrompt(
    "position",
    "A student was asked where a structure lies in a medical image. Compare only the place that "
    "the two answers name. Words for the same place count as equal, for instance upper and top, "
    "lower and bottom, or middle and center. Disregard what the structure is called and any remark "
    "about it. "
    "Does the given answer name the same place as the reference answer?" + _CASE,
)
SAME_MEANING = JudgePrompt(
    "meaning",
    "Two answers to a question about a medical image are shown. Would a physician who reads one of "
    "them learn the same as from the other, even if they are worded differently? Say No if they "
    "contradict each other in any point." + _CASE,
)
COMPLETE = JudgePrompt(
    "completeness",
    "An answer to a question about a medical image is compared with a reference answer. Is every "
    "fact that the reference answer states (each structure, each place, and whether it is near the "
    "center) also stated, correctly, in the given answer? More facts than these do no harm."
    + _CASE,
)
PROMPTS = (POSITION_CORRECT, SAME_MEANING, COMPLETE)


@dataclass(frozen=True)
class Judgement:
    """What one judge said to one prompt about a sequence of answers."""

    judge: str
    prompt: str
    verdicts: tuple[bool | None, ...]
    """One for each answer: yes, no, or None where the reply is neither."""
    replies: tuple[str, ...]
    """What the judge wrote, as it was."""

    @classmethod
    def of(cls, judge: str, prompt: str, replies: Sequence[str]) -> Judgement:
        """The verdicts that the replies give."""
        return cls(judge, prompt, tuple(map(parse_verdict, replies)), tuple(replies))

    def only(self, chosen: Sequence[bool]) -> Judgement:
        """What was said about those answers for which ``chosen`` is true."""
        return Judgement(
            self.judge,
            self.prompt,
            tuple(verdict for verdict, is_in in zip(self.verdicts, chosen, strict=True) if is_in),
            tuple(reply for reply, is_in in zip(self.replies, chosen, strict=True) if is_in),
        )

    @property
    def yes(self) -> int:
        """How many answers were found right."""
        return self.verdicts.count(True)

    @property
    def no(self) -> int:
        """How many answers were found wrong."""
        return self.verdicts.count(False)

    @property
    def unparsed(self) -> int:
        """How many replies are neither yes nor no."""
        return self.verdicts.count(None)


_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
# What may stand before the verdict; "no doubt" is no verdict.
_OPENINGS = (
    r"(?:(?:the\s+|my\s+|final\s+)*(?:answer|verdict)(?:\s+is|\s*:)"
    r"|no\s+(?:doubt|question)|(?:without|beyond)\s+(?:a\s+|any\s+)?doubt|undoubtedly"
    r"|certainly|definitely|absolutely|of\s+course|clearly|sure)"
)
# A word may follow after a sign or in a new line alone: "no objection" and "yes and no" are none.
_VERDICT = re.compile(
    rf"[^\w?]*(?:{_OPENINGS}(?!\w)[^\w?]*)*(yes|no)(?=\s*\Z|[ \t]*(?:[^\w\s?/]|[\r\n]))",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"\W*(?:yes|no)\s*(?:[/,-]|\bor\b|\band\b)\s*(?:yes|no)\b(?!\s+\w)", re.IGNORECASE
)


def parse_verdict(reply: str) -> bool | None:
    """Yes or no from a judge's reply; None where it is neither.

    The reply must begin with it ("**Yes**, ...", "Answer: no.", "No doubt, yes."), after any
    thoughts between ``<think>`` tags, and a sign or a new line must follow: "no doubt" and "no
    objection" are not a no. Words further on are not looked at. A reply that repeats the choice
    ("Yes or No", "Yes and no") is neither.
    """
    reply = _THOUGHTS.sub(" ", reply)
    if _BOTH.match(reply):
        return None
    match = _VERDICT.match(reply)
    return match[1].lower() == "yes" if match else None


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """What a tokenizer takes out of a text as one token, whatever stands around it."""
    tokens = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} - {""}
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _opened(match: re.Match[str]) -> str:
    """A token's letters with a space among them."""
    return f"{match[0][0]} {match[0][1:]}"


class Judge:
    """A chat model that judges answers."""

    def __init__(
        self, model: str, device: str | None = None, batch_size: int = 8, max_new_tokens: int = 8
    ) -> None:
        """Load a judge. Code that comes with a model is never run.

        Args:
            model: name on the Hugging Face hub, or a folder.
            device: ``cuda``, ``cuda:1``, ``cpu``; by default a GPU if there is one.
            batch_size: answers judged together, 1 or more.
            max_new_tokens: where a reply is cut, 1 or more. Models that write their thoughts first
                are asked not to, by the switch that chat templates call ``enable_thinking``.

        Raises:
            CheckpointError: the model cannot be loaded.
            ValueError: a number is less than 1.
        """
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError("batch_size and max_new_tokens must be 1 or more")
        self.name = model
        self._batch_size = batch_size
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                model, trust_remote_code=False, dtype="auto"
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"judge {model}: cannot be loaded: {error}") from error
        self._model.to(self._device).eval()
        self._control = _control_tokens(self._tokenizer)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # Nothing else of a model's own settings, which may draw at random or forbid words.
        end = self._model.generation_config.eos_token_id
        self._model.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self._tokenizer.eos_token_id if end is None else end,
            pad_token_id=self._tokenizer.pad_token_id,
        )

    def judge(self, prompt: JudgePrompt, cases: Sequence[JudgedCase]) -> Judgement:
        """Ask about every answer, taking the likeliest reply."""
        # Long ones together, so that little of a batch is padding.
        texts = [self._as_chat(prompt.about(self._without_control(case))) for case in cases]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        replies = [""] * len(texts)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            for index, reply in zip(batch, self._reply([texts[i] for i in batch]), strict=True):
                replies[index] = reply
        return Judgement.of(self.name, prompt.name, replies)

    def _without_control(self, case: JudgedCase) -> JudgedCase:
        """The same texts, in which nothing is read as one of the tokenizer's control tokens: an
        answer must not end its judge's turn."""
        return JudgedCase(
            *(
                self._control.sub(_opened, text)
                for text in (case.question, case.reference, case.answer)
            )
        )

    def _as_chat(self, question: str) -> str:
        """As the model was trained to be asked; without a template the question and a colon."""
        if self._tokenizer.chat_template is None:
            return f"{question}\nAnswer:"
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )

    @torch.no_grad()
    def _reply(self, texts: Sequence[str]) -> Iterator[str]:
        encoded = self._tokenizer(
            list(texts),
            padding=True,
            return_tensors="pt",
            # A chat template has written the special tokens itself.
            add_special_tokens=self._tokenizer.chat_template is None,
            return_token_type_ids=False,
        ).to(self._device)
        written = self._model.generate(**encoded)
        length = encoded["input_ids"].shape[1]
        return (
            self._tokenizer.decode(row, skip_special_tokens=True).strip()
            for row in written[:, length:]
        )
