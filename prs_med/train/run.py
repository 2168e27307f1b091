"""One training run, from settings to trained weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from prs_med.config import SettingError, Settings, names_in
from prs_med.data.collate import Collator
from prs_med.data.loading import (
    evaluation_loader,
    modality_vocabulary,
    read_records,
    training_loader,
    verify_files,
)
from prs_med.data.order import Rank
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError
from prs_med.data.samples import SampleDataset
from prs_med.data.split import Splits, split_records
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
    splits: Splits
    modalities: tuple[str, ...]
    mllm: Mllm
    segmentation: SegmentationBranch


def run(settings: Settings) -> None:
    """Train as the settings say; every process of the job calls this.

    Raises:
        SettingError, DataError, CheckpointError: with a message for the user.
    """
    settings.require("data_root", "vlm_path", "deepspeed")
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
    say(
        f"{len(parts.splits.train)} training and {len(parts.splits.val)} validation samples, "
        f"modalities: {', '.join(parts.modalities) or 'none named'}"
    )
    if parts.splits.held_out:
        say(
            f"no row is labelled val: {settings.val_fraction:.0%} of the training images are held "
            "out for validation (--val_fraction)"
        )
    elif not parts.splits.val:
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
    sizes = image_sizes(parts.layout, settings)
    prompts = parts.prompts
    collator = Collator(parts.tokenizer.pad_token_id or 0, settings.prompt_tokens)
    train_set = SampleDataset(parts.splits.train, prompts, sizes, parts.modalities)
    batches = training_loader(
        train_set,
        collator,
        settings,
        seed=settings.seed,
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
        if not parts.splits.val:
            return {}
        val_set = SampleDataset(parts.splits.val, prompts, sizes, parts.modalities)
        loader = evaluation_loader(
            val_set, collator, settings, micro_batch=settings.batch_size, rank=rank
        )
        with engines.averaged():
            scores = validate(engines, loader, settings)
            kept.offer(step, scores)
        return scores

    last_scores = train(
        engines,
        batches,
        settings,
        samples=len(train_set),
        rank=rank,
        flops_per_token=flops_per_token(parts.layout, settings),
        hooks=LoopHooks(validate=score, log=metrics.write, say=say),
    )
    with engines.averaged():
        final = kept.finish(last_scores)
    say(f"trained weights: {final}" + (" and best" if parts.splits.val else ""))


def _build(settings: Settings, rank: Rank, save_dir: Path, say: Callable[[str], None]) -> _Parts:
    layout = read_layout(settings.vlm_path, settings.vision_tower)
    tokenizer = load_tokenizer(layout)
    prompts = prompt_encoder(tokenizer, layout, settings)
    splits = _read_splits(settings, prompts, rank, save_dir, say)
    modalities = modality_vocabulary(splits.train)
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
    return _Parts(layout, tokenizer, prompts, splits, modalities, mllm, segmentation)


def _freeze(settings: Settings, mllm: Mllm, segmentation: SegmentationBranch) -> None:
    if settings.freeze_mllm:
        mllm.requires_grad_(False)
    if settings.freeze_encoder:
        segmentation.freeze_encoder()
    if settings.freeze_decoder:
        segmentation.freeze_decoder()


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
