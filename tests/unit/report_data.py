"""Evaluations as reports get them: rows, metrics that follow from the rows, and pictures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prs_med.data.images import load_image, load_mask
from prs_med.data.phantoms import write_phantoms
from prs_med.data.position import ZONES
from prs_med.evaluate.position_scores import UNCLEAR, ConfusionMatrix
from prs_med.evaluate.summary import VERSION, counted, has_one_true_zone, summarise_column
from prs_med.report.cases import CHOSEN, Case, choose_cases

MODALITIES = ("phantom_mri", "phantom_ultrasound", "phantom_xray", "phantom_endoscopy")
SEGMENTATION = ("dice", "iou", "precision", "recall", "hd95", "surface_distance")
TEXT = ("rouge1", "rouge2", "rouge_l", "meteor_exact_stem")
PROTOCOL = ("meanDic", "maxDic", "meanIoU", "maxIoU", "meanEm", "maxEm", "meanSen", "maxSen")
PROTOCOL += ("meanSpe", "maxSpe", "wFm", "Sm", "mae")
RESAMPLES = 50


def evaluation_row(
    number: int, seed: int = 0, skill: float = 0.0, **changes: Any
) -> dict[str, Any]:
    """One row with random scores that fit together; every number a pure function of the seed."""
    random = np.random.default_rng([seed, number])
    truth = np.random.default_rng([99, number])
    true_zone = ZONES[int(truth.integers(5))]
    answered = true_zone if random.random() < 0.85 + skill else ZONES[int(random.integers(5))]
    dice = float(np.clip(random.beta(9, 1.6) + skill, 0, 1))
    answer = f"The tumor is located in the {true_zone} of the image."
    modality = MODALITIES[number % len(MODALITIES)]
    row: dict[str, Any] = {
        "number": number,
        "row_id": f"{modality}.csv:{number + 2}",
        "image": f"{modality}/test_images/{number:04d}.png",
        "mask": f"{modality}/test_masks/{number:04d}.png",
        "modality": modality,
        "group": f"image {number // 2}",
        "question": "Where is the tumor located in this image?",
        "answer": answer,
        "predicted_answer": f"The tumor is located in the {answered} of the image.",
        "error": None,
        "dice": dice,
        "iou": dice / (2 - dice),
        "precision": min(1.0, dice + 0.02),
        "recall": max(0.0, dice - 0.02),
        "hd95": float(random.gamma(2, 3)) * (1.2 - dice),
        "surface_distance": float(random.gamma(2, 1)) * (1.2 - dice),
        "true_zone": true_zone,
        "answered_zone": answered,
        "mask_zone": true_zone,
        "zone_correct": answered == true_zone,
        "near_center_correct": bool(random.random() < 0.9),
        "answer_agrees_with_mask": answered == true_zone,
        "answer_unclear": False,
        "reference_disagrees": False,
        "bleu": 0.9,
        **{key: float(random.beta(12, 2)) for key in TEXT},
        "confidence": 0.9,
        "true_area": int(truth.integers(300, 900)),
        "predicted_area": 500,
        **dict.fromkeys(PROTOCOL, dice * 0.9),
        "seconds": 0.04,
    }
    return {**row, **changes}


def evaluation_rows(count: int, seed: int = 0, skill: float = 0.0) -> list[dict[str, Any]]:
    """Rows of which the last one failed."""
    failed = {
        "error": "image of 1 x 900 pixels: the encoder needs 16 or more",
        "predicted_answer": "",
        "dice": 0.0,
        "iou": 0.0,
        "precision": 0.0,
        "recall": 0.0,
        "hd95": None,
        "surface_distance": None,
        "answered_zone": UNCLEAR,
        "mask_zone": None,
        "zone_correct": False,
        "near_center_correct": False,
        "answer_agrees_with_mask": None,
        "answer_unclear": True,
        "rouge_l": 0.0,
    }
    rows = [evaluation_row(number, seed, skill) for number in range(count - 1)]
    return [*rows, evaluation_row(count - 1, seed, skill, **failed)]


def metrics_of(rows: Sequence[dict[str, Any]], **evaluation: Any) -> dict[str, Any]:
    """What an evaluation writes about its rows."""
    names = list(dict.fromkeys(row["modality"] for row in rows))
    return {
        "version": VERSION,
        "evaluation": {
            "checkpoint": "runs/prs-med/best",
            "data": "data/phantoms",
            "split": "test",
            "prs_med": "0.1.0",
            "post_processing": "",
            "load_4bit": False,
            "temperature": 0.0,
            "max_new_tokens": 64,
            "threshold": 0.5,
            "batch_size": 8,
            **evaluation,
        },
        "speed": {"questions_per_second": 23.5, "processes": 2, "device": "NVIDIA H200"},
        "failures": [
            {"row_id": row["row_id"], "error": row["error"]} for row in rows if row["error"]
        ],
        "disagreements": [],
        "all": _group(rows),
        "modalities": {
            name: _group([row for row in rows if row["modality"] == name]) for name in names
        },
    }


def _group(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def summary(key: str) -> dict[str, Any]:
        return summarise_column(rows, key, RESAMPLES)

    confusion = ConfusionMatrix.of(
        (row["true_zone"], None if row["answer_unclear"] else row["answered_zone"])
        for row in rows
        if row["true_zone"]
    )
    mean_dice = float(np.mean([row["dice"] for row in rows])) if rows else None
    return {
        "samples": len(rows),
        "failures": sum(row["error"] is not None for row in rows),
        "groups": len({row["group"] for row in rows}),
        "segmentation": {key: summary(key) for key in SEGMENTATION},
        "published_protocol": {
            **{
                key: None if mean_dice is None else mean_dice * (1 - 0.02 * place)
                for place, key in enumerate(PROTOCOL)
            },
            **counted(rows, lambda row: True),
        },
        "position": {
            "zone_accuracy": summary("zone_correct"),
            "near_center_accuracy": summary("near_center_correct"),
            "answer_agrees_with_mask": summary("answer_agrees_with_mask"),
            "mask_zone_accuracy": summary("zone_correct"),
            "unclear_answers": summary("answer_unclear"),
            "other_language": 0,
            "reference_disagrees": 0,
            "confusion": {
                "rows": list(confusion.rows),
                "columns": list(confusion.columns),
                "counts": confusion.counts.tolist(),
                **counted(rows, has_one_true_zone),
            },
        },
        "text": {
            "bleu": 0.8321 if rows else None,
            "bleu_counts": counted(rows, lambda row: bool(row["answer"])),
            "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1",
            **{key: summary(key) for key in TEXT},
        },
        "calibration": {
            **(_calibration() if rows else {"ece": None, "curve": []}),
            **counted(rows, lambda row: row["error"] is None),
        },
        "judges": [
            {
                "judge": "Qwen/Qwen2.5-7B-Instruct",
                "prompt": prompt,
                "accuracy": 0.85,
                "yes": 85,
                "no": 12,
                "unparsed": 3,
                **counted(rows, lambda row: bool(row["answer"])),
            }
            for prompt in ("place", "meaning")
            if rows
        ],
    }


def _calibration() -> dict[str, Any]:
    curve = []
    for number in range(15):
        middle = (number + 0.5) / 15
        curve.append(
            {
                "low": number / 15,
                "high": (number + 1) / 15,
                "pixels": 400_000 if number == 0 else 1500 + 90 * number**2,
                "probability": middle,
                "foreground": middle**1.25,
            }
        )
    return {"ece": 0.0123, "curve": curve}


class Pictures:
    """Images and masks of phantoms for rows of any evaluation."""

    def __init__(self, folder: Path, count: int = 20, size: int = 160) -> None:
        write_phantoms(folder, {"test": count}, size=size, seed=5)
        self._masks = {
            path.stem: [
                folder / row["image_path"] for row in csv.DictReader(path.open(encoding="utf-8"))
            ]
            for path in (folder / "annotations").glob("*.csv")
        }

    def case(self, row: dict[str, Any], kind: str, title: str = "") -> Case:
        """A case whose predicted mask is the true one, moved the further the lower its Dice."""
        masks = self._masks[row["modality"]]
        mask_path = masks[row["number"] // len(MODALITIES) % len(masks)]
        image_path = Path(str(mask_path).replace("_masks/", "_images/"))
        truth = load_mask(mask_path).astype(bool)
        shift = round((1 - row["dice"]) * 30)
        predicted = np.zeros_like(truth)
        predicted[shift:, : truth.shape[1] - shift] = truth[: truth.shape[0] - shift, shift:]
        failed = row["error"] is not None
        return Case(
            title=title or row["row_id"],
            kind=kind,
            modality=row["modality"],
            question=row["question"],
            answer=row["answer"],
            predicted_answer=row["predicted_answer"],
            scores={key: row[key] for key in ("dice", "iou", "hd95")},
            zone_correct=row["zone_correct"],
            error=row["error"],
            image=load_image(image_path),
            truth=truth,
            predicted=None if failed else predicted,
        )

    def cases(self, rows: Sequence[dict[str, Any]], per_kind: int) -> list[Case]:
        """The cases that a report of these rows shows."""
        chosen = choose_cases(rows, per_kind)
        return [self.case(row, kind) for kind in CHOSEN for row in chosen[kind]]
