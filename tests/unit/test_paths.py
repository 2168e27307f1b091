"""What names of files, folders and addresses in settings mean: replaced or refused, never taken
for a folder of such a name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.answering_config import ComparisonSettings, EvaluationSettings, InferenceSettings
from prs_med.checked_settings import CheckedSettings, SettingError
from prs_med.checkpoint.open_place import open_place
from prs_med.config import (
    ExportSettings,
    ImportSettings,
    InspectSettings,
    MergedExportSettings,
    Settings,
    TrainedExportSettings,
    VerifySettings,
)
from prs_med.data_config import (
    AnnotateSettings,
    BuildSettings,
    CheckSettings,
    SlicesSettings,
    StatsSettings,
    SynthesizeSettings,
)
from prs_med.paths import address_problem, expanded
from prs_med.plan_config import PlanSettings
from prs_med.programs.demo import DemoSettings
from prs_med.settings_io import parse_settings, parse_training_settings
from prs_med.storage.location import open_store
from prs_med.storage.store import StorageError

ALL: tuple[type[CheckedSettings], ...] = (
    *(Settings, PlanSettings, DemoSettings),
    *(EvaluationSettings, InferenceSettings, ComparisonSettings),
    *(ImportSettings, InspectSettings, VerifySettings),
    *(TrainedExportSettings, MergedExportSettings, ExportSettings),
    *(BuildSettings, CheckSettings, StatsSettings, SynthesizeSettings, AnnotateSettings),
    SlicesSettings,
)
NO_PATHS = {
    *("tasks", "task", "group_column", "fold", "encoder_type", "lora_targets", "compile_regions"),
    *("modalities", "modality", "structure", "window", "gpu", "network", "encoder_size"),
    *("question", "classes"),
}
"""Settings with words in them that name no file, folder or address."""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOT_SET", raising=False)


def test_every_setting_that_is_text_is_a_path_or_known_to_be_none() -> None:
    for cls in ALL:
        texts = {f.name: f for f in dataclasses.fields(cls) if f.type in ("str", "str | None")}
        paths = {name for name, field in texts.items() if field.metadata["path"]}
        assert texts.keys() - paths == texts.keys() & NO_PATHS, cls


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("~/runs/x", "/home/me/runs/x"),
        ("~", "/home/me"),
        ("${SCRATCH}/runs", "/scratch/me/runs"),
        ("$SCRATCH/runs", "/scratch/me/runs"),
        ("s3://bucket/${SCRATCH}", "s3://bucket//scratch/me"),
        ("~/a.csv,$SCRATCH/b.csv, c.csv", "/home/me/a.csv,/scratch/me/b.csv, c.csv"),
        ("a~b", "a~b"),
        ("./~x", "./~x"),
        ("price$", "price$"),
        ("org/model-1.5", "org/model-1.5"),
        ("s3/data", "s3/data"),
        ("", ""),
    ],
)
def test_homes_and_variables_are_replaced(text: str, meant: str) -> None:
    assert expanded(text) == meant


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("~nobody-of-this-name/x", "there is no user nobody-of-this-name"),
        ("${NOT_SET}/x", "NOT_SET is not set"),
        ("$NOT_SET/x", "NOT_SET is not set"),
        ("${}/x", "without a name is not set"),
        ("${HOME:-/tmp}/x", "HOME:-/tmp is not set"),
        ("${HOME", "run by a shell alone"),
        ("$(date)/x", "run by a shell alone"),
        ("`date`", "run by a shell alone"),
        ("s3:/bucket/x", "write s3://bucket/folder"),
        ("s3:bucket/x", "write s3://bucket/folder"),
        ("s3//bucket/x", "write s3://bucket/folder"),
        ("S3://bucket/x", "write s3://bucket/folder"),
        ("s3a://bucket/x", "write s3://bucket/folder"),
        ("https:/host/x", "write s3://bucket/folder"),
    ],
)
def test_what_no_shell_has_replaced_and_what_is_nearly_an_address_is_refused(
    text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        expanded(text)


@given(st.text(alphabet="ab/.-_ 0ü:@"))
def test_other_names_stay_as_they_are(text: str) -> None:
    if not address_problem(text):
        assert expanded(text) == text


def test_yaml_and_joined_values_are_replaced_too(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("save_dir: ${SCRATCH}/runs/x\ncache_dir: ~/cache\ndata: ~/set\n")
    found = parse_training_settings([f"--config={file}", "--deepspeed=~/ds.json"])
    assert (found.save_dir, found.cache_dir) == ("/scratch/me/runs/x", "/home/me/cache")
    assert (found.data, found.deepspeed) == ("/home/me/set", "/home/me/ds.json")
    with pytest.raises(SettingError, match=r"--config \$\{NOT_SET\}/x.yaml: NOT_SET is not set"):
        parse_training_settings(["--config", "${NOT_SET}/x.yaml"])


def test_each_program_names_the_setting_and_what_was_given() -> None:
    with pytest.raises(SettingError, match=r"--output s3:/typo: is no address"):
        parse_settings(BuildSettings, ["--data_root", "x", "--output", "s3:/typo"])
    with pytest.raises(SettingError, match=r"--save_dir s3://b/x: is an address; name a file or"):
        parse_training_settings(["--save_dir", "s3://b/x"])
    with pytest.raises(SettingError, match=r"--question is required|give one of"):
        parse_settings(InferenceSettings, ["--checkpoint", "x", "--question", "$5?"])


def test_keys_in_what_is_nearly_an_address_are_not_shown() -> None:
    with pytest.raises(SettingError, match="no address") as raised:
        parse_training_settings(["--checkpoint_uri", "s3:/key:secret@bucket/x"])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["s3:/bucket/x", "s3a://bucket/x", "S3://bucket"])
def test_stores_and_places_are_no_folders_of_such_names(name: str) -> None:
    for opened in (open_store, open_place):
        with pytest.raises(StorageError, match="write s3://bucket/folder"):
            opened(name)
