"""``launch/plan.py`` as a user starts it."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path

import pytest

from prs_med.config import Settings
from prs_med.plan.findings import Verdict
from prs_med.plan.software_check import check_software
from prs_med.plan.storage_check import check_room, check_shared_memory, check_writing
from prs_med.plan_config import PlanSettings
from prs_med.programs.plan import main
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.store import StorageError


@pytest.fixture
def arguments(small) -> list[str]:
    return ["--vlm_path", str(small.llava_med), "--sam_ckpt", str(small.tinysam)]


def test_a_plan_is_printed_and_written(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    more = ["--price", "2", "--gpus", "4", "--samples", "7200", "--epochs", "1"]
    assert main([*arguments, *more, "--image_size", "64", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    for text in ("Parameters", "TFLOPs", "What fits", "Recommended: --deepspeed", "Storage"):
        assert text in shown
    plan = json.loads(file.read_text())
    run = plan["recommended"]
    assert run["config"] in shown
    assert run["cost"]["best"] == pytest.approx(4 * 2 * run["hours"]["best"])
    assert run["hours"]["best"] == pytest.approx(2 / run["speed"]["best"])
    assert {fit["config"] for fit in plan["fits"]} == {
        path.name for path in Path("ds_configs").glob("*.json")
    }


def test_without_a_price_there_is_no_cost(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--image_size", "64"]) == 0
    assert "cost n/a" in capsys.readouterr().out


def test_one_configuration_is_planned_exactly_as_given(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--deepspeed", "ds_configs/zero3.json", "--batch_size", "3", "--image_size", "64"]
    assert main([*arguments, *more]) == 0
    shown = capsys.readouterr().out
    assert "The settings as given" in shown
    assert "at micro-batch 3" in shown
    assert "zero2.json" not in shown


def test_a_training_that_ends_after_some_steps_is_planned_to_there(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    more = ["--image_size", "64", "--json", str(file), "--price", "2", "--gpus", "4"]
    assert main([*arguments, *more, "--max_steps", "3000"]) == 0
    assert "3,000 steps" in capsys.readouterr().out
    run = json.loads(file.read_text())["recommended"]
    assert run["hours"]["best"] == pytest.approx(3000 * run["seconds"]["best"] / 3600)
    assert run["cost"]["best"] == pytest.approx(4 * 2 * run["hours"]["best"])


def test_an_8_bit_base_is_planned_where_it_can_be_trained(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    more = ["--image_size", "64", "--json", str(file), "--load_8bit"]
    assert main([*arguments, *more]) == 0
    fits = {(fit["config"], fit["base"]) for fit in json.loads(file.read_text())["fits"]}
    assert {config for config, base in fits if base == "int8"} == {
        *("zero2.json", "zero2_offload.json")
    }
    capsys.readouterr()
    assert main([*arguments, *more, "--deepspeed", "ds_configs/zero2.json"]) == 0
    assert "--load_8bit" in capsys.readouterr().out
    assert main([*arguments, *more, "--deepspeed", "ds_configs/zero3.json"]) == 2
    assert "ZeRO-3 cannot partition the int8 weights" in capsys.readouterr().err


def test_what_is_computed_again_is_recommended_by_its_flags(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # With a little less room than the card has, not everything can be kept.
    assert main(["--gpu", "l4", "--gpus", "1", "--reserve_gb", "2.5"]) == 0
    shown = capsys.readouterr().out
    assert "What fits on 1 GPU: " in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("Recommended")]
    assert "--encoder_checkpointing" in line


@pytest.mark.parametrize(("precision", "lines"), [("fp32", 1), ("tf32", 0), ("bf16", 0)])
def test_tf32_is_mentioned_where_products_are_fp32_and_it_gains(
    precision: str, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--segmentation_precision", precision, "--deepspeed", "ds_configs/zero2.json"]
    assert main(["--gpu", "h200", *more, "--batch_size", "8"]) == 0
    recommended, configured = capsys.readouterr().out.split("The settings as given")
    for part in (recommended, configured):
        assert part.count("times with --segmentation_precision tf32") == lines


def test_config_json_alone_is_enough(small, tmp_path: Path, capsys) -> None:
    config = json.loads((small.llava_med / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "mm_hidden_size": 1024}))
    assert main(["--vlm_path", str(tmp_path), "--image_size", "64"]) == 0
    assert "303,507,456" in capsys.readouterr().out
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["--vlm_path", str(tmp_path)]) == 2
    assert "name the CLIP tower with --vision_tower" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--gpu", "abacus"], "--gpu abacus: allowed are rtx4090, l4"),
        (["--network", "pigeon"], "--network pigeon: allowed are ethernet-10"),
        (["--gpus", "12"], "--gpus 12: allowed are multiples of --gpus_per_node 8"),
        (["--gpus", "0"], "--gpus 0: allowed is a positive number"),
        (["--price", "cheap"], "--price cheap: allowed is a value of type float"),
        (["--fragmentation", "1"], "--fragmentation 1.0: allowed is 0 <= value < 1"),
        (["--encoder_size", "b"], "--encoder_size b: allowed with --encoder_type tinysam is none"),
        (
            ["--encoder_type", "sam", "--encoder_size", "xl"],
            "--encoder_size xl: allowed with --encoder_type sam is b, l, h",
        ),
        (["--batch_size", "-1"], "--batch_size -1: allowed is a positive number"),
        (["--deepspeed", "nowhere.json"], "--deepspeed nowhere.json: "),
        (["--nonsense"], "--nonsense: no such setting (see --help)"),
        (["--vlm_path", "./nowhere"], "--vlm_path ./nowhere: no such folder"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_help_lists_plan_and_training_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for text in ("--gpus_per_node", "--price", "--check", "--lora_rank", "--config"):
        assert text in shown


def test_good_surroundings_pass(
    small, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--save_dir", str(tmp_path / "new" / "run"), "--data_root", str(small.data)]
    more += ["--deepspeed", "ds_configs/zero2.json"]
    assert main(["--check", *arguments, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    for what in ("torch", "deepspeed", "--save_dir", "--vlm_path", "--sam_ckpt", "--deepspeed"):
        assert any(line.startswith(f"pass  {what}: ") for line in lines), what
    assert lines[-1].endswith("0 fail")
    assert not (tmp_path / "new").exists()


def test_broken_surroundings_fail_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path), "--cache_dir", str(tmp_path), "--cache_gb", "1e9"]
    weights = ["--vlm_path", str(tmp_path), "--sam_ckpt", str(tmp_path / "no.pth")]
    assert main(["--check", *data, *weights]) == 1
    lines = capsys.readouterr().out.splitlines()
    for what in ("--data", "--cache_dir", "--vlm_path", "--sam_ckpt"):
        (found,) = [line for line in lines if line.startswith(f"fail  {what}: ")]
        assert "; " in found
    assert lines[-1].endswith("4 fail")


def test_wrong_versions_are_found(tmp_path: Path) -> None:
    setup = tmp_path / "setup.py"
    setup.write_text("setup(install_requires=['torch>=99', 'numpy>=1', 'no-such-package-here'])")
    found = {f.what: f for f in check_software(Settings(), setup)}
    assert found["torch"].verdict is Verdict.FAIL
    assert found["torch"].fix == "pip install -c constraints.txt 'torch>=99'"
    assert found["no-such-package-here"].detail == "not installed"
    assert found["packages"].detail == "1 are as required"


def test_whether_kernels_that_are_asked_for_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = dict.fromkeys(("flash-attn", "liger-kernel"), "1.2.3")

    def version(name: str) -> str:
        if name in installed:
            return installed[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert "liger-kernel" not in {each.what for each in check_software(Settings())}
    for verdict in (Verdict.PASS, Verdict.FAIL):
        found = {f.what: f for f in check_software(Settings(use_liger_kernel=True))}
        assert found["liger-kernel"].verdict is verdict
        installed.clear()
    assert "prs-med[liger]" in found["liger-kernel"].fix


def test_room_and_shared_memory(tmp_path: Path) -> None:
    (room,) = check_room("--save_dir", tmp_path / "a" / "b", wanted=1)
    assert room.verdict is Verdict.PASS
    (room,) = check_room("--save_dir", tmp_path, wanted=1e18)
    assert room.verdict is Verdict.FAIL
    (shared,) = check_shared_memory(tmp_path / "none")
    assert shared.verdict is Verdict.WARN


class _Overwriting(DirectoryStore):
    def create(self, name: str, data: bytes) -> bool:
        self.write(name, data)
        return True


class _Refusing(DirectoryStore):
    def create(self, name: str, data: bytes) -> bool:
        raise StorageError(f"{self.where(name)}: the server answers 403")


def test_writing_is_tried(tmp_path: Path) -> None:
    good = list(check_writing("--checkpoint_uri", DirectoryStore(tmp_path)))
    assert [finding.verdict for finding in good] == [Verdict.PASS] * 5
    assert not list(tmp_path.iterdir())
    careless = list(check_writing("--checkpoint_uri", _Overwriting(tmp_path)))
    assert [f.detail for f in careless if f.verdict is Verdict.WARN] == [
        "the server overwrites where it was told not to (If-None-Match: *)"
    ]
    (refused,) = check_writing("--checkpoint_uri", _Refusing(tmp_path))
    assert refused.verdict is Verdict.FAIL
    assert "403" in refused.detail


def test_plan_settings_are_none_of_training() -> None:
    names = {spec.name for spec in dataclasses.fields(PlanSettings)}
    assert not names & {spec.name for spec in dataclasses.fields(Settings)}
