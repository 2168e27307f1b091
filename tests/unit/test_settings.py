"""Settings: where they come from, and what a wrong one says."""

from __future__ import annotations

import dataclasses
import math
import threading
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prs_med.answering_config import (
    ComparisonSettings,
    EvaluationSettings,
    InferenceSettings,
    UsedModelSettings,
)
from prs_med.checked_settings import MOST, CheckedSettings, without_none
from prs_med.config import (
    ExportSettings,
    ImportSettings,
    InspectSettings,
    MergedExportSettings,
    SettingError,
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
from prs_med.evaluate.post_processing import PostProcessing
from prs_med.plan_config import PlanSettings
from prs_med.programs.demo import DemoSettings
from prs_med.settings_io import (
    load_settings,
    parse_settings,
    parse_training_settings,
    save_settings,
)


def parse(*argv: str) -> Settings:
    return parse_training_settings(argv, "")


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: paper\nlambda_txt: 3.0\nbatch_size: 7\nlearning_rate: 1e-4\n")
    settings = parse("--config", str(file), "--batch_size", "9")
    assert settings.segmentation_loss == "bce_dice"  # preset over default
    assert settings.lambda_txt == 3.0  # file over preset
    assert settings.batch_size == 9  # command line over file
    assert settings.learning_rate == 1e-4  # although YAML reads 1e-4 as text


@pytest.mark.parametrize("address", ["s3://key:se/cret@bucket/a", "s3://key@bucket"])
def test_keys_in_an_address_are_refused_without_showing_them(address: str) -> None:
    with pytest.raises(SettingError, match=r"--checkpoint_uri: keys .*AWS_PROFILE") as failure:
        parse("--checkpoint_uri", address)
    assert "key@" not in str(failure.value)
    assert "se/cret" not in str(failure.value)
    assert parse("--checkpoint_uri", "s3://bucket/me@home").checkpoint_uri == "s3://bucket/me@home"


def test_names_that_users_of_the_older_scripts_know() -> None:
    names = """data_root ann_paths vlm_path sam_ckpt encoder_type image_size batch_size epochs
        learning_rate weight_decay save_dir load_4bit load_8bit num_workers cls_loss_weight
        cls_loss_epochs lora_rank lora_alpha lora_dropout lambda_seg lambda_txt
        gradient_accumulation_steps gradient_checkpointing compile_model seed"""
    assert set(names.split()) <= {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("lower", ["val_loss_txt", "val_hd95", "val_surface_distance"])
def test_the_best_is_the_lowest_loss_or_distance_and_else_the_highest(lower: str) -> None:
    assert not parse("--best_metric", lower).higher_is_better
    for name in ("val_dice", "val_zone_accuracy", "val_rouge_l"):
        assert parse("--best_metric", name).higher_is_better


def test_flags_with_and_without_a_value() -> None:
    assert parse("--load_4bit").load_4bit
    assert not parse("--load_4bit", "false").load_4bit


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_sise", "4"], "--batch_sise"),
        (["--batch_size", "0"], r"--batch_size 0: allowed is a positive number"),
        (["--batch_size", "four"], r"--batch_size four: allowed is a value of type int"),
        (["--image_size", "100"], "--image_size 100: .*tinysam takes multiples of 16"),
        (["--image_size", "48"], "--image_size 48: .* at least 64"),
        (
            ["--encoder_type", "sam2", "--image_size", "80"],
            "--image_size 80: --encoder_type sam2 takes multiples of 32",
        ),
        (["--freeze_mllm", "--train_projector"], "--freeze_mllm contradicts"),
        (["--data", "a", "--data_root", "b"], "--data and --data_root exclude each other"),
        (["--data", "a", "--tasks", "lung_CT"], "--tasks belongs to --data_root: the dataset in"),
        (["--data", "a", "--val_fraction", "0"], "--val_fraction belongs to --data_root"),
        (["--data_root", "b", "--batch_by_image"], "--batch_by_image belongs to --data: make a"),
        (["--data", "a", "--share_image_prefix"], "--share_image_prefix needs --batch_by_image"),
        (
            ["--data", "a", "--batch_by_image", "--share_image_prefix", "--attention", "flash"],
            "--share_image_prefix needs a mask that flash-attn does not know: use --attention auto",
        ),
        (["--data_root", "b", "--shuffle_window", "9"], "--shuffle_window belongs to --data"),
        (["--data", "a", "--cache_gb", "9"], "--cache_gb has no effect without --cache_dir"),
        (["--data", "a", "--shuffle_window", "0"], "--shuffle_window 0: allowed is a positive"),
        (["--augment_flip", "1.5"], "--augment_flip 1.5: allowed is 0 <= value <= 1"),
        (
            ["--use_liger_kernel", "--compile_model", "--compile_regions", "language_model"],
            "--use_liger_kernel and --compile_regions language_model fuse the same",
        ),
        (["--compile_regions", "encoder"], "--compile_regions has no effect without --compile_mod"),
        (
            ["--freeze_encoder", "--encoder_learning_rate", "1e-5"],
            "--encoder_learning_rate contradicts --freeze_encoder",
        ),
        (
            ["--validation_answers", "0", "--best_metric", "val_rouge_l"],
            "--best_metric val_rouge_l is a score of answers: set --validation_answers",
        ),
        (
            ["--validation_answers", "0", "--validation_answer_tokens", "9"],
            "--validation_answer_tokens has no effect with --validation_answers 0",
        ),
        (["--validation_pictures", "-1"], "--validation_pictures -1: allowed is 0 or more"),
        (["--ema_decay", "1"], "--ema_decay 1.0: allowed is 0 <= value < 1"),
        (["--compile_regions", "clip"], "--compile_regions clip: allowed are encoder"),
        (["--lora_targets", ","], "--lora_targets is empty"),
        (["--init_from", "/no/folder"], "--init_from /no/folder: holds no settings.yaml"),
        (["--segmentation_loss", "dice"], "--segmentation_loss dice: allowed are structure, bce"),
        (["--encoder_type", "vgg"], "--encoder_type vgg: allowed is tinysam, sam"),
        (["--preset", "mine"], "--preset mine: allowed are released, paper"),
        (["--load_4bit", "maybe"], "--load_4bit maybe: allowed is true or false"),
        (["--load_4bit", "--load_8bit"], "--load_4bit and --load_8bit exclude"),
        (["--finetune", "full", "--load_8bit"], "--finetune full cannot train quantised"),
        (["--config", "/no/file.yaml"], "--config /no/file.yaml"),
    ],
)
def test_a_wrong_setting_ends_in_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


def test_unknown_name_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("batch_sise: 4\n")
    with pytest.raises(SettingError, match="batch_sise: no such setting; did you mean batch_size"):
        parse("--config", str(file))


def test_required_settings_are_named() -> None:
    with pytest.raises(SettingError, match="--vlm_path is required"):
        parse("--data_root", "data").require()


def test_saved_settings_are_the_same_settings(tmp_path: Path) -> None:
    settings = parse("--learning_rate", "3e-5", "--load_4bit", "--ann_paths", "a.csv,b.csv")
    save_settings(settings, tmp_path / "settings.yaml")
    assert load_settings(tmp_path / "settings.yaml") == settings
    assert parse("--config", str(tmp_path / "settings.yaml")) == settings


@pytest.mark.parametrize(
    "cls",
    [
        *(Settings, EvaluationSettings, InferenceSettings, ComparisonSettings),
        *(ImportSettings, ExportSettings),
    ],
)
def test_every_setting_has_help_and_is_read_by_the_code(cls) -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        "".join(
            path.read_text()
            for path in (root / "prs_med").rglob("*.py")
            if path.name not in ("config.py", "answering_config.py")
        )
        + (root / "prs_med" / "config.py").read_text().split("def __post_init__", 2)[2]
    )
    if issubclass(cls, UsedModelSettings):
        # Read by their names.
        code += "".join(f"self.{spec.name}" for spec in dataclasses.fields(PostProcessing))
    for field in dataclasses.fields(cls):
        assert len(field.metadata["help"]) > 15, field.name
        assert (
            f"settings.{field.name}" in code
            or f"self.{field.name}" in code
            or (f'"{field.name}"' in code)
        ), f"nothing reads {field.name}"


def test_evaluation_settings() -> None:
    settings = parse_settings(EvaluationSettings, ["--split", "val", "--batch_size", "3"], "")
    assert (settings.split, settings.batch_size) == ("val", 3)
    with pytest.raises(SettingError, match="--split all: allowed are train, val, test"):
        parse_settings(EvaluationSettings, ["--split", "all"], "")


def test_each_encoder_has_its_own_input_size() -> None:
    assert parse().image_size == 1024
    assert parse("--encoder_type", "sam_med2d").image_size == 256
    assert parse("--encoder_type", "sam_med2d", "--image_size", "512").image_size == 512


def test_settings_that_belong_to_weights_come_with_them(tmp_path: Path) -> None:
    weights = parse("--lora_rank", "4", "--prompt_tokens", "all", "--vlm_path", "base")
    save_settings(weights, tmp_path / "settings.yaml")
    settings = parse("--init_from", str(tmp_path), "--epochs", "2")
    assert (settings.lora_rank, settings.prompt_tokens, settings.vlm_path) == (4, "all", "base")
    assert settings.epochs == 2
    chosen = parse("--init_from", str(tmp_path), "--prompt_tokens", "question")
    assert chosen.prompt_tokens == "question"
    # Everything else is this run's.
    save_settings(parse("--batch_size", "9"), tmp_path / "settings.yaml")
    assert parse("--init_from", str(tmp_path)).batch_size == parse().batch_size


def test_inference_settings() -> None:
    def ask(*argv: str) -> InferenceSettings:
        return parse_settings(InferenceSettings, argv, "")

    assert ask("--image", "a.png", "--question", "Where?").image == "a.png"
    with pytest.raises(SettingError, match="--question is required"):
        ask("--image", "a.png")
    assert ask("--csv", "a.csv", "--data_root", "data").csv == "a.csv"
    with pytest.raises(SettingError, match=r"give one of --image, --images, .*, not none"):
        ask()
    with pytest.raises(SettingError, match="not --image and --data"):
        ask("--image", "a.png", "--question", "?", "--data", "data")
    with pytest.raises(SettingError, match="--data_root does not go with --image"):
        ask("--image", "a.png", "--question", "?", "--data_root", "data")
    with pytest.raises(SettingError, match="--tasks belongs to --data_root"):
        ask("--data", "data", "--tasks", "lung_CT")
    assert ask("--data", "data", "--load_4bit").load_4bit is True
    assert ask("--data", "data").load_4bit is None
    with pytest.raises(SettingError, match="--question belongs to --image"):
        ask("--data_root", "data", "--question", "Where?")
    with pytest.raises(SettingError, match="--tasks belongs to --data_root"):
        ask("--image", "a.png", "--question", "Where?", "--tasks", "lung_CT")
    with pytest.raises(SettingError, match=r"--top_p 0\.0: allowed is 0 < value <= 1"):
        ask("--data_root", "data", "--top_p", "0")


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize(
    "name",
    [spec.name for spec in dataclasses.fields(Settings) if "float" in str(spec.type)],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingError, match=rf"--{name} {value}: allowed is .*") as caught:
        parse(f"--{name}={value}")
    assert "\n" not in str(caught.value)
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {value.replace('inf', '.inf').replace('nan', '.nan')}\n")
    with pytest.raises(SettingError, match=f"--{name} {value}"):
        parse("--config", str(file))


def test_nobody_waits_longer_than_the_interpreter_can() -> None:
    assert parse("--hang_timeout", "31536000").hang_timeout == 31536000
    with pytest.raises(SettingError, match="--hang_timeout 1000"):
        parse("--hang_timeout", "1e10")


def test_yaml_as_editors_and_people_leave_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for content, message in {
        "batch_size: 2\n".encode("utf-16"): "is not in UTF-8",
        b"on: 1\nx: 2\n": "True: no such setting",
        b"batch_size: 2\nbatch_size: 4\n": "'batch_size' stands there twice",
        b"batch_size:\n": "--batch_size None: expected int",
        b"- batch_size: 2\n": "expected 'name: value' lines",
    }.items():
        file.write_bytes(content)
        with pytest.raises(SettingError, match=message) as caught:
            parse("--config", str(file))
        assert "\n" not in str(caught.value)
    file.write_bytes(b"\xef\xbb\xbflora_targets: [q_proj, v_proj]\r\ntasks: [7, lung_CT]\r\n")
    settings = parse("--config", str(file))
    assert (settings.lora_targets, settings.tasks) == ("q_proj,v_proj", "7,lung_CT")


SEEDED = (
    (Settings, ()),
    (InferenceSettings, ("--data_root", "data")),
    (EvaluationSettings, ("--data_root", "data")),
    *((cls, ()) for cls in (BuildSettings, SynthesizeSettings, AnnotateSettings)),
)


@pytest.mark.parametrize(
    ("cls", "others"), SEEDED, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_seed_is_one_that_every_generator_takes(
    cls: type[CheckedSettings], others: tuple[str, ...]
) -> None:
    for seed in ("0", "4294967295"):
        assert parse_settings(cls, [*others, "--seed", seed], "").seed == int(seed)
    for seed in ("-1", "4294967296", "9" * 40):
        with pytest.raises(SettingError, match=f"--seed {seed}: allowed is 0 to 4294967295"):
            parse_settings(cls, [*others, "--seed", seed], "")


PROGRAMS = (
    *(Settings, PlanSettings, EvaluationSettings, InferenceSettings, ComparisonSettings),
    *(BuildSettings, CheckSettings, StatsSettings, SynthesizeSettings, AnnotateSettings),
    *(SlicesSettings, ImportSettings, InspectSettings, VerifySettings, TrainedExportSettings),
    *(MergedExportSettings, ExportSettings, DemoSettings),
)
NEEDED = {InferenceSettings: {"data_root": "data"}}
"""Without which there are no settings of these."""
NUMBERS = [
    (cls, spec)
    for cls in PROGRAMS
    for spec in dataclasses.fields(cls)
    if without_none(typing.get_type_hints(cls)[spec.name]) in (int, float)
]


def tried(make: Callable[[], CheckedSettings]) -> tuple[CheckedSettings | None, str]:
    """Settings, or else what refused them."""
    try:
        return make(), ""
    except SettingError as error:
        return None, str(error)


numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**19), 2**31, 2**63])
"""As one may type them."""


@given(st.sampled_from(NUMBERS), numbers)
def test_a_number_is_taken_within_its_limits_or_refused_in_one_line(
    number: tuple[type[CheckedSettings], dataclasses.Field], value: float
) -> None:
    cls, spec = number
    others = [f"--{name}={text}" for name, text in NEEDED.get(cls, {}).items()]
    made, refused = tried(lambda: parse_settings(cls, [*others, f"--{spec.name}={value}"]))
    if made is None:
        assert "\n" not in refused
        assert refused.startswith("--")
    else:
        taken = getattr(made, spec.name)
        assert math.isfinite(taken)
        assert abs(taken) <= spec.metadata["most"]


@pytest.mark.parametrize(
    ("cls", "spec"), NUMBERS, ids=lambda each: getattr(each, "name", None) or each.__name__
)
def test_a_number_above_the_largest_of_its_setting_is_refused(
    cls: type[CheckedSettings], spec: dataclasses.Field
) -> None:
    most, check = spec.metadata["most"], spec.metadata["check"]
    others = NEEDED.get(cls, {})
    for value in (most + 1, 10**400):
        _, refused = tried(lambda value=value: cls(**others, **{spec.name: value}))
        assert f"--{spec.name} {value}: allowed is " in refused
    _, refused = tried(lambda: cls(**others, **{spec.name: most}))
    if check is None or check(most):
        # Rules that join several settings may still refuse it.
        assert "allowed is at most" not in refused


def test_clocks_and_threads_take_the_largest_number() -> None:
    assert threading.TIMEOUT_MAX > MOST
    assert torch.iinfo(torch.int32).max > MOST


def test_a_number_in_a_file_that_is_beyond_all_limits_ends_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for text, message in {
        "9" * 5000: str(file),
        "9" * 100: "--batch_size 9+: allowed is at most 65536",
        "1e400": "--batch_size 1e400: allowed is a value of type int",
        "2026-99-99": f"{file}|--batch_size",
    }.items():
        file.write_text(f"batch_size: {text}\n")
        with pytest.raises(SettingError, match=message) as caught:
            parse("--config", str(file))
        assert "\n" not in str(caught.value)
