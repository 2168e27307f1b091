"""Judges: small real models on disk, one of them with weights that make it answer as told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prs_med.evaluate.judge import (
    POSITION_CORRECT,
    PROMPTS,
    Judge,
    JudgedCase,
    Judgement,
    JudgePrompt,
    majority,
    parse_verdict,
)
from prs_med.model.errors import CheckpointError

TEXTS = [
    *(prompt.text for prompt in PROMPTS),
    "Yes No maybe user assistant : top bottom left right center the tumor is in",
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if enable_thinking %} maybe{% endif %}"
)


def write_tokenizer(folder: Path, chat_template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, without a token for padding."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        TEXTS, trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"])
    )
    words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=vocabulary + -vocabulary % 4,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=None,
            initializer_range=0.3,
        )
    )


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    tokenizer = write_tokenizer(folder, TEMPLATE)
    new_model(len(tokenizer)).save_pretrained(folder)
    return folder


NEXT = {"left": "Yes", "right": "No", "top": "maybe", "Yes": "</s>", "No": "</s>", "maybe": "right"}


def write_told(folder: Path, chat_template: str | None) -> None:
    """A model in which each word is followed by the one in `NEXT`, whatever comes before: its
    layers add nothing, words are unit vectors, and its head turns each into the next."""
    tokenizer = write_tokenizer(folder, chat_template)
    model = new_model(len(tokenizer))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(*model.model.embed_tokens.weight.shape))
        model.lm_head.weight.zero_()
        for word, after in NEXT.items():
            index = tokenizer.convert_tokens_to_ids([after, word])
            model.lm_head.weight[*index] = 1
    model.save_pretrained(folder)
    # A model's own settings of how it writes must not matter, but for the end.
    settings = {
        "do_sample": True,
        "temperature": 50.0,
        "suppress_tokens": tokenizer.convert_tokens_to_ids(["Yes"]),
        "eos_token_id": [2],
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    write_told(folder, TEMPLATE)
    return folder


ECHO = JudgePrompt("echo", "the tumor is in {reference} : {answer}")


def case(answer: str, reference: str = "the") -> JudgedCase:
    return JudgedCase("the", reference, answer)


# Of different lengths, so that batches need padding and are put in another order.
CASES = [
    case("left", "the top left the top left"),
    case("right"),
    case("top", "bottom"),
    case("right", "the center the center the center the center"),
    case("left"),
    case("left", "{braces} are {left} alone"),
]
VERDICTS = (True, False, None, False, True, True)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_verdicts_are_those_that_the_model_gives(told: Path, batch_size: int) -> None:
    judgement = Judge(str(told), "cpu", batch_size, max_new_tokens=2).judge(ECHO, CASES)
    assert judgement.verdicts == VERDICTS
    assert judgement.replies == ("Yes", "No", "maybe right", "No", "Yes", "Yes")
    assert (judgement.yes, judgement.no, judgement.unparsed) == (3, 2, 1)
    assert judgement.accuracy == 0.5
    assert (judgement.judge, judgement.prompt) == (str(told), "echo")


def test_replies_are_cut(told: Path) -> None:
    judge = Judge(str(told), "cpu", max_new_tokens=5)
    assert judge.judge(ECHO, [case("top")]).replies == ("maybe right No",)
    assert Judge(str(told), "cpu", max_new_tokens=1).judge(ECHO, [case("top")]).replies == (
        "maybe",
    )


def test_a_model_without_a_chat_template_is_asked_plainly(tmp_path: Path) -> None:
    write_told(tmp_path, None)
    judge = Judge(str(tmp_path), "cpu")
    # The prompt ends in a colon, after which this model says nothing that counts.
    judgement = judge.judge(ECHO, CASES)
    assert judgement.unparsed == len(CASES)
    assert judgement.accuracy == 0


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_padding_changes_no_reply(random_model: Path, prompt: JudgePrompt) -> None:
    alone = Judge(str(random_model), "cpu", 1).judge(prompt, CASES)
    together = Judge(str(random_model), "cpu", 4).judge(prompt, CASES)
    assert alone.replies == together.replies
    assert len(set(alone.replies)) > 1


def test_a_reply_is_the_likeliest_continuation(random_model: Path) -> None:
    """One token after the other from the whole text, whose template has written the first token."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(random_model)
    model = LlamaForCausalLM.from_pretrained(random_model).eval()
    words = tokenizer(POSITION_CORRECT.about(CASES[0]), add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *words]
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids[-8:], skip_special_tokens=True)
    judge = Judge(str(random_model), "cpu", max_new_tokens=8)
    assert judge.judge(POSITION_CORRECT, CASES[:1]).replies == (expected,)


def test_no_answers_have_no_accuracy(random_model: Path) -> None:
    judgement = Judge(str(random_model), "cpu").judge(POSITION_CORRECT, [])
    assert (judgement.verdicts, judgement.accuracy) == ((), None)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_prompts_hold_the_case_and_ask_for_yes_or_no(prompt: JudgePrompt) -> None:
    text = prompt.about(JudgedCase("Where is {it}?", "In the top left.", "{answer} top"))
    for part in ("Question: Where is {it}?", "In the top left.", "Given answer: {answer} top"):
        assert text.count(part) == 1
    assert text.endswith("Yes or No.")


def test_prompts_differ() -> None:
    assert len({prompt.name for prompt in PROMPTS}) == len({p.text for p in PROMPTS}) == 3


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Yes", True),
        ("no.", False),
        ("**Yes**, they name the same place.", True),
        ("No, there is no doubt that yes would be wrong", False),
        ("Answer: Yes", True),
        ("The answer is no.", False),
        ("My final answer: **No**", False),
        ("Yes, no difference.", True),
        ("<think>No? Yes? No.</think>\n\nYes", True),
        ("<think>No, the place is", None),
        ("Yes or No", None),
        ("yes/no", None),
        ("Nothing to compare", None),
        ("Yesterday", None),
        ("Not the same", None),
        ("There is no doubt", None),
        ("", None),
        ("1", None),
    ],
)
def test_verdicts_in_words(reply: str, verdict: bool | None) -> None:
    assert parse_verdict(reply) is verdict


@given(st.text(), st.booleans())
def test_only_the_beginning_counts(rest: str, yes: bool) -> None:
    assert parse_verdict(f"{'YES' if yes else 'no'}. {rest}") is yes
    assert parse_verdict(rest) in (True, False, None)


def judgement(*verdicts: bool | None) -> Judgement:
    return Judgement("a", "b", verdicts, ("",) * len(verdicts))


def test_majority_by_hand() -> None:
    votes = [
        judgement(True, True, True, None, None, False),
        judgement(True, True, False, None, True, False),
        judgement(True, False, None, True, None, None),
    ]
    assert majority(votes) == (True, True, None, None, None, False)
    assert majority(votes[:2])[2] is None
    assert majority([]) == ()
    with pytest.raises(ValueError, match=r"\[2, 6\]"):
        majority([votes[0], judgement(True, True)])


def test_what_is_no_model_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"judge {tmp_path}: cannot be loaded"):
        Judge(str(tmp_path), "cpu")
    with pytest.raises(ValueError, match="1 or more"):
        Judge(str(tmp_path), "cpu", batch_size=0)
