"""Installing packages starts no services, and leaves no trace of how that was prevented."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.services import packages


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    return tmp_path / "policy-rc.d"


def test_services_are_refused_while_packages_are_installed(policy: Path) -> None:
    with packages.no_services_started([]):
        assert subprocess.run([policy, "munge", "start"], check=False).returncode == 101
    assert not policy.exists()


def test_what_the_machine_says_about_services_stays(policy: Path) -> None:
    policy.write_text("its own")
    with packages.no_services_started([]):
        pass
    assert policy.read_text() == "its own"
