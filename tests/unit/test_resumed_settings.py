"""What a run may change when it goes on is decided for every setting, and told."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from prs_med.checked_settings import without_none
from prs_med.config import PRESETS, Settings
from prs_med.model.errors import CheckpointError
from prs_med.train.resumed_settings import DO_NOT_MATTER, MAY_CHANGE, MUST_BE_EQUAL, changes

CLASSES = {
    "must be equal: refused, with both values": MUST_BE_EQUAL,
    "may change: told, a line each": MAY_CHANGE,
    "do not matter": DO_NOT_MATTER,
}
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"


def other(name: str) -> Any:
    """A value of a setting that is not its default."""
    hint = without_none(typing.get_type_hints(Settings)[name])
    default = getattr(Settings(), name)
    if typing.get_origin(hint) is typing.Literal:
        return next(value for value in typing.get_args(hint) if value != default)
    if hint is bool:
        return not default
    return f"another_{name}" if hint is str else hint((default or 0) + 1)


def test_every_setting_is_in_exactly_one_class() -> None:
    decided = [name for names in CLASSES.values() for name in names]
    assert sorted(decided) == sorted(spec.name for spec in dataclasses.fields(Settings))


def test_the_guide_lists_the_same_classes() -> None:
    rows = dict(re.findall(r"^\| ([^|`]+?) \| (`--.*?) \|$", GUIDE.read_text(), re.MULTILINE))
    listed = {name: tuple(re.findall(r"`--(\w+)`", row)) for name, row in rows.items()}
    assert listed == CLASSES


def test_the_same_settings_say_nothing() -> None:
    assert changes(asdict(Settings()), Settings(), "step") == []


@pytest.mark.parametrize("name", MUST_BE_EQUAL)
def test_what_must_be_equal_is_refused_with_both_values(name: str) -> None:
    stored = {**asdict(Settings()), name: other(name)}
    with pytest.raises(CheckpointError) as caught:
        changes(stored, Settings(), "runs/a/checkpoints/step-00000500-01")
    said = str(caught.value)
    there, here = (
        str(value).lower().removesuffix(".0") for value in (other(name), getattr(Settings(), name))
    )
    assert said.startswith("runs/a/checkpoints/step-00000500-01: was trained with --")
    assert f"--{name} {there} (here {here})" in said.lower()
    assert "\n" not in said


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_what_may_change_is_told_in_a_line(name: str) -> None:
    stored = {**asdict(Settings()), name: other(name)}
    (line,) = changes(stored, Settings(), "step")
    for value in (f"--{name} is", getattr(Settings(), name), other(name)):
        assert str(value).lower().removesuffix(".0") in line.lower()


@pytest.mark.parametrize("name", DO_NOT_MATTER)
def test_what_does_not_matter_is_not_mentioned(name: str) -> None:
    assert changes({**asdict(Settings()), name: other(name)}, Settings(), "step") == []


def test_all_that_must_be_equal_is_told_at_once() -> None:
    here = replace(Settings(), lora_alpha=32, image_fit="pad", prompt_tokens="all")
    with pytest.raises(CheckpointError, match=r"--prompt_tokens.*--image_fit.*--lora_alpha 16 "):
        changes(asdict(Settings()), here, "step")


def test_another_preset_is_told_by_what_it_sets() -> None:
    here = replace(Settings(), **PRESETS["paper"])
    lines = changes(asdict(Settings()), here, "step")
    assert any("--segmentation_loss is bce_dice from here on; it was structure" in s for s in lines)
    assert any("--lambda_txt is 0.5" in line for line in lines)


def test_the_order_of_lora_targets_is_no_change() -> None:
    here = replace(Settings(), lora_targets=" v_proj, q_proj,o_proj,k_proj")
    assert changes(asdict(Settings()), here, "step") == []
