"""What a dataset holds: counts, sizes and lengths as tables, and a sheet of samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from prs_med.data.answer_position import ENGLISH, parse_position
from prs_med.data.augment import words_can_be_flipped
from prs_med.data.dataset.index import DatasetIndex, Shard, read_index
from prs_med.data.dataset.row_groups import read_footer, read_row_group
from prs_med.data.dataset.small_columns import TARGET, read_small_columns
from prs_med.data.dataset.stored import StoredImage
from prs_med.data.images import decode_image, decode_mask
from prs_med.data.language import is_in_other_language
from prs_med.data.overlay import fitted, overlay
from prs_med.data.position import ZONES
from prs_med.data.position_words import PositionWords
from prs_med.storage.store import Store

RESULTS = ("stats.json", "samples.png")
"""What `Stats.write` writes."""
_TILE = 160
_MARGIN = 8
_COLUMNS = 6
_COLOURS = ((46, 160, 67), (217, 72, 15), (54, 116, 217), (190, 60, 190))
_COLUMNS_READ = [
    *("width", "height", "modality", "group"),
    *(f"{TARGET}.{name}" for name in ("question", "answer", "zone", "near_center")),
]


@dataclass
class Part:
    """The images of one modality in one split."""

    images: int = 0
    questions: int = 0
    groups: set[str] = field(default_factory=set)
    zones: Counter[str] = field(default_factory=Counter)
    near: int = 0
    unclear: int = 0
    """Answers that name no zone, or not one that is understood."""
    other_language: int = 0
    """Answers in a language that is not read."""
    not_flipped: int = 0
    """Questions whose words keep an image from being flipped."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    question_lengths: list[int] = field(default_factory=list)
    answer_lengths: list[int] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The numbers of the part."""
        widths = np.repeat([w for w, _ in self.sizes], list(self.sizes.values()))
        heights = np.repeat([h for _, h in self.sizes], list(self.sizes.values()))
        return {
            "images": self.images,
            "questions": self.questions,
            "patients_or_studies": len(self.groups),
            "zones": {zone: self.zones[zone] for zone in (*ZONES, "empty")},
            "near_center": self.near,
            "unclear_answers": self.unclear,
            "answers_in_other_language": self.other_language,
            "not_flipped": self.not_flipped,
            "width": _range(widths),
            "height": _range(heights),
            "question_characters": _range(self.question_lengths),
            "answer_characters": _range(self.answer_lengths),
        }


@dataclass(frozen=True)
class Stats:
    """What was found."""

    parts: dict[tuple[str, str], Part]
    """By split and modality."""
    sheet: Image.Image | None
    made_by: dict[str, str]
    """Of which dataset; see :mod:`prs_med.storage.results_folder`."""

    def table(self) -> str:
        """Counts, zones, sizes and text lengths, a line for each split and modality."""
        short = {zone: "".join(word[0] for word in zone.split()) for zone in ZONES}
        short["center"], short["empty"] = "center", "empty"
        head = ["split", "modality", "images", "questions", *short.values()]
        head += ["near", "unclear", "n/a", "unflipped", "width", "height", "answer"]
        lines = [head]
        for (split, modality), part in self.parts.items():
            numbers = part.as_json()
            lines.append(
                [split, modality or "(none)", str(part.images), str(part.questions)]
                + [str(part.zones[zone]) for zone in short]
                + [str(part.near), str(part.unclear), str(part.other_language)]
                + [str(part.not_flipped)]
                + [_text(numbers[name]) for name in ("width", "height", "answer_characters")]
            )
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        legend = (
            "(tl, tr, bl, br: top left ... bottom right, by the masks; unclear: answers that name "
            "no zone,\nor not one that is understood; n/a: answers in another language; unflipped: "
            "questions with\nwords that --augment_flip does not know; widths and heights in "
            "pixels, answers in characters,\nleast to most)"
        )
        return "\n".join([*text, legend])

    def write(self, folder: Path) -> None:
        """Write ``stats.json`` and, with pictures, ``samples.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        splits: dict[str, dict[str, Any]] = {}
        for (split, modality), part in self.parts.items():
            splits.setdefault(split, {})[modality] = part.as_json()
        text = json.dumps(splits, indent=2) + "\n"
        (folder / "stats.json").write_text(text, encoding="utf-8")
        if self.sheet:
            self.sheet.save(folder / "samples.png")


def stats(
    store: Store,
    pictures: int,
    show_progress: bool,
    tables: Sequence[PositionWords] = ENGLISH,
) -> Stats:
    """Read all but images and masks; ``pictures`` images are read, of each modality alike.
    ``tables`` are the languages in which answers are read.

    Raises:
        DataError: there is no dataset, or a part of it is missing or damaged.
    """
    opened = read_index(store)
    index = opened.index
    parts: dict[tuple[str, str], Part] = {}
    places: dict[tuple[str, str], list[tuple[Shard, int, int]]] = {}
    total = sum(split.rows for split in index.splits.values())
    with tqdm(total=total, desc="reading", unit="image", disable=not show_progress) as bar:
        for name, shard in _shards(index):
            for number, rows in enumerate(read_small_columns(store, shard, _COLUMNS_READ)):
                for at, row in enumerate(rows):
                    key = (name, row["modality"])
                    _add(parts.setdefault(key, Part()), row, tables)
                    places.setdefault(key, []).append((shard, number, at))
                bar.update(len(rows))
    chosen = _chosen(places, pictures)
    made_by = {"command": "stats", "data": store.uri, "identity": opened.fingerprint[:12]}
    return Stats(dict(sorted(parts.items())), _sheet(store, chosen) if chosen else None, made_by)


def _shards(index: DatasetIndex) -> list[tuple[str, Shard]]:
    return [(name, shard) for name, split in index.splits.items() for shard in split.shards]


def _add(part: Part, row: dict[str, Any], tables: Sequence[PositionWords]) -> None:
    part.images += 1
    part.sizes[row["width"], row["height"]] += 1
    if row["group"]:
        part.groups.add(row["group"])
    for target in row["targets"]:
        part.questions += 1
        part.zones[target["zone"] or "empty"] += 1
        part.near += bool(target["near_center"])
        if is_in_other_language(target["answer"], tables):
            part.other_language += 1
        else:
            part.unclear += parse_position(target["answer"], tables).zone is None
        part.not_flipped += not words_can_be_flipped(target["question"], target["answer"])
        part.question_lengths.append(len(target["question"]))
        part.answer_lengths.append(len(target["answer"]))


def _chosen(
    places: dict[tuple[str, str], list[tuple[Shard, int, int]]], pictures: int
) -> list[tuple[str, Shard, int, int]]:
    """Which images are shown: the splits and modalities take turns, each evenly spread."""
    turns = []
    for number, (key, found) in enumerate(sorted(places.items())):
        wanted = len(range(number, pictures, len(places)))
        shown = min(wanted, len(found))
        turns += [(turn, key[0], *found[turn * len(found) // shown]) for turn in range(shown)]
    return [entry for _, *entry in sorted(turns, key=lambda turn: turn[0])]  # type: ignore[misc]


def _sheet(store: Store, chosen: Sequence[tuple[str, Shard, int, int]]) -> Image.Image:
    """The images with the outlines of their targets, each target in a colour of its own."""
    rows = -(-len(chosen) // _COLUMNS)
    text = 30
    sheet = Image.new(
        "RGB",
        (_COLUMNS * (_TILE + _MARGIN) + _MARGIN, rows * (_TILE + text + _MARGIN) + _MARGIN),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (split, shard, group, row) in enumerate(chosen):
        stored = read_row_group(store, shard, group, read_footer(store, shard)).image(row)
        left = _MARGIN + number % _COLUMNS * (_TILE + _MARGIN)
        top = _MARGIN + number // _COLUMNS * (_TILE + text + _MARGIN)
        sheet.paste(fitted(_drawn(stored), _TILE), (left, top))
        zones = ", ".join(dict.fromkeys(target.zone or "empty" for target in stored.targets))
        draw.text((left, top + _TILE + 2), f"{stored.modality or ''} ({split})"[:28], "black", font)
        draw.text((left, top + _TILE + 15), zones[:30], (110, 110, 110), font)
    return sheet


def _drawn(stored: StoredImage) -> Image.Image:
    image = decode_image(stored.image, stored.where)
    for number, target in enumerate(stored.targets):
        mask = decode_mask(target.mask, f"{stored.where} ({target.row_id})")
        image = overlay(image, mask.astype(bool), _COLOURS[number % len(_COLOURS)])
    return image


def _range(values: Sequence[int] | np.ndarray) -> dict[str, float]:
    numbers = np.asarray(values)
    return {
        "least": int(numbers.min()),
        "median": float(np.median(numbers)),
        "most": int(numbers.max()),
    }


def _text(numbers: dict[str, float]) -> str:
    least, most = numbers["least"], numbers["most"]
    return f"{least}" if least == most else f"{least}-{most}"
