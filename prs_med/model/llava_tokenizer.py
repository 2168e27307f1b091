"""The tokenizer beside a model's weights, the same from every form in which it is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, normalizers
from tokenizers.models import BPE
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_hub import read_json
from prs_med.model.llava_layouts import LlavaLayout

_IMAGE = "<image>"


def load_tokenizer(layout: LlavaLayout) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside the weights: tokenizer.json, tokenizer.model, or both.

    Text stays text: a question that contains ``</s>`` or ``<image>`` gives the ids of these
    letters, never the end token or a conversion's image token.

    Raises:
        CheckpointError: if the folder holds no usable tokenizer, or one for more tokens than the
            model has.
    """
    folder = layout.folder
    tokenizer = _read(folder)
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{folder}: the tokenizer has no end-of-sequence token")
    _hide_image_token(tokenizer, layout)
    tokenizer.split_special_tokens = True
    _refuse_larger(tokenizer, layout)
    return tokenizer


def _read(folder: Path) -> PreTrainedTokenizerBase:
    with_model = (folder / "tokenizer.model").is_file()
    if not with_model and not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder}: no usable tokenizer; it needs tokenizer.json or tokenizer.model"
        )
    pieces = with_model or _is_sentencepiece(read_json(folder / "tokenizer.json"))
    options: dict[str, Any] = {"local_files_only": True}
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    if pieces and config.get("add_bos_token") is None:
        options["add_bos_token"] = True
    # By name: AutoTokenizer goes by the model type, and for 'mistral' it builds one that puts no
    # space in front of a text, which changes the first token.
    kind = LlamaTokenizer if pieces else PreTrainedTokenizerFast
    try:
        tokenizer = kind.from_pretrained(str(folder), **options)
    except Exception as error:  # the Rust library raises bare Exception for a bad file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{folder}: no usable tokenizer ({reason})") from error
    if pieces and config.get("add_prefix_space") is not False:
        # SentencePiece puts a space in front of every text. Tokenizers that newer versions of
        # transformers build or have written leave it out before a text that starts with one.
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        backend.pre_tokenizer = None
    if with_model:
        _merge_by_score(tokenizer, folder)
    return tokenizer


def _merge_by_score(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Put the merges into the order of SentencePiece's scores.

    transformers orders them by token number when it builds a tokenizer from tokenizer.model; that
    is another order for runs of spaces, which Mistral's model merges last.
    """
    backend = tokenizer.backend_tokenizer
    described = json.loads(backend.to_str())["model"]
    processor = SentencePieceProcessor(str(folder / "tokenizer.model"))
    number = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}

    def order(merge: list[str]) -> tuple[float, int, int, int]:
        left, right = merge
        piece = number[left + right]
        return -processor.get_score(piece), piece, number[left], number[right]

    try:
        merges = sorted(described["merges"], key=order)
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: tokenizer.json and tokenizer.model have different vocabularies "
            f"({error.args[0]!r} is in the former only)"
        ) from None
    backend.model = BPE(
        vocab=described["vocab"],
        merges=[(left, right) for left, right in merges],
        unk_token=described["unk_token"],
        fuse_unk=described["fuse_unk"],
        byte_fallback=described["byte_fallback"],
    )


def _is_sentencepiece(described: dict[str, Any]) -> bool:
    model = described.get("model")
    return isinstance(model, dict) and bool(model.get("byte_fallback"))


def _hide_image_token(tokenizer: PreTrainedTokenizerBase, layout: LlavaLayout) -> None:
    added = tokenizer.get_added_vocab()
    numbers = {layout.config.image_token_index, added.get(_IMAGE)}
    tokens = [token for token, number in added.items() if number in numbers]
    # Some conversions added it as an ordinary word, which would be found in plain text.
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in tokens],
        special_tokens=True,
    )


def _refuse_larger(tokenizer: PreTrainedTokenizerBase, layout: LlavaLayout) -> None:
    size = layout.config.text_config.vocab_size
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    never = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    beyond = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number >= size and (number in used or number not in never)
    }
    if beyond:
        token = min(beyond, key=beyond.__getitem__)
        raise CheckpointError(
            f"{layout.folder}: the tokenizer does not belong to the model: {token} is token "
            f"{beyond[token]}, but config.json names a vocabulary of {size}"
        )
