"""Programs answer a question or a mistake before they import what is slow to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.programs import ROOT, environment

SLOW = {
    *("torch", "deepspeed", "transformers", "peft", "bitsandbytes", "accelerate", "datasets"),
    *("numpy", "scipy", "pyarrow", "PIL", "boto3", "botocore", "monai", "nltk", "jinja2"),
    *("tokenizers", "safetensors", "huggingface_hub", "tqdm"),
}
QUESTIONS = {
    "train": (["--help"], ["--version"], ["--batch_sise", "4"], ["--batch_size", "0"], []),
    "plan": (["--help"], ["--version"], ["--gpuss", "4"], ["--gpus", "0"]),
    "data": (
        *(["--help"], ["--version"], ["chek"]),
        *(["check", "--help"], ["check", "--dta", "x"], ["check", "x", "--num_workers", "0"]),
        *(["build", "--help"], ["stats", "--pictures", "-1"], ["synthesize", "--size", "8"]),
        *(["slices", "--help"], ["annotate", "--help"]),
    ),
    "eval": (
        *(["--help"], ["--version"], ["--chekpoint", "x"], ["--split", "all"]),
        *(["compare", "--help"], ["compare", "a"]),
    ),
    "infer": (["--help"], ["--version"], ["--imagge", "x"], ["--top_p", "0"]),
    "export": (
        *(["--help"], ["--version"], ["verfy"], ["inspect", "--help"], ["verify", "--al"]),
        *(["trained", "x", "--output_dir", "."], ["merged", "--dtype", "fp8"]),
        ["import-released", "--help"],
    ),
    "demo": (["--help"], ["--version"], ["--step", "2"], ["--steps", "-1"]),
}


@pytest.mark.parametrize(
    ("program", "argv"),
    [(name, argv) for name, questions in QUESTIONS.items() for argv in questions],
    ids=lambda part: part if isinstance(part, str) else " ".join(part) or "nothing",
)
def test_nothing_slow_is_imported_for_an_answer(program: str, argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", f"launch/{program}.py", *argv],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert "prs_med.checked_settings" in imported
    assert not {name.split(".")[0] for name in imported} & SLOW
    said = [line for line in lines if not line.startswith("import time:")]
    if argv[-1:] in (["--help"], ["--version"]):
        assert (done.returncode, said) == (0, [])
        assert done.stdout.startswith(("usage: ", f"launch/{program}.py: prs-med ")) or (
            argv == ["--help"] and f"python launch/{program}.py" in done.stdout
        )
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert len(said) == 1
        assert said[0].startswith("error: ")
