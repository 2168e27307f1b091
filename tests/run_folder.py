"""What a training run wrote into its folder, as tests read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.reader import CheckpointReader


def rows(run: Path, having: str = "") -> list[dict[str, Any]]:
    """The lines of its metrics, or those alone that have a value of this name."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if not having or having in row]


def metrics(run: Path, name: str) -> list[float]:
    """The values of this name, from first to last."""
    return [row[name] for row in rows(run, name)]


def loss_curve(run: Path) -> list[tuple[int, float, float]]:
    """Step, loss and norm of the gradient, of each step that was logged."""
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(run, "loss")]


def last_scores(run: Path) -> dict[str, Any]:
    """The line of the last validation."""
    return rows(run, "val_dice")[-1]


def events(run: Path) -> list[dict[str, Any]]:
    """The lines about bad steps and what was done about them."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Both sides' trained weights at its end."""
    return {**adapter(run / "final"), **load_file(run / "final" / "segmentation.safetensors")}


def adapter(trained: Path) -> dict[str, torch.Tensor]:
    """The language model's side of a folder with trained weights."""
    return load_file(trained / "adapter" / "adapter_model.safetensors")


def newest_checkpoint(run: Path) -> CheckpointReader:
    """The last one that is complete."""
    place = DirectoryPlace(run / "checkpoints")
    return CheckpointReader(place, place.checkpoints()[-1])


def newest_folder(run: Path) -> Path:
    """Where its files are."""
    place = DirectoryPlace(run / "checkpoints")
    return Path(place.where(place.checkpoints()[-1]))
