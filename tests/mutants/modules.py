"""The pure core, and the tests that must notice when it is changed."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 300
"""Mutants of a module that are tried; of more, a sample that is the same in every run."""


@dataclass(frozen=True)
class CoreModule:
    """A file of ``prs_med`` whose every value is meant to be held by tests."""

    source: str
    """Its path from the root of the repository."""
    tests: tuple[str, ...]
    """The files of ``tests/unit`` that are about it."""

    @property
    def name(self) -> str:
        """What ``import`` says."""
        return self.source.removesuffix(".py").replace("/", ".")

    @property
    def test_files(self) -> list[str]:
        """Paths from the root of the repository."""
        return [f"tests/unit/{test}.py" for test in self.tests]


CORE = {
    "losses": CoreModule("prs_med/model/losses.py", ("test_losses",)),
    "objective": CoreModule("prs_med/model/objective.py", ("test_objective",)),
    "mask_decoder": CoreModule("prs_med/model/mask_decoder.py", ("test_mask_decoder",)),
    "prefix_mask": CoreModule("prs_med/model/shared_prefix.py", ("test_shared_prefix_layout",)),
    "joint_norm": CoreModule("prs_med/train/joint_norm.py", ("test_joint_norm",)),
    "order": CoreModule("prs_med/data/order.py", ("test_order",)),
    "stream_order": CoreModule("prs_med/data/stream/stream_order.py", ("test_stream_order",)),
    "split": CoreModule("prs_med/data/split.py", ("test_split",)),
    "collate": CoreModule("prs_med/data/collate.py", ("test_collate", "test_shared_prefix_layout")),
    "sequences": CoreModule("prs_med/data/sequences.py", ("test_shared_prefix_layout",)),
    "shared_prefix": CoreModule("prs_med/data/shared_prefix.py", ("test_shared_prefix_layout",)),
    "position": CoreModule("prs_med/data/position.py", ("test_position",)),
    "answer_position": CoreModule("prs_med/data/answer_position.py", ("test_answer_position",)),
    "manifest": CoreModule(
        "prs_med/checkpoint/manifest.py", ("test_checkpoint_manifest", "test_checkpoint_damage")
    ),
    "ownership": CoreModule("prs_med/checkpoint/ownership.py", ("test_checkpoint_ownership",)),
    "retention": CoreModule("prs_med/checkpoint/retention.py", ("test_checkpoint_retention",)),
    "decoding": CoreModule("prs_med/evaluate/generate.py", ("test_generate", "test_sampling")),
}
"""By the names that ``make mutants MODULES=...`` takes."""
