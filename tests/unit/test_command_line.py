"""How the words of a command line become settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.checked_settings import CheckedSettings, SettingError, setting
from prs_med.config import Settings
from prs_med.old_spellings import GONE, RENAMED, REPLACED
from prs_med.settings_io import parse_settings, parse_training_settings
from prs_med.trainer_names import TRAINER
from prs_med.unknown_settings import nearest


@dataclass(kw_only=True)
class Reading(CheckedSettings):
    """Reading: one path, and how"""

    path: str = setting("", "What is read", required=True, positional=True)
    times: int = setting(1, "How often it is read")
    deep: bool = setting(False, "Also what lies below")


def read(*argv: str) -> tuple[str, int, bool]:
    found = parse_settings(Reading, argv)
    return found.path, found.times, found.deep


values = st.text(min_size=1).filter(lambda text: not text.startswith("-"))


@given(path=values, times=st.integers(-9, 99), where=st.integers(0, 2), named=st.booleans())
def test_a_path_may_stand_anywhere_with_or_without_its_name(
    path: str, times: int, where: int, named: bool
) -> None:
    parts = [["--times", str(times)], ["--deep"]]
    if path.lower() in ("true", "false") and where == 2:
        where = 0  # Behind a flag, these are the flag's own value.
    parts.insert(where, ["--path", path] if named else [path])
    assert read(*(word for part in parts for word in part)) == (path, times, True)


def test_a_flag_takes_no_path_for_its_value() -> None:
    assert read("--deep", "folder") == ("folder", 1, True)
    assert read("--deep", "false", "folder") == ("folder", 1, False)
    assert read("--deep=false", "folder") == ("folder", 1, False)


def test_the_last_of_several_values_counts() -> None:
    assert read("--times", "2", "--times=3", "x") == ("x", 3, False)


def test_launchers_may_add_the_rank() -> None:
    assert read("--local_rank=1", "x") == ("x", 1, False)
    assert parse_training_settings(["--local_rank", "0"]) == Settings()


@settings(max_examples=50)
@given(st.sampled_from([field.name for field in dataclasses.fields(Settings)]), st.data())
def test_two_swapped_letters_or_a_missing_one_are_found(name: str, data: st.DataObject) -> None:
    known = {field.name for field in dataclasses.fields(Settings)}
    at = data.draw(st.integers(0, len(name) - 2))
    swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    for wrong in {swapped, name[:at] + name[at + 1 :]} - known:
        assert name in nearest(wrong, known)


def test_what_resembles_nothing_is_given_no_name() -> None:
    assert nearest("zzzzzz", {"epochs", "seed"}) == []


def test_foreign_names_are_none_of_ours() -> None:
    known = {field.name for field in dataclasses.fields(Settings)}
    assert not TRAINER.keys() & {*known, *RENAMED, *GONE, *(name for name, _ in REPLACED)}
    for ours, note in TRAINER.values():
        assert set(ours) <= known | {"checkpoint"}
        assert ours or note


def test_every_setting_of_transformers_trainer_is_explained() -> None:
    from transformers import TrainingArguments

    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    known = {field.name for field in dataclasses.fields(Settings)}
    assert theirs - known - TRAINER.keys() == {"local_rank"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_train_epochs: 3", "num_train_epochs: no such setting; here it is epochs"),
        ("warmup_steps: 10", "here it is warmup_ratio; a share of all steps, not a number of them"),
        ("lr: 1e-4", "lr: no such setting; did you mean learning_rate?"),
        ("learning_rte: 1e-4", "learning_rte: no such setting; did you mean learning_rate?"),
        ("7: 1e-4", "7: no such setting"),
    ],
)
def test_unknown_keys_of_a_file_are_explained_too(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(line)
    with pytest.raises(SettingError) as caught:
        parse_training_settings(["--config", str(file)])
    assert str(caught.value).startswith(f"--config {file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
