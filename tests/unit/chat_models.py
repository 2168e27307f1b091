"""Small chat models in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prs_med.evaluate.judge import PROMPTS

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


def write_random(folder: Path, chat_template: str | None) -> None:
    """A model with random weights."""
    new_model(len(write_tokenizer(folder, chat_template))).save_pretrained(folder)
