"""The tokenizer: the same ids from every form it is published in, and text that stays text."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import LlamaTokenizer, MistralConfig

from prs_med.batch import IMAGE_TOKEN
from prs_med.config import DataSettings, ModelSettings
from prs_med.inputs import prompt_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.mllm import Mllm, load_llava, load_tokenizer
from tests.unit.llava_variants import Source, change_json, running_state, write_variant

TEXTS = (
    "\n### User: Where is the tumor? \n### Assistant: \n",
    "[INST] ",
    "\nWhat is shown? [/INST] ",
    "  two spaces  before and after ",
    "\n",
    "",
    "Ünïcode ≥ 3 — 中文 \t 🙂",
    "The </s> end, <s>, <unk>, <image> and <pad>",
    "<image>",
    "<image>\nWhere?",
)


@pytest.fixture(scope="module")
def layout(small) -> LlavaLayout:
    layout = read_layout(str(small.llava_med))
    layout.config.text_config = MistralConfig(vocab_size=32064)
    return layout


ADDED = {"<image>": 32000, "<pad>": 32001}


def _decoder(base: dict, special: bool) -> dict:
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        **base,
        "32000": {"content": "<image>", **entry, "special": special},
        "32001": {"content": "<pad>", **entry, "special": True},
    }


def _write(folder: Path, source: Path, form: str) -> None:
    """The Mistral tokenizer in one of the forms below."""
    folder.mkdir()
    files, _, added = form.partition("+")
    if files in ("model", "model_bare", "both"):
        (folder / "tokenizer.model").write_bytes((source / "tokenizer.model").read_bytes())
    whole = json.loads((source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    if added:
        special = added != "word"
        for name, number in ADDED.items():
            whole["added_tokens"].append(
                {
                    "id": number,
                    "content": name,
                    "special": special or name == "<pad>",
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": not special,
                }
            )
        config["pad_token"] = "<pad>"
        config["added_tokens_decoder"] = _decoder(config["added_tokens_decoder"], special)
        if added == "file":
            (folder / "added_tokens.json").write_text(json.dumps(ADDED))
            del config["added_tokens_decoder"]
        if added == "processor":  # as newer LLaVA-HF checkpoints are
            config.update(image_token="<image>", processor_class="LlavaProcessor")
            config["extra_special_tokens"] = {"image_token": "<image>"}
    if files in ("json", "json_bare", "both"):
        (folder / "tokenizer.json").write_text(json.dumps(whole))
    if not files.endswith("bare"):
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        special_tokens = (source / "special_tokens_map.json").read_bytes()
        if not added:
            (folder / "special_tokens_map.json").write_bytes(special_tokens)


PLAIN = ("model", "model_bare", "json", "json_bare", "both")
WITH_ADDED = tuple(
    f"{files}+{added}"
    for files in ("model", "json", "both")
    for added in ("special", "word", "file", "processor")
)


@pytest.mark.parametrize("form", [*PLAIN, *WITH_ADDED, "json_bare+word"])
def test_every_form_gives_the_ids_of_sentencepiece(sample_data, layout, tmp_path, form) -> None:
    """SentencePiece is what the original model was trained with."""
    source = sample_data / "mistral_tokenizer"
    reference = sentencepiece.SentencePieceProcessor(str(source / "tokenizer.model"))
    _write(tmp_path / "t", source, form)
    tokenizer = load_tokenizer(replace(layout, folder=tmp_path / "t"))
    for text in TEXTS:
        assert tokenizer(text).input_ids == [1, *reference.encode(text)], text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    if "+" in form and "bare" not in form:
        assert tokenizer.pad_token_id == 32001
    again = pickle.loads(pickle.dumps(tokenizer))  # as loading workers get it
    tokenizer.save_pretrained(str(tmp_path / "saved"))
    saved = load_tokenizer(replace(layout, folder=tmp_path / "saved"))
    for text in TEXTS:
        assert again(text).input_ids == tokenizer(text).input_ids
        assert saved(text).input_ids == tokenizer(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_plain_transformers_tokenizer_would_differ(sample_data, layout, tmp_path) -> None:
    """So the test above can fail: in spaces, and in tokens that text must not become."""
    _write(tmp_path / "t", sample_data / "mistral_tokenizer", "model+word")
    plain = LlamaTokenizer.from_pretrained(str(tmp_path / "t"))
    ours = load_tokenizer(replace(layout, folder=tmp_path / "t"))
    assert 32000 in plain("<image>\nWhere?").input_ids
    assert plain("  two").input_ids != ours("  two").input_ids
    assert plain("The  two").input_ids != ours("The  two").input_ids


def test_tokenizer_json_and_model_of_different_vocabularies(
    small, sample_data, layout, tmp_path
) -> None:
    _write(tmp_path / "t", sample_data / "mistral_tokenizer", "both")
    model = (small.llava_med / "tokenizer.model").read_bytes()
    (tmp_path / "t" / "tokenizer.model").write_bytes(model)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json and tokenizer\.model have differ"):
        load_tokenizer(replace(layout, folder=tmp_path / "t"))


@pytest.mark.parametrize("question", ["Where is <image> it?", "<image>", "a </s> b <pad> c <s> d"])
def test_only_the_prompt_encoder_places_images(sample_data, layout, tmp_path, question) -> None:
    _write(tmp_path / "t", sample_data / "mistral_tokenizer", "both+word")
    tokenizer = load_tokenizer(replace(layout, folder=tmp_path / "t"))
    encoder = prompt_encoder(tokenizer, layout, DataSettings(data_root="/"))
    encoded = encoder.encode(question, f"It is {question}", "row 1")
    assert encoded.ids.count(IMAGE_TOKEN) == 16
    assert encoded.ids.count(1) == 1
    assert encoded.ids.count(2) == 1
    assert encoded.ids[-1] == 2
    assert max(encoded.ids) < 32000


def test_a_tokenizer_that_is_no_sentencepiece_stays_as_it_is(layout, tmp_path) -> None:
    """Byte-level ones, as Llama 3 has, come as tokenizer.json only."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<e>"],
                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )  # fmt: skip
    whole.save(str(tmp_path / "tokenizer.json"))
    change_json(tmp_path / "tokenizer_config.json", eos_token="<e>")
    tokenizer = load_tokenizer(replace(layout, folder=tmp_path))
    assert tokenizer.decode(tokenizer("Where is it?").input_ids) == "Where is it?"
    assert tokenizer("Where is it?").input_ids == whole.encode("Where is it?").ids


def test_no_usable_tokenizer(layout, tmp_path, small) -> None:
    here = replace(layout, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"no usable tokenizer; it needs tokenizer\.json or"):
        load_tokenizer(here)
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01")
    with pytest.raises(CheckpointError, match=r"no usable tokenizer \("):
        load_tokenizer(here)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read"):
        load_tokenizer(here)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no usable tokenizer \("):
        load_tokenizer(here)


def test_a_tokenizer_of_more_tokens_than_the_model_has(sample_data, layout, tmp_path) -> None:
    source = sample_data / "mistral_tokenizer"
    _write(tmp_path / "word", source, "json+word")
    small = replace(layout, folder=tmp_path / "word")
    small.config.text_config.vocab_size = 32000
    try:
        with pytest.raises(CheckpointError, match=r"<pad> is token 32001, but .* of 32000$"):
            load_tokenizer(small)
        # A token that is never used may lie beyond: text does not become it.
        change_json(tmp_path / "word" / "tokenizer_config.json", pad_token="<unk>")
        assert load_tokenizer(small).pad_token_id == 0
        small.config.text_config.vocab_size = 31999
        with pytest.raises(CheckpointError, match=r"is token 31999, but"):
            load_tokenizer(small)
    finally:
        small.config.text_config.vocab_size = 32064


@torch.no_grad()
def test_embeddings_larger_than_the_vocabulary(small, tmp_path) -> None:
    """Conversions pad them to a multiple of 64: <image>, <pad>, then rows of no token."""
    source = Source(small.llava_med, read_layout(str(small.llava_med)).config)
    words = source.config.text_config.vocab_size
    state = running_state(small.llava_med)
    rows = -(-(words + 2) // 64) * 64 - words
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.randn(rows, state[name].shape[1])])
    source.config.text_config.vocab_size = words + rows
    source.config.image_token_index = words
    folder = write_variant(source, tmp_path / "m", "transformers_4", "bin", state=state)
    (folder / "added_tokens.json").write_text(json.dumps({"<image>": words, "<pad>": words + 1}))
    change_json(folder / "tokenizer_config.json", pad_token="<pad>")
    change_json(folder / "special_tokens_map.json", pad_token="<pad>")

    def outputs(folder: Path):
        layout = read_layout(str(folder))
        tokenizer = load_tokenizer(layout)
        prompts = prompt_encoder(tokenizer, layout, DataSettings(data_root="/"))
        texts = [prompts.encode(q, "It is top left.", "row") for q in ("Where?", "Where is it?")]
        longest = max(len(text.ids) for text in texts)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[*t.ids, *[pad] * (longest - len(t.ids))] for t in texts])
        mask = torch.tensor([[i < len(t.ids) for i in range(longest)] for t in texts])
        model = Mllm(load_llava(layout, ModelSettings(precision="fp32")), layout).eval()
        pixels = torch.zeros(2, 3, 56, 56, dtype=torch.uint8)
        return pad, mask, model(ids, mask, pixels, torch.tensor([5, longest + 5]))

    pad, mask, (hidden, logits) = outputs(folder)
    assert pad == words + 1
    assert logits.shape == (2, words + rows)
    _, _, (hidden_ref, logits_ref) = outputs(small.llava_med)
    assert torch.equal(hidden[mask], hidden_ref[mask])
    torch.testing.assert_close(logits[:, :words], logits_ref, rtol=1e-5, atol=1e-6)
