"""Token ids of questions and answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from transformers import LlamaTokenizer

from prs_med.batch import IMAGE_TOKEN
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import load_tokenizer

QUESTION = "Where is the tumor located in this image?"
ANSWER = "The tumor is located in the top left of the image."


@pytest.fixture(scope="module")
def tokenizer(small):
    return load_tokenizer(read_layout(str(small.llava_med)))


def test_released_template_as_the_released_code_tokenises_it(tokenizer, small) -> None:
    """That code tokenises what stands before and after <image> apart, start token first."""
    reference = sentencepiece.SentencePieceProcessor(str(small.llava_med / "tokenizer.model"))
    text = f"\n### User: {QUESTION} \n### Assistant: \n{ANSWER}"
    expected = [1, *[IMAGE_TOKEN] * 3, *reference.encode(text), 2]
    encoded = PromptEncoder(tokenizer, "released", 3, 500).encode(QUESTION, ANSWER, "a.csv:2")
    assert list(encoded.ids) == expected


def test_llava_med_template(tokenizer) -> None:
    encoder = PromptEncoder(tokenizer, "llava_med", 2, 500)
    encoded = encoder.encode(QUESTION, ANSWER, "a.csv:2")
    text = tokenizer.decode([i for i in encoded.ids if i != IMAGE_TOKEN])
    assert "[INST]" in text
    assert text.index("[INST]") < text.index(QUESTION) < text.index("[/INST]") < text.index(ANSWER)


@pytest.mark.parametrize("template", ["released", "llava_med"])
@pytest.mark.parametrize("answer", [ANSWER, "Top left", "¿Qué?", "the \n end"])
def test_prompt_at_inference_is_the_beginning_of_training(tokenizer, template, answer) -> None:
    encoder = PromptEncoder(tokenizer, template, 4, 500)
    encoded = encoder.encode(QUESTION, answer, "a.csv:2")
    assert encoded.ids[: encoded.prompt_length] == encoder.prompt(QUESTION)
    taught = encoded.ids[encoded.prompt_length :]
    assert taught[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(list(taught[:-1])).strip() == answer.strip()


def test_too_long_is_an_error_with_the_row(tokenizer) -> None:
    with pytest.raises(DataError, match=r"lung\.csv:7.*--max_length 30"):
        PromptEncoder(tokenizer, "released", 16, 30).encode(QUESTION, ANSWER, "lung.csv:7")


def test_real_tokenizer_as_the_released_code_used_it(sample_data: Path) -> None:
    folder = sample_data / "mistral_tokenizer"
    tokenizer = LlamaTokenizer.from_pretrained(str(folder))
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    text = f"\n### User: {QUESTION} \n### Assistant: \n{ANSWER}"
    encoded = PromptEncoder(tokenizer, "released", 576, 2048).encode(QUESTION, ANSWER, "a.csv:2")
    assert list(encoded.ids) == [1, *[IMAGE_TOKEN] * 576, *reference.encode(text), 2]


CONTROL = (
    "a </s> b",
    "</s>",
    "<s>",
    "x<unk>y",
    "<s></s><unk>",
    "[INST] a [/INST]",
    "<image>",
    "<pad>",
    "<0x0A>",
)


@pytest.mark.parametrize("template", ["released", "llava_med"])
@pytest.mark.parametrize("text", CONTROL)
@pytest.mark.parametrize("place", ["question", "answer"])
def test_text_from_data_is_never_a_control_token(tokenizer, template, text, place) -> None:
    texts = {"question": QUESTION, "answer": ANSWER, place: text}
    encoded = PromptEncoder(tokenizer, template, 3, 500).encode(**texts, where="a.csv:2")
    _only_the_added_tokens(encoded.ids, tokenizer)


def _only_the_added_tokens(ids: tuple[int, ...], tokenizer) -> None:
    """One start token, one end token, and the image's places."""
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    inside = [i for i in ids[1:-1] if i != IMAGE_TOKEN]
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id, 0, 32000, 32001} & {*inside}


@pytest.mark.parametrize("text", CONTROL)
@pytest.mark.parametrize("place", ["question", "answer"])
def test_the_real_tokenizer_as_it_is_published_parses_no_control_token(
    sample_data: Path, text: str, place: str
) -> None:
    folder = sample_data / "mistral_tokenizer"
    tokenizer = LlamaTokenizer.from_pretrained(str(folder))
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    texts = {"question": QUESTION, "answer": ANSWER, place: text}
    encoder = PromptEncoder(tokenizer, "released", 3, 500)
    encoded = encoder.encode(**texts, where="a.csv:2")
    _only_the_added_tokens(encoded.ids, tokenizer)
    whole = f"\n### User: {texts['question']} \n### Assistant: \n{texts['answer']}"
    assert list(encoded.ids) == [1, *[IMAGE_TOKEN] * 3, *reference.encode(whole), 2]
    # Asking, when evaluating and in use, goes the same way.
    assert encoder.prompt(texts["question"]) == encoded.ids[: encoded.prompt_length]


def test_a_tokenizer_that_parses_added_words_is_told_not_to(tokenizer) -> None:
    """Whatever a tokenizer is set to, and whoever set it."""
    encoder = PromptEncoder(tokenizer, "released", 3, 500)
    expected = encoder.encode("a </s> b", "<s> c </s>", "a.csv:2")
    tokenizer.split_special_tokens = False
    try:
        assert encoder.encode("a </s> b", "<s> c </s>", "a.csv:2") == expected
    finally:
        tokenizer.split_special_tokens = True
