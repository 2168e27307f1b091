"""What is shown of the messages of libraries, and where."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from prs_med.quiet import quieten


@pytest.fixture
def deepspeed_logger(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """Its logger, with a handler as DeepSpeed adds it when it is imported, and what that writes."""
    monkeypatch.delenv("PRS_MED_VERBOSE", raising=False)
    logger = logging.getLogger("DeepSpeed")
    written = io.StringIO()
    handler, level = logging.StreamHandler(written), logger.level
    quieten()
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    yield logger, written
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_deepspeed_says_nothing_on_stdout_although_it_sets_its_own_level(
    deepspeed_logger, caplog: pytest.LogCaptureFixture
) -> None:
    logger, stdout = deepspeed_logger
    logger.warning("Setting accelerator to CPU")
    logger.error("no memory")
    assert stdout.getvalue() == ""
    assert [record.getMessage() for record in caplog.records] == ["no memory"]


def test_all_of_it_is_shown_on_request(
    deepspeed_logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, stdout = deepspeed_logger
    monkeypatch.setenv("PRS_MED_VERBOSE", "1")
    logger.warning("Setting accelerator to CPU")
    assert stdout.getvalue() == ""
    assert [record.getMessage() for record in caplog.records] == ["Setting accelerator to CPU"]
