"""One training run, from settings to trained weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from prs_med.config import SettingError, Settings, names_in
from prs_med.data.augment import Augmentation
from prs_med.data.collate import Collator
from prs_med.data.order import Rank
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError
from prs_med.data.rows import read_records, verify_files
from prs_med.data.samples import Preparation
from prs_med.data.split import Splits, held_out_text, split_records
from prs_med.data.stream.streamed_data import StreamedData, StreamOptions
from prs_med.data.training_data import LocalData, TrainingData
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.compiled import compile_regions
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.mllm import Mllm, build_mllm, flops_per_token, load_tokenizer
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.trained_weights import (
    load_trained_mllm,
    load_trained_segmentation,
    open_trained,
)
from prs_med.settings_io import save_settings
from prs_med.train import distributed
from prs_med.train.deepspeed_config import load_deepspeed_config
from prs_med.train.engines import Engines
from prs_med.train.kept_weights import KeptWeights
from prs_med.train.loop import LoopHooks, train
from prs_med.train.metrics_log import MetricsLog
from prs_med.train.validate import validate


@dataclass(frozen=True)
class _Parts:
    """What is read and built before the engines start."""

    layout: LlavaLayout
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptEncoder
    data: TrainingData
    modalities: tuple[str, ...]
    mllm: Mllm
    segmentation: SegmentationBranch


def run(settings: Settings) -> None:
    """Train as the settings say; every process of the job calls this.

    Raises:
        SettingError, DataError, CheckpointError: with a message for the user.
    """
    if not settings.data:
        settings.require("data_root")
    settings.require("vlm_path", "deepspeed")
    if not settings.init_from:
        settings.require("sam_ckpt")
    rank = distributed.start()
    say = _speaker(rank)
    config = load_deepspeed_config(Path(settings.deepspeed), settings, rank.world)
    save_dir = Path(settings.save_dir)
    if (save_dir / "metrics.jsonl").exists():
        raise SettingError(
            f"--save_dir {save_dir} already holds a run: give another folder, or remove it"
        )
    if rank.index == 0:
        save_dir.mkdir(parents=True, exist_ok=True)
        save_settings(settings, save_dir / "settings.yaml")

    transformers.set_seed(settings.seed)
    parts = _build(settings, rank, save_dir, say)
    what = "images with all their questions" if settings.batch_by_image else "samples"
    say(
        f"{parts.data.units} training {what} and {parts.data.validation_samples} validation "
        f"samples, modalities: {', '.join(parts.modalities) or 'none named'}"
    )
    if not parts.data.validation_samples:
        say("no validation: no row is labelled val, and nothing is held out")
    # Ranks differ in dropout only: weights were made alike above.
    torch.manual_seed(settings.seed * 1_000_003 + rank.index)
    engines = Engines(parts.mllm, parts.segmentation, settings, config)
    metrics = MetricsLog(save_dir / "metrics.jsonl", engines.monitor, rank.index == 0)
    try:
        _train(settings, rank, parts, engines, metrics, save_dir, say)
    finally:
        metrics.close()


def _train(
    settings: Settings,
    rank: Rank,
    parts: _Parts,
    engines: Engines,
    metrics: MetricsLog,
    save_dir: Path,
    say: Callable[[str], None],
) -> None:
    preparation = Preparation(
        parts.prompts,
        image_sizes(parts.layout, settings),
        parts.modalities,
        Augmentation(settings.augment_intensity, settings.augment_flip),
    )
    collator = Collator(parts.tokenizer.pad_token_id or 0, settings.prompt_tokens)
    data = parts.data
    batches = data.training_batches(
        preparation,
        collator,
        micro_batch=settings.batch_size,
        accumulation=settings.gradient_accumulation_steps,
        rank=rank,
    )
    kept = KeptWeights(
        save_dir,
        engines,
        parts.mllm,
        parts.tokenizer,
        parts.modalities,
        settings,
        writes=rank.index == 0,
    )

    def score(step: int) -> dict[str, float]:
        if not data.validation_samples:
            return {}
        loader = data.validation_batches(
            preparation, collator, micro_batch=settings.batch_size, rank=rank
        )
        with engines.averaged():
            scores = validate(engines, loader, settings)
            kept.offer(step, scores)
        return scores

    with closing(batches):
        last_scores = train(
            engines,
            batches,
            settings,
            units=data.units,
            rank=rank,
            flops_per_token=flops_per_token(parts.layout, settings),
            hooks=LoopHooks(validate=score, log=metrics.write, say=say),
        )
    with engines.averaged():
        final = kept.finish(last_scores)
    say(f"trained weights: {final}" + (" and best" if data.validation_samples else ""))


def _build(settings: Settings, rank: Rank, save_dir: Path, say: Callable[[str], None]) -> _Parts:
    layout = read_layout(settings.vlm_path, settings.vision_tower)
    tokenizer = load_tokenizer(layout)
    prompts = prompt_encoder(tokenizer, layout, settings)
    data = (
        _streamed(settings, prompts, rank, say)
        if settings.data
        else _local(settings, prompts, rank, save_dir, say)
    )
    modalities = data.modalities
    if settings.init_from:
        trained = open_trained(Path(settings.init_from))
        for name in ("encoder_type", "finetune"):
            theirs, ours = getattr(trained.settings, name), getattr(settings, name)
            if theirs != ours:
                raise SettingError(f"--{name} {ours}: the weights in --init_from are of {theirs}")
        modalities = (*trained.modalities, *(m for m in modalities if m not in trained.modalities))
        mllm = load_trained_mllm(trained, layout, settings)
        segmentation = load_trained_segmentation(
            trained, mllm.hidden_size, settings.decoder_dropout, modalities
        )
    else:
        mllm = build_mllm(layout, settings)
        segmentation = SegmentationBranch(
            load_encoder(settings.encoder_type, settings.sam_ckpt),
            mllm.hidden_size,
            len(modalities),
            settings.decoder_dropout,
        )
    _freeze(settings, mllm, segmentation)
    if settings.compile_model:
        compile_regions(mllm, segmentation, names_in(settings.compile_regions))
    return _Parts(layout, tokenizer, prompts, data, modalities, mllm, segmentation)


def _freeze(settings: Settings, mllm: Mllm, segmentation: SegmentationBranch) -> None:
    if settings.freeze_mllm:
        mllm.requires_grad_(False)
    if settings.freeze_encoder:
        segmentation.freeze_encoder()
    if settings.freeze_decoder:
        segmentation.freeze_decoder()


def _streamed(
    settings: Settings, prompts: PromptEncoder, rank: Rank, say: Callable[[str], None]
) -> StreamedData:
    options = StreamOptions(
        seed=settings.seed,
        unit="image" if settings.batch_by_image else "question",
        shuffle_window=settings.shuffle_window,
        memory=settings.stream_memory_mb * 2**20,
        num_workers=settings.num_workers,
        cache_dir=Path(settings.cache_dir) if settings.cache_dir else None,
        cache_bytes=int(settings.cache_gb * 2**30),
    )
    data = StreamedData(settings.data or "", options)
    if distributed.from_rank_zero(data.fingerprint) != data.fingerprint:
        raise DataError(
            f"--data {settings.data}: rank {rank.index} finds another dataset there than rank 0"
        )
    if rank.index == 0:
        data.check_lengths(prompts, say)
    if data.held_out:
        say(f"validation: {data.held_out}")
    return data


def _local(
    settings: Settings,
    prompts: PromptEncoder,
    rank: Rank,
    save_dir: Path,
    say: Callable[[str], None],
) -> LocalData:
    splits = _read_splits(settings, prompts, rank, save_dir, say)
    if splits.held_out:
        say(held_out_text(settings.val_fraction))
    return LocalData(splits.train, splits.val, seed=settings.seed, num_workers=settings.num_workers)


def _read_splits(
    settings: Settings,
    prompts: PromptEncoder,
    rank: Rank,
    save_dir: Path,
    say: Callable[[str], None],
) -> Splits:
    annotations = read_records(settings)
    records, bad_rows = annotations.records, annotations.bad_rows
    if settings.verify_files:
        # One process reads all files; the others learn the outcome.
        found = (
            verify_files(records, prompts, settings.num_workers, show_progress=True)
            if rank.index == 0
            else None
        )
        verified = distributed.from_rank_zero(found)
        if verified.bad_rows and settings.on_bad_rows == "error":
            more = len(verified.bad_rows) - 1
            raise DataError(verified.bad_rows[0] + (f" (and {more} more rows)" if more else ""))
        records, bad_rows = verified.records, bad_rows + verified.bad_rows
    splits = split_records(records, settings.val_fraction, settings.seed)
    if not splits.train:
        raise DataError(f"--data_root {settings.data_root}: no row belongs to the train split")
    listings = {
        "bad_rows.txt": ("skipped {} bad rows", bad_rows),
        "repaired_rows.txt": ("repaired unquoted commas in {} rows", annotations.repaired_rows),
        "shared_groups.txt": (
            "{} patients or studies are in several splits, as labelled",
            splits.shared_groups,
        ),
    }
    for name, (message, lines) in listings.items():
        if lines:
            say(f"{message.format(len(lines))}, listed in {save_dir / name}")
            if rank.index == 0:
                (save_dir / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return splits


def _speaker(rank: Rank) -> Callable[[str], None]:
    logger = logging.getLogger("prs_med")

    def say(message: str) -> None:
        if rank.index == 0:
            logger.info(message)

    return say
