"""Mutants of functions and methods, made and tried by mutmut: it imports everything once, forks a
process for each, and runs in it only those tests that reach the function."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import libcst
from mutmut.configuration import reset_config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import read_mutant_function, read_original_function
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import change_cwd
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

from tests.mutants.modules import CoreModule
from tests.mutants.mutant import Change, Fate, change_between, concerns_a_check_alone, sample

ROOT = Path(__file__).resolve().parents[2]
PYTEST_ARGUMENTS = ("--noconftest", "--hypothesis-profile=ci")
"""Tests of the core need nothing of ``conftest.py``, which costs half a second in each process. The
profile takes the same examples in every run, without time limits: a score is no matter of chance.
"""

NOT_CHANGED = (r"\braise \w+", r"\b_?logger\.", r"getLogger\(", r"^\s*say\(")
"""Lines on which nothing is changed: what a message says is read by people, and tests look for the
words in it that matter."""

_FATES = {
    "killed": Fate.KILLED,
    "segfault": Fate.KILLED,
    "timeout": Fate.TIMEOUT,
    "survived": Fate.SURVIVED,
    "no tests": Fate.SURVIVED,
}


def try_functions(
    module: CoreModule, folder: Path, processes: int, limit: int
) -> tuple[list[tuple[Change, Fate]], int]:
    """What became of each mutant that was tried, and how many could have been.

    Args:
        module: whose functions are changed.
        folder: where mutmut puts its copies; it is emptied first.
        processes: mutants that are tried at a time.
        limit: mutants that are tried at most.
    """
    _prepare(module, folder)
    with change_cwd(folder):
        reset_config()
        changes = _changes(module)
        names = list(changes)
        chosen = [names[place] for place in sample(list(changes.values()), limit)]
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes)]
        with Path("mutmut.log").open("wb") as log:
            status = subprocess.run([*command, *chosen], stdout=log, stderr=log).returncode
        if status:
            sys.exit(f"{folder}/mutmut.log: mutmut ended with status {status}")
        results = SourceFileMutationData(path=module.source)
        results.load()
    fates = {name: status_by_exit_code[results.exit_code_by_key[name]] for name in chosen}
    unknown = {name: fate for name, fate in fates.items() if fate not in _FATES}
    if unknown:
        sys.exit(f"{folder}/mutmut.log: mutmut could not try {unknown}")
    return [(changes[name], _FATES[fate]) for name, fate in fates.items()], len(names)


def _prepare(module: CoreModule, folder: Path) -> None:
    """A folder that looks like the repository, with mutmut's settings."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("prs_med", "tests"):
        os.symlink(ROOT / name, folder / name)
    settings = {
        "source_paths": ["prs_med"],
        "only_mutate": [module.source],
        "do_not_mutate_patterns": list(NOT_CHANGED),
        "pytest_add_cli_args": list(PYTEST_ARGUMENTS),
        "pytest_add_cli_args_test_selection": module.test_files,
        # A busy machine is no endless loop: mutmut allows 15 times the usual and this.
        "timeout_constant": 4.0,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    ours = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        "\n".join([ours, "[tool.mutmut]", *lines, ""]), encoding="utf-8"
    )


def _changes(module: CoreModule) -> dict[str, Change]:
    """The mutants that mutmut makes, by its names."""
    source = Path(module.source)
    mutated = mutate_file_contents(str(source), source.read_text(encoding="utf-8"))
    tree = libcst.parse_module(mutated.code)
    changes = {}
    for name in mutated.mutant_names:
        function, owner = orig_function_and_class_names_from_key(name)
        before, after = (
            libcst.Module([read(tree, name)]).code
            for read in (read_original_function, read_mutant_function)
        )
        where = f"{owner}.{function}" if owner else function
        change = change_between(where, before, after)
        if not concerns_a_check_alone(change):
            changes[f"{module.name}.{name}"] = change
    return changes
