"""Command lines of older programs."""

from __future__ import annotations

import dataclasses

import pytest

from prs_med.answering_config import EvaluationSettings, InferenceSettings
from prs_med.config import SettingError, Settings
from prs_med.old_spellings import GONE, RENAMED, VALUES, modern
from prs_med.settings_io import parse_settings, parse_training_settings


def parse(*argv: str) -> Settings:
    return parse_training_settings(argv, "")


def test_the_old_training_command() -> None:
    settings = parse(
        *("--num_epochs", "7", "--checkpoint_dir", "out", "--lr", "2e-4", "--use_amp"),
        *("--vision_encoder_type", "sammed2d", "--vision_encoder_checkpoint=sam-med2d_b.pth"),
        *("--specific_dataset", "prostate", "--compile_model"),
    )
    assert settings.epochs == 7
    assert settings.save_dir == "out"
    assert settings.learning_rate == 2e-4
    assert settings.precision == "bf16"
    assert settings.encoder_type == "sam_med2d"
    assert settings.sam_ckpt == "sam-med2d_b.pth"
    assert settings.tasks == "prostate"
    assert settings.compile_model


def test_the_ddp_training_command() -> None:
    settings = parse(
        *("--model_path", "llava", "--data_path", "data", "--annotation_path", "a.csv"),
        *("--grad_accum_steps", "8", "--grad_clip_norm", "0.5"),
    )
    assert (settings.vlm_path, settings.data_root, settings.ann_paths) == ("llava", "data", "a.csv")
    assert (settings.gradient_accumulation_steps, settings.max_grad_norm) == (8, 0.5)


def test_old_values_of_settings_that_still_exist() -> None:
    assert parse("--encoder_type", "sammed2d").encoder_type == "sam_med2d"


def test_mixed_precision_off() -> None:
    assert parse("--no-use_amp").precision == "fp32"
    assert parse("--use_amp", "False").precision == "fp32"


@pytest.mark.parametrize("name", ["device", "log_file", "sam_model_type", "deterministic"])
def test_what_is_gone_says_what_replaces_it(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse(f"--{name}", "x")
    assert str(caught.value).startswith(f"--{name} is no longer needed: {GONE[name]}")
    assert "\n" not in str(caught.value)


def test_the_old_inference_command() -> None:
    kept = parse_settings(
        InferenceSettings,
        [
            *("--checkpoint", "imported", "--vlm_path", "llava", "--data_root", "data"),
            *("--ann_paths", "a.csv", "--split", "val", "--num_samples", "4"),
            *("--output_dir", "out", "--temperature", "0.2", "--max_new_tokens", "512"),
            *("--top_p", "0.95", "--seed", "42"),
        ],
        "",
    )
    assert (kept.temperature, kept.top_p, kept.max_new_tokens) == (0.2, 0.95, 512)
    for name in ("encoder_type", "image_size", "lora_rank", "load_8bit"):
        with pytest.raises(SettingError, match=f"--{name} is no longer needed: it is read from"):
            parse_settings(InferenceSettings, [f"--{name}", "1"], "")


def test_the_old_evaluation_command() -> None:
    settings = parse_settings(EvaluationSettings, ["--specific_dataset", "lung_CT"], "")
    assert settings.tasks == "lung_CT"
    with pytest.raises(SettingError, match="--results_csv is no longer needed"):
        parse_settings(EvaluationSettings, ["--results_csv", "r.csv"], "")


def test_every_new_name_exists() -> None:
    known = {field.name for field in dataclasses.fields(Settings)}
    assert set(RENAMED.values()) <= known
    assert {name for name, _ in VALUES} <= known
    assert not set(RENAMED) & known


def test_todays_spellings_are_left_alone() -> None:
    known = {"batch_size", "load_4bit", "epochs"}
    for name, value in [("batch_size", "4"), ("load_4bit", None), ("nonsense", "1")]:
        assert modern(name, value, known) == (name, value)
