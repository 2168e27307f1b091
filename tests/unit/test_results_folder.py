"""Where results may be written, and that no command replaces what another one made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prs_med.checked_settings import SettingError
from prs_med.storage.results_folder import (
    MADE_BY,
    check_file,
    check_folder,
    check_unclaimed,
    claim_folder,
    made_by_in,
)

MINE = {"command": "eval", "checkpoint": "runs/a", "data": "data/posmed", "identity": "1"}
RESULTS = ("metrics.json", "masks", ".unfinished-*")


def claim(folder: Path, made_by: dict = MINE, overwrite: bool | None = False) -> None:
    claim_folder("output_dir", folder, made_by, RESULTS, overwrite=overwrite)


@pytest.mark.parametrize("check", [check_folder, check_file])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file.txt/below", "file.txt is no folder"),
        ("file.txt/below/it", "file.txt is no folder"),
        ("nowhere/below/it", "nowhere is no folder"),
        ("/dev/null/below", "/dev/null is no folder"),
        ("s3://bucket/results", "is an address"),
        ("", "is empty"),
        ("x" * 300 + "/below", "File name too long"),
        ("a\0b/below", "null"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch, check: Callable[[str, str], Path], name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(SettingError, match="--output") as info:
        check("output", name)
    assert reason in str(info.value)
    assert len(str(info.value).splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "nowhere"]


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(SettingError, match=r"file\.txt is no folder"):
        check_folder("output_dir", str(tmp_path / "file.txt"))
    with pytest.raises(SettingError, match="is a folder; name a file"):
        check_file("output", str(tmp_path))
    assert check_file("output", str(tmp_path / "file.txt")) == tmp_path / "file.txt"


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch) -> None:
    """Whoever runs the test may write anywhere, so the system's answer is put in."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(SettingError, match=f"{tmp_path} cannot be written"):
        check_folder("output_dir", str(tmp_path / "new" / "folder"))


def test_nothing_is_made_by_a_check(tmp_path: Path) -> None:
    assert check_folder("output_dir", str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    claim(folder)
    assert made_by_in(folder) == MINE
    (folder / ".unfinished-1").mkdir()
    claim(folder)
    (folder / "metrics.json").write_text("{}")
    claim(folder)
    assert sorted(os.listdir(folder)) == [".unfinished-1", MADE_BY, "metrics.json"]


@pytest.mark.parametrize("there", ["metrics.json", "masks/1.png", ".unfinished-9/a/b"])
def test_what_another_command_made_is_not_replaced(tmp_path: Path, there: str) -> None:
    claim(tmp_path)
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    other = {**MINE, "checkpoint": "runs/b", "identity": "2"}
    with pytest.raises(SettingError, match="--output_dir") as info:
        claim(tmp_path, other)
    assert "holds what 'eval' made of checkpoint runs/a, data data/posmed" in str(info.value)
    assert str(info.value).endswith("give another folder, or --overwrite to replace it")
    assert made_by_in(tmp_path) == MINE
    claim(tmp_path, other, overwrite=True)
    assert made_by_in(tmp_path) == other


def test_a_claim_without_results_holds_nobody_up(tmp_path: Path) -> None:
    claim(tmp_path)
    other = {**MINE, "identity": "2"}
    claim(tmp_path, other)
    assert made_by_in(tmp_path) == other


def test_two_kinds_of_results_do_not_share_a_folder(tmp_path: Path) -> None:
    claim(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(SettingError, match="holds what 'eval' made"):
        claim_folder("output_dir", tmp_path, {"command": "stats"}, ["stats.json"], overwrite=False)


@pytest.mark.parametrize("text", [None, "", "no JSON", "[1]", "\xff"])
def test_results_of_unknown_origin_are_not_replaced(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "1.png").touch()
    (tmp_path / "notes.txt").write_text("mine")
    if text is not None:
        (tmp_path / MADE_BY).write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingError, match=r"holds masks of unknown origin; give another folder$"):
        claim(tmp_path, overwrite=None)


def test_empty_folders_of_a_command_that_failed_are_nobodys(tmp_path: Path) -> None:
    claim(tmp_path)
    (tmp_path / "masks" / "deeper").mkdir(parents=True)
    other = {**MINE, "checkpoint": "runs/b", "identity": "2"}
    claim(tmp_path, other)
    assert made_by_in(tmp_path) == other


def test_other_files_are_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path)
    assert json.loads((tmp_path / MADE_BY).read_text()) == MINE


def test_what_is_known_early_is_compared_early(tmp_path: Path) -> None:
    """Before a model is loaded, whose weights the identity needs."""
    claim(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    check_unclaimed("output_dir", tmp_path, {"command": "eval", "checkpoint": "runs/a"}, RESULTS)
    with pytest.raises(SettingError, match="made of checkpoint runs/a"):
        check_unclaimed(
            "output_dir", tmp_path, {"command": "eval", "checkpoint": "runs/b"}, RESULTS
        )


def test_a_claim_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(SettingError, match="Not a directory; name a folder that can be written"):
        claim(tmp_path / "file.txt" / "below")
