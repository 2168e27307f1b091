"""Libraries that take seconds to import are imported by those who need them alone."""

from __future__ import annotations

from tests.programs import succeed


def needed(modules: list[str], libraries: list[str], afresh: bool = False) -> str:
    """The first of the libraries that the modules import."""
    return succeed("tests.processes.imports", *modules, "--", *libraries, afresh=afresh).strip()


def test_what_is_imported_is_found() -> None:
    assert needed(["prs_med.evaluate.mask_metrics"], ["bitsandbytes", "monai"]) == "monai"


def test_monai_is_imported_by_the_first_validation() -> None:
    """It takes seconds, which a refusal or --help would wait for."""
    assert needed(["prs_med.train.run"], ["monai"]) == ""


def test_reports_need_no_model() -> None:
    names = ("evaluation_report", "comparison", "comparison_report", "training_report")
    modules = [f"prs_med.report.{name}" for name in names]
    # Afresh, which costs little without them.
    assert needed(modules, ["torch", "monai", "transformers"], afresh=True) == ""
