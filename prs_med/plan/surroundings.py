"""``--check``: is everything there that training needs? Each line says pass, warn or fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prs_med.checked_settings import SettingError
from prs_med.config import Settings
from prs_med.model.errors import CheckpointError
from prs_med.plan.collectives_check import check_collectives, several_processes
from prs_med.plan.device_check import check_devices
from prs_med.plan.findings import Finding, Verdict, failed, passed
from prs_med.plan.hardware import cluster
from prs_med.plan.inputs_check import check_inputs
from prs_med.plan.meta_model import meta_model
from prs_med.plan.model_counts import model_counts
from prs_med.plan.software_check import check_software
from prs_med.plan.storage_check import check_storage
from prs_med.plan.traffic import checkpoint
from prs_med.plan_config import PlanSettings
from prs_med.train.deepspeed_config import load_deepspeed_config

_USUAL_CHECKPOINTS = 1.2e9
"""Bytes of the checkpoints that are kept with the default settings, where they cannot be counted
because the model is not there."""


def check_surroundings(settings: Settings, plan: PlanSettings) -> int:
    """Print what was found; 1 if something failed, else 0. Under a launcher every process calls
    this, and the first one prints."""
    if not several_processes():
        return _show(_check_alone(settings, plan, processes=1))
    # Imports DeepSpeed, which takes seconds.
    from prs_med.train import distributed

    rank = distributed.start()
    try:
        findings = list(check_collectives(rank))
        return distributed.once(
            lambda: _show([*findings, *_check_alone(settings, plan, rank.world)])
        )
    finally:
        distributed.stop()


def _check_alone(settings: Settings, plan: PlanSettings, processes: int) -> Iterator[Finding]:
    """What one process can find out for all."""
    yield from check_software(settings)
    yield from check_devices(settings)
    if settings.deepspeed:
        yield _check_configuration(settings, processes)
    yield from check_storage(settings, _checkpoint_bytes(settings, plan))
    yield from check_inputs(settings)


def _check_configuration(settings: Settings, processes: int) -> Finding:
    # Imports DeepSpeed, which takes seconds.
    from prs_med.train.deepspeed_own_check import conflicts

    try:
        load_deepspeed_config(Path(settings.deepspeed), settings, processes, conflicts)
    except SettingError as error:
        told = "; ".join(str(error).splitlines())
        return failed("--deepspeed", told, "change the file or the setting")
    return passed("--deepspeed", settings.deepspeed)


def _checkpoint_bytes(settings: Settings, plan: PlanSettings) -> float:
    try:
        counts = model_counts(meta_model(settings, plan.encoder_size))
    except (CheckpointError, SettingError):
        return _USUAL_CHECKPOINTS
    return checkpoint(settings, plan, cluster(plan), counts).kept


def _show(findings: Iterable[Finding]) -> int:
    counts = dict.fromkeys(Verdict, 0)
    for finding in findings:
        counts[finding.verdict] += 1
        print(finding.line(), flush=True)
    print(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()))
    return 1 if counts[Verdict.FAIL] else 0
