"""Datasets for training: make, check and look at them.

python launch/data.py slices     --scans DIR --masks DIR --task NAME --output DATA_ROOT
    DICOM and NIfTI scans become images and masks.

python launch/data.py annotate   --data_root DATA_ROOT
    Images and masks get questions and answers: a CSV file.

python launch/data.py build      --data_root DATA_ROOT --output s3://bucket/dataset
    CSV files, images and masks become Parquet shards with dataset.json, in a folder or on S3, for
    launch/train.py --data. A build that was interrupted goes on where it was.

python launch/data.py check      --data s3://bucket/dataset
    Every byte, image, mask, zone and answer of a dataset is checked.

python launch/data.py stats      --data s3://bucket/dataset
    Tables and a picture sheet of what a dataset holds.

python launch/data.py synthesize --output DATA_ROOT
    Phantom images of any number and size, to try things out.

Each command has its own --help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prs_med.checked_settings import SettingError
from prs_med.data_config import (
    AnnotateSettings,
    BuildSettings,
    CheckSettings,
    SlicesSettings,
    StatsSettings,
    SynthesizeSettings,
)
from prs_med.mask_classes import parse_classes
from prs_med.programs.commands import Command, run_command
from prs_med.programs.program import program
from prs_med.storage.results_folder import check_file, check_folder, claim_folder


@program
def main(argv: Sequence[str]) -> int:
    """Run a command and return the exit status: 0 done, 1 'check' found something, 2 a mistake in
    settings or data."""
    return run_command("python launch/data.py", __doc__ or "", COMMANDS, argv)


def run_build(settings: BuildSettings) -> int:
    """``build``."""
    if "://" not in settings.output:
        check_folder("output", settings.output)

    from prs_med.data.dataset.build import Layout, build
    from prs_med.data.rows import choose_classes, divide_usable, read_records
    from prs_med.storage.location import open_store

    annotations = read_records(settings)
    records = annotations.records
    unclassed: list[str] = []
    if settings.classes:
        classes = parse_classes(settings.classes)
        records, unclassed = choose_classes(records, classes, settings.on_bad_rows)
    splits, unusable = divide_usable(
        records, settings, settings.seed, settings.num_workers, show_progress=True
    )
    _list("rows with commas outside quotes were repaired", annotations.repaired_rows)
    if splits.shared_groups:
        print("\n  ".join([f"{splits.shared_groups_text}:", *splits.shared_groups]))
    if splits.how:
        print(splits.how)
    built = build(
        splits,
        Path(settings.data_root),
        open_store(settings.output),
        Layout(
            row_group_bytes=int(settings.row_group_mb * 2**20),
            shard_bytes=int(settings.shard_mb * 2**20),
            shuffle=settings.shuffle,
            seed=settings.seed,
        ),
        held_out=splits.how,
        skip_bad_rows=settings.on_bad_rows == "skip",
        allow_duplicates=settings.allow_duplicates,
        workers=settings.num_workers,
        show_progress=True,
    )
    _list("bad rows were skipped", [*annotations.bad_rows, *unclassed, *unusable, *built.bad_rows])
    _list("images or masks are in several splits", built.index.duplicates)
    if built.removed:
        print(f"{built.removed} shards of an earlier build that was not finished were removed")
    for line in built.left:
        print(f"not removed: {line}")
    for name, split in built.index.splits.items():
        print(f"{name}: {split.rows} images, {split.targets} questions, {len(split.shards)} shards")
    state = f"{built.written} shards written" if built.written else "there already"
    print(f"{settings.output}: {state}; give it as --data to launch/train.py")
    return 0


def _list(what: str, lines: Sequence[str]) -> None:
    """Print how many there are, and each."""
    if lines:
        print(f"{len(lines)} {what}:")
        for line in lines:
            print(f"  {line}")


def run_synthesize(settings: SynthesizeSettings) -> int:
    """``synthesize``."""
    output = check_folder("output", settings.output)
    if output.exists() and any(output.iterdir()):
        raise SettingError(f"--output {output} is not empty: give a new folder")

    from prs_med.data.phantoms import write_phantoms

    images = {"train": settings.train, "val": settings.val, "test": settings.test}
    write_phantoms(output, images, size=settings.size, seed=settings.seed, show_progress=True)
    print(f"{output}: {sum(images.values())} images; give it as --data_root to 'build'")
    return 0


def run_check(settings: CheckSettings) -> int:
    """``check``."""
    output = check_file("output", settings.output) if settings.output else None

    from prs_med.data.dataset.check import check
    from prs_med.data.position_words import position_words
    from prs_med.storage.location import open_store

    tables = position_words(settings.position_words)
    findings = check(open_store(settings.data), settings.num_workers, True, tables)
    print(findings.table())
    if output:
        try:
            findings.write(output)
        except OSError as error:
            raise SettingError(f"--output {output}: {error.strerror}") from None
        print(f"all findings: {output}")
    return 1 if findings.errors else 0


def run_stats(settings: StatsSettings) -> int:
    """``stats``."""
    output = check_folder("output_dir", settings.output_dir)

    from prs_med.data.dataset.stats import RESULTS, stats
    from prs_med.data.position_words import position_words
    from prs_med.storage.location import open_store

    tables = position_words(settings.position_words)
    found = stats(open_store(settings.data), settings.pictures, True, tables)
    claim_folder("output_dir", output, found.made_by, RESULTS, overwrite=settings.overwrite)
    found.write(output)
    print(found.table())
    print(f"details and pictures: {output}")
    return 0


def run_annotate(settings: AnnotateSettings) -> int:
    """``annotate``."""
    root = Path(settings.data_root)
    output = root / "annotations" / "annotated.csv"
    if settings.output is not None:
        output = check_file("output", settings.output)

    from prs_med.data.annotate import annotate, find_pairs

    summary = annotate(
        root,
        find_pairs(root, Path(settings.pairs) if settings.pairs else None),
        output,
        structure=settings.structure,
        classes=parse_classes(settings.classes) if settings.classes else (),
        seed=settings.seed,
        min_component=settings.min_component,
        questions_per_target=settings.questions_per_target,
        workers=settings.num_workers,
        show_progress=True,
    )
    print(summary.text())
    print(output)
    return 0


def run_slices(settings: SlicesSettings) -> int:
    """``slices``."""
    output = check_folder("output", settings.output)

    from prs_med.data.scans.slices import write_slices

    summary = write_slices(
        Path(settings.scans),
        Path(settings.masks) if settings.masks else None,
        output,
        task=settings.task,
        modality=settings.modality or settings.task,
        split=settings.split,
        window=settings.window,
        plane=settings.plane,
        label=settings.label,
        classes=parse_classes(settings.classes) if settings.classes else (),
        every=settings.every,
        keep_empty=settings.keep_empty,
        workers=settings.num_workers,
        show_progress=True,
    )
    print(summary.text())
    return 0


COMMANDS: dict[str, Command[Any]] = {
    "slices": Command(
        SlicesSettings,
        run_slices,
        "--scans scans --masks masks --task lung_CT --output data/lung",
    ),
    "annotate": Command(AnnotateSettings, run_annotate, "data/lung"),
    "build": Command(
        BuildSettings, run_build, "--data_root data/posmed --output s3://bucket/dataset"
    ),
    "check": Command(CheckSettings, run_check, "s3://bucket/dataset"),
    "stats": Command(StatsSettings, run_stats, "s3://bucket/dataset"),
    "synthesize": Command(SynthesizeSettings, run_synthesize, "data/phantoms --train 1000"),
}
