"""From scans to a data root: images and masks as PNG files, and the CSV file that names them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from prs_med.checked_settings import SettingError
from prs_med.data.columns import SPLITS
from prs_med.data.records import DataError
from prs_med.data.scans.cases import NIFTI, Case, check_safe, find_cases, has_ending
from prs_med.data.scans.dicom import read_dicom
from prs_med.data.scans.masks import read_mask
from prs_med.data.scans.nifti import PLANES, read_nifti
from prs_med.data.scans.pairs import Pair, other_splits, pairs_text
from prs_med.data.scans.scan import Scan
from prs_med.data.scans.window import Window, parse_window, percentile_window
from prs_med.mask_classes import MaskClass
from prs_med.storage.directory import DirectoryStore


@dataclass(frozen=True)
class Summary:
    """What was written, and what was not."""

    csv: Path
    """The CSV file."""
    cases: int
    """Scans that were read."""
    slices: int
    """Images that were written; with masks as many masks, or one for each class that is there."""
    empty: int
    """Slices that were left out because nothing in them is foreground."""
    empty_cases: list[str]
    """Cases of which no slice was written for that reason, as they are named in the output."""
    renamed: list[str]
    """Names in the output of cases whose own name held an identifier of the patient or the scan."""
    burned_in: list[str]
    """Cases whose pixels show identifying text, by their own account."""
    one_patient: bool
    """Whether several scans were read that all have one patient ID."""
    unused: list[str]
    """What the folders hold besides scans and their masks."""
    united: list[str]
    """Cases whose masks have several values that count as one structure, and these values."""
    absent: list[str]
    """Classes that no mask has."""
    left_over: list[str]
    """PNG files of this task and split that an earlier run wrote and this one did not."""

    def text(self) -> str:
        """The summary in lines; lists are complete."""
        lines = [f"{self.cases} scans: {self.slices} slices written, named in {self.csv}"]
        if self.one_patient:
            lines.append(
                "all scans have one patient ID, so they count as one patient and none of them can "
                "be held out; if it stands for nobody, as ANONYMOUS does, correct patient_id in "
                "the CSV file"
            )
        if self.empty:
            lines.append(f"{self.empty} slices with an empty mask were left out")
        for what, names in (
            ("scans have no foreground in any slice", self.empty_cases),
            ("scans were given other names, to leave out what identifies them", self.renamed),
            ("scans say that their pixels show identifying text: look at them", self.burned_in),
            (
                "masks have several values, which count as one structure (--classes makes a mask "
                "of each, --label takes one)",
                self.united,
            ),
            ("classes are in no mask", self.absent),
            ("files or folders were not used", self.unused),
            ("files of an earlier run are in the folders, but not in the CSV file", self.left_over),
        ):
            if names:
                lines += [f"{len(names)} {what}:", *(f"  {name}" for name in names)]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Job:
    """What is the same for all cases."""

    store: DirectoryStore
    task: str
    modality: str
    split: str
    window: Window | None
    plane: str
    label: int | None
    classes: Sequence[MaskClass]
    every: int
    keep_empty: bool
    taken: dict[str, str] = field(default_factory=dict)
    """Names in the output, and the case that each is of."""

    def name(self, kind: str, case: str, number: int, shown: MaskClass | None = None) -> str:
        """``TASK/SPLIT_images/CASE_slice_0000.png``, or with ``masks``; of a class
        ``TASK/SPLIT_masks/CASE_slice_0000_tumor.png``."""
        of_class = f"_{shown.file_name}" if shown else ""
        return f"{self.task}/{self.split}_{kind}/{case}_slice_{number:04d}{of_class}.png"


@dataclass(frozen=True)
class _Written:
    name: str
    pairs: list[Pair]
    empty: int
    renamed: bool
    burned_in: bool
    united: tuple[int, ...]


def write_slices(
    scans: Path,
    masks: Path | None,
    output: Path,
    task: str,
    modality: str,
    split: str,
    window: str,
    plane: str,
    label: int | None,
    every: int,
    keep_empty: bool,
    workers: int,
    show_progress: bool,
    classes: Sequence[MaskClass] = (),
) -> Summary:
    """Write the slices of all scans in a folder, and last ``{output}/{task}_pairs.csv``.

    Images are ``{task}/{split}_images/{case}_slice_{index:04d}.png``, 8 bits grey or RGB; masks are
    ``{split}_masks/`` with the same name, 0 and 255. The index counts all slices of the scan, also
    those that are left out. A file gets its name when it is complete, and the same input gives the
    same bytes. Rows of other splits stay in the CSV file; those of this split are replaced.

    ``patient_id`` is a pseudonym of the DICOM patient ID, or the case where there is none. Names of
    DICOM cases that hold an identifier get its pseudonym instead.

    Args:
        scans: folder of scans; see :func:`prs_med.data.scans.cases.find_cases`.
        masks: folder of masks under the same names. Without it all slices are written, and
            ``mask_path`` is empty.
        output: the data root.
        task: name of the task, a folder in the data root.
        modality: name of the modality, for the CSV file.
        split: ``train``, ``val`` or ``test``.
        window: see :func:`prs_med.data.scans.window.parse_window`; colour scans have none.
        plane: one of :data:`prs_med.data.scans.nifti.PLANES`. DICOM slices keep the stored plane;
            another than ``axial`` must be the one that they are in.
        label: mask value that counts; None for all above 0.
        every: take the slices 0, ``every``, 2 × ``every`` and so on.
        keep_empty: also write slices without foreground.
        workers: threads; each holds one scan in memory, 4 bytes for each voxel and its mask.
        show_progress: draw a progress bar.
        classes: the classes of the masks' values, instead of ``label``. Each gets a mask of its
            own, ``{case}_slice_{index:04d}_{class}.png``, on the slices that show it, and a row
            with its name as ``structure``.

    Raises:
        SettingError: a value cannot be used, or a library is missing.
        DataError: a scan or a mask cannot be used; the CSV file is then as it was.
    """
    job = _Job(
        store=DirectoryStore(output, through_links=False),
        task=task,
        modality=modality,
        split=split,
        window=parse_window(window),
        plane=plane,
        label=label,
        classes=classes,
        every=every,
        keep_empty=keep_empty,
    )
    _check(job)
    found = find_cases(scans, masks)
    csv = output / f"{task}_pairs.csv"
    others = other_splits(csv, split)
    written = _write_all(found.cases, job, workers, show_progress)
    pairs = [pair for case in written for pair in case.pairs]
    if not pairs:
        which = "" if label is None else f" with the value {label}"
        raise DataError(f"{masks}: no slice has foreground{which}; nothing to write")
    job.store.write(csv.name, pairs_text([*others, *pairs]).encode())
    names = {path for pair in pairs for path in (pair.image_path, pair.mask_path)}
    folders = [f"{task}/{split}_{kind}/" for kind in ("images", "masks")]
    return Summary(
        csv=csv,
        cases=len(written),
        slices=len({pair.image_path for pair in pairs}),
        empty=sum(case.empty for case in written),
        empty_cases=[case.name for case in written if not case.pairs],
        renamed=[case.name for case in written if case.renamed],
        burned_in=[case.name for case in written if case.burned_in],
        one_patient=sum(bool(case.pairs) for case in written) > 1
        and len({pair.patient_id for pair in pairs}) == 1,
        united=[f"{c.name}: {', '.join(map(str, c.united))}" for c in written if c.united],
        absent=[c.name for c in classes if c.name not in {pair.structure for pair in pairs}],
        unused=[str(path) for path in found.unused],
        left_over=[n for f in folders for n in job.store.names(f) if n not in names],
    )


def _check(job: _Job) -> None:
    for name, value, allowed in (("split", job.split, SPLITS), ("plane", job.plane, PLANES)):
        if value not in allowed:
            raise SettingError(f"--{name} {value}: allowed are {', '.join(allowed)}")
    if job.label is not None and job.classes:
        raise SettingError("--label and --classes exclude each other: give one of them")
    if job.every < 1:
        raise SettingError(f"--every {job.every}: allowed is a positive number")
    try:
        check_safe(job.task, "--task")
    except DataError as error:
        raise SettingError(str(error)) from None


def _write_all(cases: Sequence[Case], job: _Job, workers: int, progress: bool) -> list[_Written]:
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        futures = [pool.submit(_write_case, case, job) for case in cases]
        try:
            bar = tqdm(futures, desc="slicing", unit="scan", disable=not progress, leave=False)
            return [future.result() for future in bar]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_case(case: Case, job: _Job) -> _Written:
    scan = _read_scan(case.scan, job.plane)
    name = scan.patient.without_identifiers(case.name)
    check_safe(name, str(case.scan))
    if job.taken.setdefault(name, case.name) != case.name:
        raise DataError(
            f"{case.scan} and the scan {job.taken[name]!r} are both {name!r} without what "
            "identifies the patient; rename one"
        )
    mask = None if case.mask is None else read_mask(case.mask, scan, job.label, job.classes)
    masks = {} if mask is None else mask.structures
    chosen = range(0, len(scan.pixels), job.every)
    kept = [
        number
        for number in chosen
        if mask is None or job.keep_empty or any(shown[number].any() for shown in masks.values())
    ]
    colour = scan.pixels.ndim == 4
    window = job.window or scan.window or (None if colour else percentile_window(scan.pixels))
    pairs = []
    for number in kept:
        image_path = job.name("images", name, number)
        job.store.write(image_path, _png(scan.picture(number, window or Window(0, 255))))
        about = (job.task, job.modality, job.split, scan.patient.pseudonym or name)
        if mask is None:
            pairs.append(Pair(image_path, "", *about))
        for one, shown in masks.items():
            if one is not None and not (job.keep_empty or shown[number].any()):
                continue
            mask_path = job.name("masks", name, number, one)
            job.store.write(mask_path, _png(shown[number].astype(np.uint8) * np.uint8(255)))
            pairs.append(Pair(image_path, mask_path, *about, one.name if one else ""))
    return _Written(
        name,
        pairs,
        len(chosen) - len(kept),
        name != case.name,
        scan.burned_in,
        mask.united if mask else (),
    )


def _read_scan(path: Path, plane: str) -> Scan:
    if has_ending(path, *NIFTI):
        return read_nifti(path, plane)
    scan = read_dicom(path)
    if plane != "axial":
        # The axis of the patient that the slices are stacked along: right, anterior, superior.
        along = None if scan.grid is None else int(np.abs(scan.grid.affine[:3, 0]).argmax())
        if along != {"sagittal": 0, "coronal": 1}[plane]:
            raise DataError(
                f"{path}: --plane {plane}, but DICOM slices are taken as they are stored, and "
                "these are in another plane; convert the scan to NIfTI"
            )
    return scan


def _png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 as the bytes of a PNG file, which hold nothing but the pixels."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
