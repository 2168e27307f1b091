"""What many tests need: small data, small weights, and where the real samples lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Small tensors: more threads only wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# torch.compile's workers would be processes that import it too, for graphs of seconds.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

from prs_med.quiet import quieten

quieten()

from prs_med.data.phantoms import phantom_texts, write_phantoms  # noqa: E402
from prs_med.model.tiny_encoders import write_tinysam  # noqa: E402
from prs_med.model.tiny_llava import write_llava_med  # noqa: E402
from tests import leftovers  # noqa: E402
from tests.cost import Cost  # noqa: E402
from tests.patience import patience  # noqa: E402
from tests.scheduling import Lanes, longest_first  # noqa: E402

# A slow machine takes longer, and nothing is wrong with a test for that.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@dataclass(frozen=True)
class Small:
    """Paths of a small dataset and small weights in the published layouts."""

    data: Path
    llava_med: Path
    tinysam: Path

    def arguments(self) -> list[str]:
        """Settings that point training at them."""
        return ["--data_root", str(self.data), *self.weights()]

    def streaming(self, dataset: Path | str) -> list[str]:
        """The same with a dataset, in a folder or on S3, instead of the annotated images."""
        return ["--data", str(dataset), *self.weights()]

    def weights(self) -> list[str]:
        """Those that point it at the weights."""
        return ["--vlm_path", str(self.llava_med), "--sam_ckpt", str(self.tinysam)]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("small")
    write_phantoms(root / "data", {"train": 24, "val": 7, "test": 6}, size=96, seed=1)
    write_llava_med(root / "llava_med", phantom_texts(root / "data"), seed=2)
    write_tinysam(root / "tinysam.pth", seed=3)
    return Small(root / "data", root / "llava_med", root / "tinysam.pth")


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Real images and the real Mistral tokenizer; see CONTRIBUTING.md."""
    folder = os.environ.get("PRS_MED_SAMPLE_DATA")
    if not folder:
        pytest.skip("PRS_MED_SAMPLE_DATA does not name the folder with real sample data")
    return Path(folder)


def pytest_configure(config: pytest.Config) -> None:
    """What the process does that reports: in a test process of xdist, it is there already."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Cost())
    config.pluginmanager.register(leftovers)
    config.option.timeout = patience(config.option.timeout or float(config.getini("timeout") or 0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In which order tests are run, and which of them need weights: ``make test-fast`` does without
    those."""
    longest_first(items)
    for item in items:
        if "small" in getattr(item, "fixturenames", ()):
            item.add_marker("weights")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """Which of several test processes runs what."""
    return Lanes(config, log)
