"""What a checkpoint says about the software that made it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

import prs_med
from prs_med.train.versions import versions


def test_they_are_those_that_run() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert found["prs-med"] == prs_med.__version__


def test_a_source_tree_that_is_not_installed_has_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_installed(name: str) -> str:
        if name == "prs-med":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("prs_med.train.versions.version", of_installed)
    assert versions()["prs-med"] == prs_med.__version__
