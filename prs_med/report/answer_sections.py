"""What an evaluation says about the answers in words."""

from __future__ import annotations

from typing import Any

from prs_med.report import numbers
from prs_med.report.content import Block, Cell, Column, Listing, Note, Section, Table
from prs_med.report.measures import POSITION, TEXT, left_out, of_how_many
from prs_med.report.modality_table import summary_table

_SHOWN = 200
"""Most contradictions that a page lists; metrics.json has all."""


def position_section(metrics: dict[str, Any]) -> Section:
    """Whether answers name the right place, and which they take for which."""
    table = summary_table(
        metrics, "position", POSITION, "Places by modality: mean, 95 % interval, spread"
    )
    return Section(
        "position",
        "Position",
        "Whether the answer names the zone of the image in which the structure lies, and whether "
        "words and mask tell the same; left and right are those of the picture, not the patient's.",
        [
            table,
            *confusion_table(metrics["all"]["position"]["confusion"]),
            *_position_notes(metrics),
        ],
    )


def _position_notes(metrics: dict[str, Any]) -> list[Block]:
    """What the tables leave out, and where the data contradict themselves."""
    notes: list[Block] = []
    others = metrics["all"]["position"]["other_language"]
    if others:
        notes.append(
            Note(
                f"Not scored (n/a): {numbers.counted(others, 'question')} in a language that is "
                "not read; --position_words gives its words."
            )
        )
    disagreements = metrics["disagreements"]
    if disagreements:
        shown = disagreements[:_SHOWN]
        notes.append(
            Note(
                f"{numbers.counted(len(disagreements), 'reference answer')} of another place than "
                "the true mask has. The mask counts"
                + (f"; the first {_SHOWN} are listed." if len(disagreements) > _SHOWN else ".")
            )
        )
        notes.append(
            Listing([(one["row_id"], f"mask {one['true_zone']}: {one['answer']}") for one in shown])
        )
    return notes


def confusion_table(confusion: dict[str, Any]) -> list[Block]:
    """How often which zone was answered where which is true, shaded by the share of the row; and of
    how many questions."""
    if not any(map(sum, confusion["counts"])):
        return [Note("No confusion of zones to show: no question has one true zone.")]
    rows = [
        _confusion_row(zone, confusion["columns"], counts)
        for zone, counts in zip(confusion["rows"], confusion["counts"], strict=True)
    ]
    table = Table(
        "Confusion of zones: a row for each true zone, a column for each answered one "
        "(unclear: no zone, several, or in words that are not understood); percent of the row, "
        "right answers marked with a tick",
        (
            Column("True zone", kind="name"),
            *(Column(zone, kind="number") for zone in confusion["columns"]),
        ),
        rows,
        sortable=False,
    )
    counts = "; ".join((of_how_many(confusion), *left_out(confusion)))
    return [table, Note(f"Questions with one true zone, as far as it is known: {counts}.")]


def _confusion_row(zone: str, columns: list[str], counts: list[int]) -> tuple[Cell, ...]:
    total = sum(counts)
    cells = [
        Cell(
            numbers.count(count) + (" \N{CHECK MARK}" if column == zone else ""),
            (numbers.percent(count / total if total else None),),
            count,
            heat=count / total if total else 0.0,
        )
        for column, count in zip(columns, counts, strict=True)
    ]
    return (Cell(zone, (numbers.counted(total, "question"),), zone), *cells)


def text_section(metrics: dict[str, Any]) -> Section:
    """How much the words of the answers resemble those of the references."""
    bleu = Column("BLEU", "shared runs of words, over all answers together")
    table = summary_table(
        metrics, "text", TEXT, "Words by modality: mean, 95 % interval, spread", [(bleu, _bleu)]
    )
    signature = metrics["all"]["text"]["bleu_signature"]
    return Section(
        "text",
        "Words",
        "How much an answer resembles the reference answer word by word, from 0 to 1; this sees "
        'words, not places: "top left" for "bottom left" costs little.',
        [
            table,
            *([Note(f"BLEU as sacrebleu counts it: {signature}")] if signature else []),
        ],
    )


def _bleu(group: dict[str, Any]) -> Cell:
    value = group["text"]["bleu"]
    counts = group["text"]["bleu_counts"]
    shown = of_how_many(counts) if value is not None else "no reference answers to compare with"
    return Cell(numbers.score(value), (shown, *left_out(counts)), value)


def judges_section(metrics: dict[str, Any]) -> Section | None:
    """What language models think of the answers; None where none was asked."""
    groups = [("All", metrics["all"]), *metrics["modalities"].items()]
    rows = [_judge_row(name, judge) for name, group in groups for judge in group["judges"]]
    if not rows:
        return None
    table = Table(
        "Judges: share of yes among all answers",
        (
            Column("Judge", kind="name"),
            Column("Question", kind="name"),
            Column("Modality", kind="name"),
            Column("Accuracy", "yes among all answers"),
            Column("Yes"),
            Column("No"),
            Column("Unparsed", "neither yes nor no"),
            Column("Failed", "no answer to judge"),
        ),
        rows,
    )
    return Section(
        "judges",
        "Judges",
        "Language models were asked whether the answers are right; a reply that is neither yes nor "
        "no counts as not yes, and so does a question without an answer.",
        [table],
    )


def _judge_row(modality: str, judge: dict[str, Any]) -> tuple[Cell, ...]:
    accuracy = judge["accuracy"]
    shown = of_how_many(judge) if accuracy is not None else "nothing was judged"
    return (
        Cell(judge["judge"], sort=judge["judge"]),
        Cell(judge["prompt"], sort=judge["prompt"]),
        Cell(modality, sort=modality),
        Cell(numbers.percent(accuracy), (shown, *left_out(judge)), accuracy),
        *(
            Cell(numbers.count(judge[key]), sort=judge[key])
            for key in ("yes", "no", "unparsed", "failures")
        ),
    )
