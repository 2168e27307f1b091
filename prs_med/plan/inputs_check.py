"""Are data and weights where the settings say, and of the right kind?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prs_med.config import Settings
from prs_med.data.dataset.index import read_index
from prs_med.data.records import DataError
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import load_tokenizer
from prs_med.plan.findings import Finding, failed, passed, warned
from prs_med.storage.location import open_store
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError, Store

_PATIENCE = 15.0


def check_inputs(settings: Settings) -> Iterator[Finding]:
    """Dataset, language model and encoder."""
    if settings.data:
        yield from _check_dataset(settings.data)
    elif settings.data_root:
        yield _check_folder(settings.data_root)
    else:
        yield warned("data", "not checked", "give --data or --data_root")
    if settings.vlm_path:
        yield from _check_language_model(settings)
    else:
        yield warned("--vlm_path", "not checked", "give it")
    if settings.sam_ckpt:
        yield _check_encoder(settings)
    elif not settings.init_from:
        yield warned("--sam_ckpt", "not checked", "give it")


def _check_dataset(uri: str) -> Iterator[Finding]:
    store: Store = S3Store(uri, _PATIENCE) if uri.startswith("s3://") else open_store(uri)
    try:
        index = read_index(store).index
        names = set(store.names())
    except (DataError, StorageError) as error:
        yield failed("--data", str(error), "build it, or check name, endpoint and credentials")
        return
    counts = ", ".join(f"{split.targets} {name}" for name, split in index.splits.items())
    yield passed("--data", f"dataset.json is there: {counts} questions")
    shards = [shard.name for split in index.splits.values() for shard in split.shards]
    missing = sorted(set(shards) - names)
    if missing:
        yield failed("--data", f"shard {missing[0]} is missing", "build or copy the dataset again")
        return
    try:
        store.read(shards[0], length=1)
    except StorageError as error:
        yield failed("--data", str(error), "allow reading")
        return
    yield passed("--data", f"all {len(shards)} shards are listed, and can be read")


def _check_folder(name: str) -> Finding:
    root = Path(name)
    if not root.is_dir():
        return failed("--data_root", f"{root}: no such folder", "correct the path")
    tables = [*root.glob("annotations/*.csv"), *root.glob("csv/*.csv")]
    if not tables:
        return warned("--data_root", f"{root}: no CSV files", "name them with --ann_paths")
    return passed("--data_root", f"{len(tables)} CSV files")


def _check_language_model(settings: Settings) -> Iterator[Finding]:
    try:
        layout = read_layout(settings.vlm_path, settings.vision_tower)
        tokenizer = load_tokenizer(layout)
    except CheckpointError as error:
        yield failed("--vlm_path", str(error), "download it again or correct the path")
        return
    text = layout.config.text_config
    yield passed(
        "--vlm_path",
        f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}, "
        f"{len(tokenizer)} tokens; config, weights and tokenizer are there",
    )


def _check_encoder(settings: Settings) -> Finding:
    try:
        encoder = load_encoder(settings.encoder_type, settings.sam_ckpt)
    except CheckpointError as error:
        return failed("--sam_ckpt", str(error), "download it again or correct --encoder_type")
    count = sum(parameter.numel() for parameter in encoder.parameters())
    return passed("--sam_ckpt", f"{settings.encoder_type}, {count:,} parameters, read completely")
