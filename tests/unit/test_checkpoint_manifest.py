"""The manifest and the names of checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import (
    CheckpointName,
    Group,
    Manifest,
    Parameter,
    Shard,
    StoredFile,
    _sealed,
    parse_manifest,
)

SHA = "0123456789abcdef" * 4
FILE = StoredFile("mllm-00000-000.safetensors", 100, SHA, [7])
MANIFEST = Manifest(
    name="step-00000007-01",
    run="run",
    created="2026-01-01T00:00:00+00:00",
    world_size=1,
    groups={"mllm": Group([Parameter("a", [2, 3])], 7)},
    shards=[Shard(FILE, "mllm", 0, ["master"], 40, [[0, 0, 6]])],
    files=[StoredFile("metrics.jsonl", 0, SHA, [])],
    state={"step": 7},
)
NAMES = st.builds(CheckpointName, st.integers(0, 10**4), st.integers(0, 10**10))


def sealed(**changes: object) -> bytes:
    """A manifest with its own checksum right, whatever it says."""
    return _sealed(json.dumps({"format": 1, **asdict(MANIFEST), **changes}))


def test_it_comes_back_as_it_was() -> None:
    assert parse_manifest(MANIFEST.dumps(), "x") == MANIFEST
    assert MANIFEST.shards[0].elements == 6
    assert [file.name for file in MANIFEST.all_files] == [FILE.name, "metrics.jsonl"]


def test_it_is_written_without_blanks() -> None:
    """A large model has tens of thousands of fragments."""
    assert MANIFEST.dumps().startswith(b'{"format":1,"name":"step-00000007-01","run":"run",')


def test_entries_of_later_versions_are_passed_over() -> None:
    assert parse_manifest(sealed(more=[1]), "x") == MANIFEST


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b",
                                  "a\0", "a\n", "ä"])  # fmt: skip
def test_files_outside_the_folder_are_refused(name: str) -> None:
    for changed in (
        replace(MANIFEST, files=[replace(FILE, name=name)]),
        replace(MANIFEST, shards=[replace(MANIFEST.shards[0], file=replace(FILE, name=name))]),
    ):
        with pytest.raises(BrokenCheckpointError, match=r"^x: names a file .* outside its folder"):
            parse_manifest(changed.dumps(), "x")


@pytest.mark.parametrize("sha256", ["", "../" * 20, "A" * 64, SHA + "0", SHA[:-1] + "\n"])
def test_keys_outside_the_prefix_are_refused(sha256: str) -> None:
    """On S3 the checksum is part of a file's key."""
    changed = replace(MANIFEST, files=[replace(FILE, sha256=sha256)])
    with pytest.raises(BrokenCheckpointError, match="outside its folder"):
        parse_manifest(changed.dumps(), "x")


@pytest.mark.parametrize(("size", "crcs"), [(-1, 0), (0, 1), (1, 0), (2**20, 2), (2**20 + 1, 1)])
def test_checksums_that_do_not_fit_the_size_are_refused(size: int, crcs: int) -> None:
    changed = replace(MANIFEST, files=[replace(FILE, size=size, crc32=[0] * crcs)])
    with pytest.raises(
        BrokenCheckpointError, match=r"the checksums of mllm-.* do not fit its size"
    ):
        parse_manifest(changed.dumps(), "x")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "its own checksum is wrong"),
        (b"\xff\xfe", "is no manifest"),
        (b"{}", "its own checksum is wrong"),
        (_sealed("{}"), "is no manifest"),
        (_sealed("[1]"), "its own checksum|is no manifest"),
        (sealed(format=2), "has a format that this version does not read"),
        (sealed(shards=[{}]), "is no manifest"),
        (sealed(groups={"mllm": {"parameters": 3}}), "is no manifest"),
        (sealed(files=[{"name": 1, "size": 0, "sha256": SHA, "crc32": []}]), "is no manifest"),
        (MANIFEST.dumps() + b" ", "its own checksum is wrong"),
        (MANIFEST.dumps()[:-1], "its own checksum is wrong"),
        (MANIFEST.dumps().replace(b"created", b'created":0,"x'), "its own checksum is wrong"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_name(data: bytes, says: str) -> None:
    with pytest.raises(BrokenCheckpointError, match=f"^where: .*({says})"):
        parse_manifest(data, "where")


@given(st.binary(max_size=200))
def test_no_bytes_end_in_another_error(data: bytes) -> None:
    with pytest.raises(BrokenCheckpointError):
        parse_manifest(data, "x")


@given(NAMES)
def test_names_of_checkpoints_come_back(name: CheckpointName) -> None:
    assert CheckpointName.parse(str(name)) == name


@given(st.lists(NAMES))
def test_what_a_later_attempt_saved_is_newer(names: list[CheckpointName]) -> None:
    assert sorted(names) == sorted(names, key=lambda name: (name.attempt, name.step))


@given(st.text("step-0123\u0663 ._\n", max_size=24))
def test_each_checkpoint_has_one_name(text: str) -> None:
    name = CheckpointName.parse(text)
    assert name is None or str(name) == text


@pytest.mark.parametrize(
    "text",
    ["", "step-1-1", "step-00000001", ".draft-step-00000001-01", "step-00000001-01.json",
     "step-000000001-01", "step-00000001-001", "step-0000000\u0661-01", "step-00000001-01\n"],
)  # fmt: skip
def test_other_names_are_none(text: str) -> None:
    assert CheckpointName.parse(text) is None
