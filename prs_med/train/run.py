"""One training run, from settings to trained weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import CheckpointName, Manifest
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.config import Settings, names_in
from prs_med.data.augment import Augmentation, words_can_be_flipped
from prs_med.data.collate import Collator
from prs_med.data.order import Rank
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError, Record
from prs_med.data.rows import Verified, look_into, read_records, rows_digest
from prs_med.data.samples import Preparation
from prs_med.data.split import Splits, divide
from prs_med.data.stored_split import StoredSplit
from prs_med.data.stream.streamed_data import StreamedData, StreamOptions
from prs_med.data.training_data import LocalData, TrainingData
from prs_med.export.trained_folder import export_trained
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.compiled import compile_regions
from prs_med.model.fingerprint import frozen_fingerprint, language_model_fingerprint
from prs_med.model.initial_weights import (
    frozen_adapter,
    frozen_mllm_fingerprint,
    initial_mllm,
    initial_modalities,
    initial_segmentation,
)
from prs_med.model.liger import require_liger, use_liger_kernel
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.mllm import Mllm, flops_per_token, load_tokenizer
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.trained_weights import SPLIT
from prs_med.settings_io import save_settings
from prs_med.storage import strict_json
from prs_med.train import deepspeed_own_check, distributed
from prs_med.train.bad_steps import BadStep, RollBack, without
from prs_med.train.checkpoints import Checkpoints
from prs_med.train.deepspeed_config import load_deepspeed_config
from prs_med.train.ending import EndInTime
from prs_med.train.engines import Engines
from prs_med.train.heartbeat import Heartbeat
from prs_med.train.loop import LoopHooks, total_steps, train
from prs_med.train.mapping_check import check_mapping
from prs_med.train.metrics_log import MetricsLog
from prs_med.train.partition import is_partitioned
from prs_med.train.progress import Progress
from prs_med.train.rank_times import RankSeconds
from prs_med.train.resume import go_back, resume
from prs_med.train.run_report import RunReport
from prs_med.train.save_places import METRICS, SavePlaces, open_places
from prs_med.train.status import write_status
from prs_med.train.stop_requests import StopRequests, watch_for_stop
from prs_med.train.validation import Validation
from prs_med.train.watchdog import Watchdog

RANKS = "ranks.jsonl"
"""How long each process waited for data and computed."""
EVENTS = "events.jsonl"
"""Bad steps, with their samples."""


@dataclass(frozen=True)
class _Parts:
    """What is read and built before the engines start."""

    layout: LlavaLayout
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptEncoder
    data: TrainingData
    split: bytes | None
    """The content of ``split.json``; None for datasets of earlier versions, which have none."""
    modalities: tuple[str, ...]
    mllm: Mllm
    segmentation: SegmentationBranch


@dataclass(frozen=True)
class _Logs:
    """Where the numbers of a run go."""

    metrics: MetricsLog
    ranks_file: Path | None
    """Seconds of each process; None where another process writes them, as for the next."""
    events_file: Path | None
    report: RunReport | None
    say: Callable[[str], None]

    def ranks(self, step: int, seconds: RankSeconds) -> None:
        """Write how long each process took, and say so if one holds up the others."""
        if self.ranks_file is not None:
            row = {"step": step, "data_s": seconds.data, "forward_s": seconds.forward}
            with self.ranks_file.open("a", encoding="utf-8") as file:
                file.write(strict_json.dumps(row) + "\n")
        if seconds.complaint():
            self.say(f"step {step}: {seconds.complaint()}")

    def bad_step(self, bad: BadStep, action: str) -> None:
        """Write what happened at a bad step, and say so."""
        if self.events_file is not None:
            with self.events_file.open("a", encoding="utf-8") as file:
                file.write(strict_json.dumps(bad.as_json(action)) + "\n")
        told = "skipped" if action == "skip" else action
        self.say(f"step {bad.step}: {bad.cause}; {told}. Its samples are in {EVENTS}")

    def write(self, step: int, values: dict[str, float]) -> None:
        self.metrics.write(step, values)
        if self.report is not None:
            self.report.update()


def run(settings: Settings) -> str:
    """Train as the settings say; every process of the job calls this.

    Args:
        settings: with all that training requires (``settings.require()``).

    Returns:
        What asked the run to end, after saving, before its last step; empty if it is complete.

    Raises:
        SettingError, DataError, CheckpointError, StorageError: with a message for the user.
    """
    rank = distributed.start()
    given, settings = settings, settings.for_processes(rank.world)
    say = _speaker(rank)
    config = load_deepspeed_config(
        Path(settings.deepspeed), settings, rank.world, deepspeed_own_check.conflicts
    )
    save_dir = Path(settings.save_dir)

    def last_words(reason: str) -> None:
        if rank.index == 0:
            write_status(save_dir, "stopped", stop.step, reason)
            stop.answered(stopped=True)

    with watch_for_stop(save_dir) as stop, EndInTime(stop, settings.stop_seconds, last_words):
        places = open_places(settings, rank, say)
        try:
            if rank.index == 0:
                save_settings(given, save_dir / "settings.yaml")
            return _run(settings, rank, config, save_dir, places, stop, say)
        finally:
            places.release()


def _run(
    settings: Settings,
    rank: Rank,
    config: dict[str, Any],
    save_dir: Path,
    places: SavePlaces,
    stop: StopRequests,
    say: Callable[[str], None],
) -> str:
    transformers.set_seed(settings.seed)
    parts = _build(settings, rank, save_dir, say, on_host=is_partitioned(config))
    what = "images with all their questions" if settings.batch_by_image else "samples"
    say(
        f"{parts.data.units} training {what} and {parts.data.validation_samples} validation "
        f"samples, modalities: {', '.join(parts.modalities) or 'none named'}"
    )
    if not parts.data.validation_samples:
        say("no validation: no row is labelled val, and nothing is held out")
    adapter = frozen_adapter(parts.mllm)
    identity = {
        "base": distributed.once(lambda: _base_fingerprint(parts, settings)),
        "modalities": list(parts.modalities),
    }
    engines = Engines(parts.mllm, parts.segmentation, settings, config)
    check_mapping(engines.trained, settings.deepspeed)
    global_batch = settings.batch_size * settings.gradient_accumulation_steps * rank.world
    checkpoints = Checkpoints(
        settings,
        rank,
        places,
        engines,
        stop,
        epoch_steps=parts.data.units / global_batch,
        fixed_buffers={f"mllm/{name}": value.numpy() for name, value in adapter.items()},
        fixed_state=identity,
        fixed_files={} if parts.split is None else {SPLIT: parts.split},
    )

    def check_state(state: Mapping[str, Any]) -> None:
        parts.data.steps_of(state["data"], global_batch)

    resumed = resume(settings, places, checkpoints, identity, check_state, say)
    progress = Progress(engines.device, rank)
    if resumed is not None:
        progress.load(resumed.manifest.state["progress"])
        say(f"going on after step {progress.step}, from {resumed.name}")
    if rank.index == 0:
        write_status(save_dir, "running", progress.step)
    metrics = MetricsLog(save_dir / METRICS, engines.monitor, rank.index == 0)
    report = _report(settings, save_dir, rank)
    logs = _Logs(
        metrics,
        save_dir / RANKS if rank.index == 0 else None,
        save_dir / EVENTS if rank.index == 0 else None,
        report,
        say,
    )
    try:
        stopped_by = _train(
            settings,
            rank,
            parts,
            engines,
            logs,
            checkpoints,
            progress,
            resumed,
            stop,
            global_batch,
            lambda: go_back(settings, places, checkpoints, identity, check_state, say),
            say,
        )
    finally:
        metrics.close()
    checkpoints.close(hurry=bool(stopped_by))
    if not stopped_by:
        say("writing the trained weights")
        distributed.once(lambda: _export(checkpoints, save_dir, say))
    if rank.index == 0:
        write_status(save_dir, "stopped" if stopped_by else "complete", progress.step, stopped_by)
    if report is not None:
        report.finish()
    stop.answered(stopped=bool(stopped_by))
    return stopped_by


def _train(
    settings: Settings,
    rank: Rank,
    parts: _Parts,
    engines: Engines,
    logs: _Logs,
    checkpoints: Checkpoints,
    progress: Progress,
    resumed: CheckpointReader | None,
    stop: StopRequests,
    global_batch: int,
    return_to_checkpoint: Callable[[], Manifest],
    say: Callable[[str], None],
) -> str:
    preparation = Preparation(
        parts.prompts,
        image_sizes(parts.layout, settings),
        parts.modalities,
        Augmentation(settings.augment_intensity, settings.augment_flip),
    )
    pad_token = parts.tokenizer.pad_token_id or 0
    collator = Collator(pad_token, settings.prompt_tokens, settings.share_image_prefix)
    data = parts.data

    heartbeat = Heartbeat()
    validation = Validation(
        settings,
        rank,
        engines,
        data,
        preparation,
        Collator(pad_token, settings.prompt_tokens),
        parts.tokenizer,
        beat=lambda: heartbeat.enter("validating", progress.step),
        asked=stop.reason,
    )

    def state() -> dict[str, Any]:
        step = progress.step
        return {
            "progress": progress.dumps(),
            "scores": progress.scores if step == progress.scored_at else {},
            "epoch": step * global_batch / data.units,
            "samples": step * global_batch,
            "data": data.state(global_batch, progress.next_batch),
            "schedule": {"total_steps": total_steps(settings, data.units, rank.world)},
        }

    checkpoints.start(progress.step, resumed, state, say)
    hooks = LoopHooks(
        validates=data.validation_samples > 0,
        validate=validation.scores,
        log=logs.write,
        say=say,
        before_validation=lambda step: checkpoints.before_validation(step, state),
        after_validation=lambda step: checkpoints.after_validation(step, state),
        after_step=lambda step: checkpoints.after_step(step, state),
        log_ranks=logs.ranks,
        bad_step=logs.bad_step,
    )

    def train_on() -> str:
        first = progress.next_batch
        batches = data.training_batches(
            preparation,
            collator,
            micro_batch=settings.batch_size,
            accumulation=settings.gradient_accumulation_steps,
            rank=rank,
            first_step=first,
        )
        with closing(batches), Watchdog(heartbeat, rank, settings.hang_timeout):
            return train(
                engines,
                without(
                    batches, first, settings.gradient_accumulation_steps, progress.skipped_batches
                ),
                settings,
                units=data.units,
                rank=rank,
                flops_per_token=flops_per_token(parts.layout, settings),
                hooks=hooks,
                progress=progress,
                heartbeat=heartbeat,
            )

    stopped_by = None
    while stopped_by is None:
        try:
            stopped_by = train_on()
        except RollBack as event:
            manifest = return_to_checkpoint()
            progress.go_back(manifest.state["progress"], event.bad)
            say(f"{event}; going on from step {progress.step} without its batch")
    checkpoints.finish(progress.step, state, stopped=bool(stopped_by))
    return stopped_by


def _report(settings: Settings, save_dir: Path, rank: Rank) -> RunReport | None:
    """The report of the run; the first process alone draws it."""
    if rank.index:
        return None
    return RunReport(save_dir, save_dir / METRICS, asdict(settings))


def _base_fingerprint(parts: _Parts, settings: Settings) -> dict[str, dict[str, str]]:
    return {
        "language model": language_model_fingerprint(parts.layout),
        "frozen adapter": frozen_mllm_fingerprint(parts.mllm, settings),
        "frozen segmentation side": frozen_fingerprint(parts.segmentation),
    }


def _export(checkpoints: Checkpoints, save_dir: Path, say: Callable[[str], None]) -> None:
    exported = checkpoints.best_and_last()
    for kind, names in exported.items():
        _export_first_whole(checkpoints, names, save_dir / kind, say)
    say(f"trained weights: {' and '.join(str(save_dir / kind) for kind in exported)}")


def _export_first_whole(
    checkpoints: Checkpoints,
    names: Sequence[CheckpointName],
    folder: Path,
    say: Callable[[str], None],
) -> None:
    for name in names[:-1]:
        try:
            return export_trained(checkpoints.reader_of(name), folder)
        except BrokenCheckpointError as error:
            say(f"WARNING: {error}; {folder} is made from the next best")
    return export_trained(checkpoints.reader_of(names[-1]), folder)


def _build(
    settings: Settings, rank: Rank, save_dir: Path, say: Callable[[str], None], on_host: bool
) -> _Parts:
    """``on_host``: load the language model as of :func:`prs_med.model.llava_loading.load_llava`."""
    if settings.use_liger_kernel:
        require_liger()
    layout = read_layout(settings.vlm_path, settings.vision_tower)
    tokenizer = load_tokenizer(layout)
    prompts = prompt_encoder(tokenizer, layout, settings)
    data: TrainingData
    if settings.data:
        data = _streamed(settings, prompts, rank, say)
        split = data.split
    else:
        splits, contents = _read_splits(settings, prompts, rank, save_dir, say)
        data = LocalData(
            splits.train, splits.val, seed=settings.seed, num_workers=settings.num_workers
        )
        split = distributed.once(lambda: _stored_split(splits, contents))
    if split is not None and rank.index == 0:
        (save_dir / SPLIT).write_bytes(split)
        if settings.init_from:
            _compare_splits(Path(settings.init_from), split, say)
    set_matrix_products(settings)
    modalities = initial_modalities(settings, data.modalities)
    mllm = initial_mllm(settings, layout, on_host)
    segmentation = initial_segmentation(settings, mllm.hidden_size, modalities)
    if settings.use_liger_kernel:
        use_liger_kernel(mllm)
    if settings.compile_model:
        compile_regions(mllm, segmentation, names_in(settings.compile_regions))
    return _Parts(layout, tokenizer, prompts, data, split, modalities, mllm, segmentation)


def set_matrix_products(settings: Settings) -> None:
    """Let GPUs compute those in fp32 in TF32, in this whole process, if the settings say so."""
    if settings.segmentation_precision == "tf32":
        torch.set_float32_matmul_precision("high")


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
    if not data.surely_fits(prompts):
        say("reading all texts, because some may be longer than --max_length")
        distributed.each(lambda: data.check_lengths(prompts, rank))
    for text in (data.held_out, data.shared_groups):
        if text:
            say(f"{settings.data}: {text}")
    if settings.augment_flip:
        say(
            "questions with words that --augment_flip does not know leave their images as they "
            "are; 'launch/data.py stats' counts them, 'check' lists them"
        )
    return data


def _read_splits(
    settings: Settings,
    prompts: PromptEncoder,
    rank: Rank,
    save_dir: Path,
    say: Callable[[str], None],
) -> tuple[Splits, dict[Path, str]]:
    """The rows of each split, and the digests of their images, if they are looked into."""
    annotations = read_records(settings)
    records, bad_rows = annotations.records, annotations.bad_rows
    digests = distributed.gathered(rows_digest(records))
    for index, digest in enumerate(digests):
        if digest != digests[0]:
            raise DataError(
                f"--data_root {settings.data_root}: rank {index} finds other rows there than rank 0"
            )
    contents: dict[Path, str] = {}
    if settings.verify_files:
        first = rank.index == 0
        looked = distributed.each(
            lambda: look_into(records, prompts, settings.num_workers, first, rank)
        )
        verified = Verified.of(records, looked)
        if verified.bad_rows and settings.on_bad_rows == "error":
            more = len(verified.bad_rows) - 1
            raise DataError(verified.bad_rows[0] + (f" (and {more} more rows)" if more else ""))
        records, bad_rows = verified.records, bad_rows + verified.bad_rows
        contents = verified.contents
    splits = divide(records, settings, settings.seed)
    if not splits.train:
        raise DataError(f"--data_root {settings.data_root}: no row belongs to the train split")
    if splits.how:
        say(splits.how)
    not_flipped = _not_flipped(splits.train) if settings.augment_flip else []
    listings = {
        "bad_rows.txt": (f"skipped {len(bad_rows)} bad rows", bad_rows),
        "repaired_rows.txt": (
            f"repaired unquoted commas in {len(annotations.repaired_rows)} rows",
            annotations.repaired_rows,
        ),
        "shared_groups.txt": (splits.shared_groups_text, splits.shared_groups),
        "not_flipped.txt": (
            f"{len(not_flipped)} training questions have words that --augment_flip does not know: "
            "their images stay as they are",
            not_flipped,
        ),
    }
    for name, (message, lines) in listings.items():
        if lines:
            say(f"{message}, listed in {save_dir / name}")
            if rank.index == 0:
                (save_dir / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return splits, contents


def _not_flipped(records: Sequence[Record]) -> list[str]:
    return [
        f"{record.row_id}: {record.question!r}, {record.answer!r}"
        for record in records
        if not words_can_be_flipped(record.question, record.answer)
    ]


def _stored_split(splits: Splits, contents: Mapping[Path, str]) -> bytes:
    """What is kept of the division, so that it need not be made again."""
    records = [*splits.train, *splits.val, *splits.test]
    known = {r.image_path: contents[r.image_path] for r in records if r.image_path in contents}
    return StoredSplit.of(splits, known).dumps()


def _compare_splits(init_from: Path, split: bytes, say: Callable[[str], None]) -> None:
    """Say so if the weights to go on from have seen images that are held out here."""
    before = init_from / SPLIT
    if not before.exists():
        return
    seen = StoredSplit.parse(before.read_bytes(), str(before))
    for line in seen.seen_of(StoredSplit.parse(split, SPLIT)):
        say(f"WARNING: --init_from {init_from}: {line}")


def _speaker(rank: Rank) -> Callable[[str], None]:
    logger = logging.getLogger("prs_med")

    def say(message: str) -> None:
        if rank.index == 0:
            logger.info(message)

    return say
