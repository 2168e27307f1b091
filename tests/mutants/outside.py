"""Mutants of what mutmut leaves alone: constants and patterns of a module and of its classes, and
functions with decorators. Each is a changed text of the whole file, tried in a forked process that
imports the project anew, but none of the libraries."""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import accumulate
from pathlib import Path
from types import ModuleType

import libcst
import pytest
from mutmut.configuration import reset_config
from mutmut.mutation.file_mutation import create_mutations
from mutmut.utils.file_utils import change_cwd

from tests.mutants.functions import PYTEST_ARGUMENTS, ROOT
from tests.mutants.modules import CoreModule
from tests.mutants.mutant import Change, Fate, change_between

_SECONDS_MORE = 10.0
"""What a mutant may take beyond five times what the unchanged code takes."""


def try_the_rest(module: CoreModule, folder: Path) -> list[tuple[Change, Fate]]:
    """What became of each of them.

    Args:
        module: whose text is changed.
        folder: with mutmut's settings, as :func:`tests.mutants.functions.try_functions` leaves it.
    """
    source = (ROOT / module.source).read_text(encoding="utf-8")
    with change_cwd(folder):
        reset_config()
        texts = list(changed_texts(source))
    if not texts:
        return []
    _import_libraries(module.test_files)
    started = time.monotonic()
    if _fate(module, source, 600.0) is not Fate.SURVIVED:
        sys.exit(f"{', '.join(module.test_files)}: fails without any change")
    limit = 5 * (time.monotonic() - started) + _SECONDS_MORE
    return [(change, _fate(module, text, limit)) for change, text in texts]


def changed_texts(source: str) -> Iterator[tuple[Change, str]]:
    """Each change and the text of the whole file with it."""
    decorators = _Decorators()
    bare = libcst.parse_module(source).visit(decorators)
    tree, mutations, _, _ = create_mutations("source", bare.code)
    for mutation in mutations:
        holder = mutation.contained_by_top_level_function
        if isinstance(holder, libcst.FunctionDef) and holder.name.value not in decorators.found:
            continue  # mutmut's own
        changed = tree.deep_replace(mutation.original_node, mutation.mutated_node)
        text = changed.visit(_Decorators(decorators.found)).code
        where = holder.name.value if isinstance(holder, libcst.FunctionDef) else ""
        yield change_between(where, source, text), text
    for text in _without_an_alternative(source):
        yield change_between("", source, text), text


class _Decorators(libcst.CSTTransformer):
    """Takes the decorators off those functions that mutmut would not change because of them; or
    puts them back."""

    def __init__(self, found: dict[str, Sequence[libcst.Decorator]] | None = None) -> None:
        self._put_back = found is not None
        self.found = found or {}
        """By the function's name."""

    def leave_FunctionDef(
        self, original_node: libcst.FunctionDef, updated_node: libcst.FunctionDef
    ) -> libcst.FunctionDef:
        """See the class."""
        name = original_node.name.value
        if self._put_back:
            return updated_node.with_changes(decorators=self.found.get(name, ()))
        names = {libcst.Module([]).code_for_node(d.decorator) for d in original_node.decorators}
        if not names or names == {"staticmethod"} or names == {"classmethod"}:
            return updated_node
        self.found[name] = original_node.decorators
        return updated_node.with_changes(decorators=())


_WORD = r"[\w\\+?' -]+"
_ALTERNATIVES = (
    re.compile(rf"""(?<=["'(|:>]){_WORD}\|"""),
    re.compile(rf"""\|{_WORD}(?=["')])"""),
)
"""One of several words between bars in a regular expression: any but the last, and the last."""


def _without_an_alternative(source: str) -> Iterator[str]:
    """The text without one of the alternatives of a pattern that stands outside of functions."""
    lines = source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        start, end = starts[statement.lineno - 1], starts[statement.end_lineno or 0]
        for pattern in _ALTERNATIVES:
            for match in pattern.finditer(source, start, end):
                yield source[: match.start()] + source[match.end() :]


class _Changed(MetaPathFinder, Loader):
    """Imports one module from a text instead of its file."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's, and none for others."""
        return spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the text."""
        exec(compile(self._text, f"<changed {self._name}>", "exec"), module.__dict__)


def _import_libraries(test_files: Sequence[str]) -> None:
    """Import what the tests import, then forget the project's own part of it."""
    with _silent():
        pytest.main(["--collect-only", "-q", *PYTEST_ARGUMENTS, *_paths(test_files)])
    for name in list(sys.modules):
        ours = name.partition(".")[0] in ("prs_med", "tests")
        if ours and name != "tests" and not name.startswith("tests.mutants"):
            del sys.modules[name]


def _fate(module: CoreModule, text: str, seconds: float) -> Fate:
    """What the tests say when the module's file holds ``text``."""
    child = os.fork()
    if child == 0:
        sys.meta_path.insert(0, _Changed(module.name, text))
        with _silent():
            arguments = ["-x", "-q", "-p", "no:cacheprovider", *PYTEST_ARGUMENTS]
            status = pytest.main([*arguments, *_paths(module.test_files)])
        os._exit(int(status != pytest.ExitCode.OK))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Fate.KILLED if status else Fate.SURVIVED
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Fate.TIMEOUT


def _paths(test_files: Sequence[str]) -> list[str]:
    return [str(ROOT / file) for file in test_files]


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing that is written reaches the terminal."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
