"""launch/export.py inspect and verify, what names a checkpoint, and what the guides say."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from prs_med.checkpoint import open_place
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import parse_manifest
from prs_med.checkpoint.s3_place import S3Place
from prs_med.config import SettingError
from prs_med.export.load import load_model
from prs_med.export.named_checkpoint import find_checkpoints
from prs_med.programs import evaluate, infer
from prs_med.programs.export import main
from prs_med.storage.directory import DirectoryStore
from tests.unit.assembled import Assembled, assemble
from tests.unit.training_checkpoint import write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NEWEST = "step-00000006-01"
OTHERS = {"launch/eval.py": evaluate.main, "launch/infer.py": infer.main}
"""Programs of the guide beside the one that it is about."""


@pytest.fixture(scope="module")
def program() -> Callable[..., int]:
    return lambda *argv: main([str(part) for part in argv])


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


@pytest.fixture(scope="module")
def run(model: Assembled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    place = DirectoryPlace(folder / "checkpoints")
    write_checkpoint(model, place, step=3)
    write_checkpoint(model, place, step=6)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The newest checkpoint of a run that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "run")) / "checkpoints" / NEWEST


@pytest.fixture
def bucket(model: Assembled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``s3://bucket``, with a run in it; tests/services has a real server."""
    monkeypatch.setattr(
        open_place, "S3Store", lambda uri: DirectoryStore(tmp_path / uri.removeprefix("s3://"))
    )
    store = DirectoryStore(tmp_path / "bucket" / "a")
    write_checkpoint(model, S3Place(store, tmp_path / "staging"), step=6)
    return tmp_path / "bucket"


def test_inspect_says_what_is_in_it(program, run: Path, capsys) -> None:
    assert program("inspect", run) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 120
    for line in (
        f"checkpoint  {NEWEST}",
        f"where       {run / 'checkpoints' / NEWEST}",
        "run         a1b2, attempt 1",
        "step        6 of 12, epoch 1.00, 24 samples",
        "kept        master, exp_avg, exp_avg_sq of each, in fp32",
        "scores      val_dice 0.25",
        "older ones  step-00000003-01",
    ):
        assert line in text.splitlines()
    assert re.search(r"trained +mllm: 16 parameters, 28,672 elements, 112.0 KiB, 6 updates", text)
    assert "precision fp32" in " ".join(text.split())  # Where lines break depends on the paths.
    assert "lora_rank" not in text
    assert re.search(r"mllm-00000-000.safetensors +[\d.]+ KiB  sha256 [0-9a-f]{16}", text)


def test_inspect_gives_the_manifest_as_json(program, run: Path, capsys) -> None:
    file = run / "checkpoints" / NEWEST / "manifest.json"
    for name in (file, file.parent, run, run / "checkpoints"):
        assert program("inspect", name, "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        stored = json.loads(file.read_bytes())
        del stored["sha256"]
        assert shown == stored


def test_verify_tells_of_every_checkpoint(program, run: Path, capsys) -> None:
    assert program("verify", run, "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["whole", "whole"]
    assert "step-00000003-01" in lines[0]
    for words in (("--all", run), ("--all", "true", run), ("--all=true", run), (run, "--all")):
        assert program("verify", *words) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
    assert program("verify", "--all", "false", run) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert program("verify", "--checkpoint", run) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert NEWEST in line


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("segmentation-00001-003.safetensors", lambda f: flip(f, 4000),
         r"segmentation-00001-003.safetensors: .*wrong checksum of bytes 0 to 3\d+"),
        ("mllm-00002-000.safetensors", cut,
         r"mllm-00002-000.safetensors: is damaged: \d+ bytes are left of \d+"),
        ("buffers.safetensors", Path.unlink, r"buffers.safetensors: is missing"),
        ("manifest.json", lambda f: flip(f, 90), "its own checksum is wrong"),
    ],
)  # fmt: skip
def test_verify_names_what_is_broken(
    program, copy: Path, capsys, name: str, damage, message: str
) -> None:
    damage(copy / name)
    assert program("verify", copy.parents[1], "--all") == 1
    whole, broken = capsys.readouterr().out.splitlines()
    assert whole.startswith("whole ")
    assert broken.startswith(f"BROKEN  {copy}")
    assert re.search(message, broken)


@pytest.mark.parametrize("command", ["trained", "merged", "export-released"])
def test_a_broken_checkpoint_is_not_exported(
    program, copy: Path, tmp_path: Path, capsys, command: str
) -> None:
    flip(copy / "segmentation-00000-000.safetensors", 9000)
    assert program(command, copy, "--output_dir", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    assert "segmentation-00000-000.safetensors: is damaged" in line
    assert not (tmp_path / "out").exists()


def test_checkpoints_on_s3(program, model: Assembled, bucket: Path, capsys) -> None:
    manifest = f"s3://bucket/a/manifests/{NEWEST}.json"
    for name in ("s3://bucket/a", "s3://bucket/a/", "s3://bucket/a/manifests", manifest):
        assert program("verify", name) == 0
        assert program("inspect", name) == 0
    assert load_model("s3://bucket/a").modalities == model.modalities
    capsys.readouterr()
    shard = max((bucket / "a" / "files").iterdir(), key=lambda file: file.stat().st_size)
    flip(shard, 100)
    assert program("verify", "s3://bucket/a") == 1
    assert re.search(r"BROKEN .*\.safetensors: is damaged", capsys.readouterr().out)
    shard.unlink()
    assert program("verify", "s3://bucket/a") == 1
    assert re.search(r"manifests/.*\.safetensors: is missing", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://bucket/b", "s3://bucket/b: holds no complete checkpoint; give a checkpoint"),
        ("s3://bucket/a/manifests/step-00000007-01.json", "there is no such checkpoint"),
        ("gs://bucket/a", "gs:// is not known here"),
    ],
)
def test_wrong_names_on_s3(bucket: Path, name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        find_checkpoints(name)


@pytest.mark.usefixtures("bucket")
def test_an_empty_bucket_has_no_weights() -> None:
    with pytest.raises(SettingError, match="holds no complete checkpoint"):
        load_model("s3://bucket/b")


def test_wrong_names(program, copy: Path, model: Assembled, tmp_path: Path, capsys) -> None:
    run = copy.parents[1]
    model.save(tmp_path / "best")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (copy.parent / ".draft-step-00000009-01").mkdir()
    (copy.parent / "step-00000009-01").mkdir()
    for name, message in {
        tmp_path / "nothing": "does not exist",
        tmp_path / "best": "is a folder with trained weights, not a training checkpoint",
        tmp_path / "best" / "model.json": "is a file",
        tmp_path / "empty": "holds no complete checkpoint",
        copy.parent / "step-00000009-01": "has no manifest.json, so it is not complete",
        copy.parent / "step-00000008-01": "does not exist",
        tmp_path: "is a folder without checkpoints",
    }.items():
        assert program("verify", name) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {name}: {message}; give a checkpoint")
    copy.rename(tmp_path / "renamed")
    assert program("inspect", tmp_path / "renamed") == 2
    assert f"rename it to {NEWEST}" in capsys.readouterr().err
    assert find_checkpoints(str(run)).newest.step == 3
    assert program("verify") == 2
    assert "--checkpoint is required" in capsys.readouterr().err


def test_output_folders_are_not_overwritten(program, run: Path, tmp_path: Path, capsys) -> None:
    for command in ("trained", "merged", "export-released"):
        assert program(command, run, "--output_dir", tmp_path) == 2
        assert f"--output_dir {tmp_path} exists already" in capsys.readouterr().err


def test_help_teaches(program, capsys) -> None:
    assert program("--help") == 0
    text = capsys.readouterr().out
    for command in ("inspect", "verify", "trained", "merged", "export-released", "import-released"):
        assert f"python launch/export.py {command}" in text
        assert program(command, "--help") == 0
        assert "(default: " in " ".join(capsys.readouterr().out.split())


def format_guide() -> str:
    return (ROOT / "docs" / "checkpoint-format.md").read_text(encoding="utf-8")


def test_the_program_in_the_format_guide_reads_parameters(model: Assembled, run: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", format_guide(), re.DOTALL)
    found: dict = {}
    exec(compile(source, "docs/checkpoint-format.md", "exec"), found)
    checkpoint = run / "checkpoints" / NEWEST
    for group in ("mllm", "segmentation"):
        for name, value in getattr(model, group).named_parameters():
            if not value.requires_grad:
                continue
            expected = value.detach().numpy()
            values = found["parameter"](checkpoint, group, name)
            assert values.shape == expected.shape
            assert np.array_equal(values, expected), name
    moment = found["parameter"](checkpoint, "segmentation", "cls.2.bias", "exp_avg_sq")
    assert np.array_equal(moment, model.segmentation.cls[2].bias.detach().numpy() + 2)


def test_the_format_guide_names_every_entry(run: Path) -> None:
    data = (run / "checkpoints" / NEWEST / "manifest.json").read_bytes()
    stored = json.loads(data)
    shard = stored["shards"][0]
    names = {*stored, *stored["state"], *stored["state"]["base"], *shard, *shard["file"],
             *shard["kinds"], *stored["groups"]["mllm"]}  # fmt: skip
    missing = [
        name for name in names if f"`{name}" not in format_guide().replace("`groups.*.", "`")
    ]
    assert not missing
    parse_manifest(data, "here")


def test_the_seal_can_be_checked_as_the_format_guide_says(run: Path) -> None:
    data = (run / "checkpoints" / NEWEST / "manifest.json").read_bytes()
    assert data.endswith(b'"}\n')
    body, _, rest = data.rpartition(b',"sha256":"')
    assert hashlib.sha256(body + b"}").hexdigest().encode() == rest[:64]


def commands_of_the_guide() -> list[str]:
    text = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_every_command_of_the_guide(
    program, small, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """As they stand there, in order, in a folder where their paths exist."""
    shutil.copytree(run, tmp_path / "runs" / "a")
    shutil.copytree(small.data, tmp_path / "data" / "posmed")
    images = small.data / "phantom_mri" / "test_images"
    shutil.copy(next(images.iterdir()), tmp_path / "data" / "posmed" / "scan.png")
    monkeypatch.chdir(tmp_path)
    commands = commands_of_the_guide()
    assert len(commands) > 8
    for command in commands:
        python, launched, *arguments = shlex.split(command)
        arguments = [
            str(small.llava_med) if word == "microsoft/llava-med-v1.5-mistral-7b" else word
            for word in arguments
        ]
        assert python == "python"
        if launched == "launch/export.py":
            assert program(*arguments) == 0, command
            capsys.readouterr()
            continue
        assert OTHERS[launched]([*arguments, "--max_new_tokens", "4"]) == 0, command
    plain = LlavaForConditionalGeneration.from_pretrained("exported/merged")
    assert plain.dtype == torch.bfloat16
    for made in ("trained/adapter", "released/cls.pth", "back/model.json"):
        assert (tmp_path / "exported" / made).exists()
