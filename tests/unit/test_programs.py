"""What the programs say about themselves and about a command line that is wrong."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prs_med import __version__
from prs_med.answering_config import ComparisonSettings, EvaluationSettings, InferenceSettings
from prs_med.checked_settings import CheckedSettings, SettingError
from prs_med.config import Settings
from prs_med.data.records import DataError
from prs_med.plan_config import PlanSettings
from prs_med.programs import data, demo, evaluate, export, infer, plan, train
from prs_med.programs.program import program, refused
from prs_med.trainer_names import TRAINER

ROOT = Path(__file__).resolve().parents[2]
Main = Callable[[Sequence[str]], int]

PROGRAMS: dict[str, tuple[Main, list[str], tuple[type[CheckedSettings], ...]]] = {
    "train": (train.main, [], (Settings,)),
    "plan": (plan.main, [], (PlanSettings, Settings)),
    "eval": (evaluate.main, [], (EvaluationSettings,)),
    "eval compare": (evaluate.main, ["compare"], (ComparisonSettings,)),
    "infer": (infer.main, [], (InferenceSettings,)),
    "demo": (demo.main, [], (demo.DemoSettings,)),
    **{
        f"{name} {command}": (program.main, [command], (program.COMMANDS[command].settings,))
        for name, program in (("data", data), ("export", export))
        for command in program.COMMANDS
    },
}
"""Every program and command: its ``main``, the command's name, its settings."""
every_program = pytest.mark.parametrize("name", PROGRAMS)


def fields(name: str) -> Iterator[dataclasses.Field]:
    for cls in PROGRAMS[name][2]:
        yield from dataclasses.fields(cls)


def ask(name: str, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a program."""
    main, command, _ = PROGRAMS[name]
    status = main([*command, *argv])
    return status, *capsys.readouterr()


@every_program
def test_help_shows_every_setting_once(name: str, capsys) -> None:
    status, shown, errors = ask(name, capsys, "--help")
    assert (status, errors) == (0, "")
    assert max(map(len, shown.splitlines())) <= 100
    listed = re.findall(r"^  (?:[A-Z_]+, )?--(\w+)", shown, re.MULTILINE)
    expected = [field.name for field in fields(name)]
    more = ["config", "preset"] if name in ("train", "plan") else []
    assert sorted(listed) == sorted([*expected, *more, "help", "version"])


@every_program
def test_help_begins_with_usage_example_and_what_is_required(name: str, capsys) -> None:
    _, shown, _ = ask(name, capsys, "--help")
    program = f"launch/{name.split()[0]}.py"
    assert re.match(rf"usage: (python|deepspeed) {program}", shown)
    usage, _, rest = shown.partition("\n\n")
    before = rest.split("\n  --", 1)[0]
    assert re.search(rf"(Example: |^)(python|deepspeed) {program}", before, re.MULTILINE)
    if name == "plan":
        assert "Required:" not in shown
        return
    for field in fields(name):
        if field.metadata["required"]:
            assert field.name.upper() in usage
            listed = shown.split("Required:\n")[1].split("\n\n")[0]
            entry = re.split(rf"--{field.name}\b", listed)[1].split("\n  -")[0]
            assert "(required" in entry


@pytest.mark.parametrize(("name", "most"), [("train", 14), ("plan", 17)])
def test_what_people_change_stands_in_front(name: str, most: int, capsys) -> None:
    _, shown, _ = ask(name, capsys, "--help")
    front = re.findall(r"^  --(\w+)", shown.split("Often changed:")[1].split("\n\n")[0], re.M)
    expected = [field.name for field in fields(name) if name in field.metadata["common"]]
    assert set(front) == {*expected, "config", "preset"}
    assert 10 <= len(front) <= most


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("data check", "usage: python launch/data.py check DATA [--SETTING VALUE ...]"),
        ("export verify", "usage: python launch/export.py verify CHECKPOINT [--SETTING VALUE ...]"),
        ("eval compare", "usage: python launch/eval.py compare A B [--SETTING VALUE ...]"),
    ],
)
def test_a_command_has_its_own_usage(name: str, usage: str, capsys) -> None:
    assert ask(name, capsys, "-h")[1].splitlines()[0] == usage


@pytest.mark.parametrize("name", [*PROGRAMS, "data", "export"])
def test_versions_are_told(name: str, capsys) -> None:
    known = {"data": (data.main, []), "export": (export.main, [])}
    main, command, *_ = known.get(name) or PROGRAMS[name]
    assert main([*command, "--version"]) == 0
    program = rf"launch/{name.split()[0]}\.py"
    pattern = rf"{program}: prs-med {re.escape(__version__)}, Python 3\.\S+, torch \d\S+\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


@every_program
def test_a_program_leaves_its_interpreter_alone(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["something", "--nonsense"])
    for _ in range(2):
        assert ask(name, capsys, "--help")[0] == 0
        status, shown, errors = ask(name, capsys, "--nonsense")
        assert (status, shown) == (2, "")
        assert errors == "error: --nonsense: no such setting (see --help)\n"


def test_a_reader_may_stop_reading_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert train.main(["--help"]) == 0


@st.composite
def misspelt(draw: st.DrawFn) -> tuple[str, str, str]:
    """A program, a flag that it has, and the same with one letter changed."""
    name = draw(st.sampled_from(sorted(PROGRAMS)))
    flag = draw(st.sampled_from([field.name for field in fields(name)]))
    at = draw(st.integers(0, len(flag) - 1))
    wrong = flag[:at] + draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz")) + flag[at + 1 :]
    return name, flag, wrong


@given(misspelt())
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_a_flag_with_one_letter_changed_names_itself(capsys, words: tuple[str, str, str]) -> None:
    name, flag, wrong = words
    known = {field.name for field in fields(name)}
    if wrong in known:
        return
    status, shown, errors = ask(name, capsys, f"--{wrong}", "1")
    assert (status, shown) == (2, "")
    assert errors.startswith(f"error: --{wrong}: no such setting; did you mean ")
    assert f"--{flag} " in errors.replace("?", " ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["train", "eval", "data check"])
def test_every_name_of_trainers_is_explained_in_one_line(name: str, capsys) -> None:
    known = {field.name for field in fields(name)}
    for foreign, (ours, note) in TRAINER.items():
        if foreign in known:
            continue
        status, shown, errors = ask(name, capsys, f"--{foreign}", "1")
        assert (status, shown) == (2, "")
        assert errors.startswith(f"error: --{foreign}: no such setting; ")
        assert errors.count("\n") == 1
        assert len(errors) < 250
        told = [f"--{each}" for each in ours] or [note]
        assert any(each in errors for each in told), errors


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("train", ["--epochs"], "--epochs: its value is missing (see --help)"),
        ("train", ["data/posmed"], "data/posmed: belongs to no setting; their names begin with --"),
        ("train", ["--data_root", "a"], "--vlm_path is required: LLaVA-Med weights"),
        ("train", ["--vlm_path", "a"], "--data_root or --data is required: Folder with images"),
        ("eval", ["--checkpoint", "a"], "--data or --data_root is required: Dataset made by"),
        ("data check", ["a", "--data", "b"], "--data is given twice: b and a"),
        ("data check", ["a", "b"], "--data is given twice: a and b"),
        ("data check", [], "--data is required: The dataset"),
        ("train", ["--batch_size", "0"], "--batch_size 0: allowed is a positive number"),
        ("train", ["--lr_scheduler_type", "cosine"], "--lr_scheduler_type: no such setting; the"),
        ("train", ["--learning-rate", "1"], "--learning-rate: no such setting; did you mean --lea"),
        ("train", ["--rank", "4"], "--rank: no such setting; did you mean --lora_rank?"),
        (
            "train",
            ["--load_5bit"],
            "--load_5bit: no such setting; did you mean --load_4bit or --lo",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(name: str, argv: list[str], message: str, capsys) -> None:
    status, shown, errors = ask(name, capsys, *argv)
    assert (status, shown) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("program", [data, export], ids=["data", "export"])
def test_a_misspelt_command_names_the_nearest(program, capsys) -> None:
    for command in program.COMMANDS:
        assert program.main([command[:-2] + command[-1]]) == 2
        assert f"did you mean {command}?" in capsys.readouterr().err


def test_launch_files_start_the_programs_and_do_nothing_else() -> None:
    files = sorted((ROOT / "launch").glob("*.py"))
    assert len(files) == 7
    for file in files:
        lines = [line for line in file.read_text().splitlines() if line]
        assert len(lines) == 3, file
        assert lines[2] == "sys.exit(main(sys.argv[1:]))"


def test_each_mistake_is_a_line_and_a_traceback_of_a_loader_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(SettingError("ds.json: one\nds.json: other")) == 2
    assert capsys.readouterr().err == "error: ds.json: one\nerror: ds.json: other\n"
    behind = f"Traceback ...\n{DataError.__module__}.DataError: a.csv:3: bad row"
    assert refused(DataError(behind)) == 2
    assert capsys.readouterr().err == "error: a.csv:3: bad row\n"


MINE = ["--deepspeed", "x", "--data_root", "x", "--vlm_path", "x", "--sam_ckpt", "x"]


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("train", [*MINE, "--save_dir", "file.txt/run"]),
        ("data build", ["--data_root", "nowhere", "--output", "file.txt/dataset"]),
        (
            "infer",
            ["--checkpoint", "x", "--image", "x", "--question", "x", "--output_dir", "file.txt"],
        ),
        ("eval", ["--checkpoint", "x", "--data_root", "x", "--output_dir", "file.txt"]),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    name: str, argv: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("mine")
    status, _, errors = ask(name, capsys, *argv)
    assert status == 2
    assert errors.startswith(f"error: {argv[-2]} {argv[-1]}: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["infer", "eval"])
def test_wrong_words_of_places_are_refused_before_the_weights(
    name: str, tmp_path: Path, capsys
) -> None:
    asked = ["--image", "x", "--question", "x"] if name == "infer" else ["--data_root", "x"]
    argv = ["--checkpoint", "nowhere", *asked, "--output_dir", str(tmp_path / "out")]
    status, _, errors = ask(name, capsys, *argv, "--position_words", "nowhere.yaml")
    assert (status, errors[:37]) == (2, "error: --position_words nowhere.yaml:")


def test_a_name_that_is_no_text_can_be_printed(monkeypatch) -> None:
    @program
    def main(argv: Sequence[str]) -> int:
        print(argv[0])
        return 0

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf-8"))
    assert main(["\udcff.png"]) == 0
    sys.stdout.flush()
    assert raw.getvalue() == b"\\udcff.png\n"
