"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prs_med.plan.planning import Plan, Run
from prs_med.plan.ranges import Range
from prs_med.plan.traffic import Checkpoint, Loading

_GB = 1e9
_WORTH_SAYING = 1.05
"""The least gain in speed for which a change of arithmetic is mentioned."""


def report(plan: Plan) -> str:
    """All tables."""
    sections = [
        _heading(plan),
        _model(plan),
        _fits(plan),
        _recommendation(plan),
        *([_run("The settings as given", plan, plan.configured)] if plan.configured else []),
        _storage(plan, plan.loading, plan.checkpoint),
        *([_scaling(plan)] if plan.scaling else []),
        _CAVEAT,
    ]
    return "\n\n".join(sections)


_CAVEAT = (
    "Parameters, FLOPs and activations are counted on the real modules; ZeRO follows DeepSpeed's "
    "rules.\nTimes, fragmentation and the reserve are assumptions, compared with a GPU in one case "
    "alone. See docs/scale.md."
)


def _heading(plan: Plan) -> str:
    machines = f"{plan.nodes} machine{'s' if plan.nodes > 1 else ''}"
    return (
        f"{plan.gpus} x {plan.gpu} ({plan.memory / _GB:.1f} GB each) in {machines}, "
        f"{plan.samples:,} samples, {_length(plan)}, sequences of {plan.tokens} tokens"
    )


def _length(plan: Plan) -> str:
    """How long training is."""
    return f"{plan.max_steps:,} steps" if plan.max_steps else f"{plan.epochs:g} epochs"


def _model(plan: Plan) -> str:
    rows = [
        (part.name, f"{part.total:,}", f"{part.trained:,}") for part in plan.parts if part.total
    ]
    total = ("all", *(f"{sum(getattr(p, k) for p in plan.parts):,}" for k in ("total", "trained")))
    work = [
        (each.part, *(_teraflops(x) for x in (each.forward, each.backward, each.recomputed)))
        for each in plan.work
        if each.forward
    ]
    sums = [sum(getattr(w, k) for w in plan.work) for k in ("forward", "backward", "recomputed")]
    return (
        "Parameters\n"
        + _table(("part", "total", "trained"), [*rows, total])
        + "\n\nTFLOPs of a sample "
        + "(recomputed: with --gradient_checkpointing, --encoder_checkpointing)\n"
        + _table(
            ("part", "forward", "backward", "recomputed"),
            [*work, ("all", *(_teraflops(x) for x in sums))],
        )
    )


def _teraflops(value: float) -> str:
    return f"{value / 1e12:.3f}"


def _fits(plan: Plan) -> str:
    cards = list(plan.fits[0].largest) if plan.fits else []
    rows = [
        (
            fit.config,
            fit.base,
            fit.checkpointing.title,
            f"{fit.lasting / _GB:.1f}",
            f"{fit.sample / _GB:.2f}",
            f"{fit.host / _GB:.1f}",
            *(str(fit.largest[card] or "-") for card in cards),
        )
        for fit in plan.fits
    ]
    columns = ("configuration", "base", "checkpointing", "lasting", "per sample", "host", *cards)
    gpus = f"{plan.gpus} GPU{'s' if plan.gpus > 1 else ''}"
    return (
        f"What fits on {gpus}: GB of each process, and the largest micro-batch by GPU\n"
        + _table(columns, rows)
    )


def _recommendation(plan: Plan) -> str:
    if plan.recommended is None:
        return (
            f"Nothing fits on {plan.gpus} x {plan.gpu}: take more GPUs (ZeRO-3 spreads the "
            "weights), larger ones,\na smaller --image_size or encoder, or --freeze_encoder"
        )
    run = plan.recommended
    flags = [
        f"--deepspeed ds_configs/{run.config}",
        f"--batch_size {run.batch}",
        *run.checkpointing.flags,
    ]
    flags += {"nf4": ["--load_4bit"], "int8": ["--load_8bit"]}.get(run.base, [])
    return _run("Recommended: " + " ".join(flags), plan, run)


def _run(title: str, plan: Plan, run: Run) -> str:
    lines = [
        title,
        f"  memory       {sum(run.memory.values()) / _GB:.1f} of {plan.memory / _GB:.1f} GB at "
        f"micro-batch {run.batch}; the largest that fits is {run.largest or 'none'}",
        f"  host         {run.host / _GB:.1f} GB for each process",
        f"  step         {_seconds(run.seconds)}; first limit: {run.bottleneck}",
        f"  speed        {_span(run.speed, '.1f')} samples/s; MFU {_percent(run.mfu)}",
        *_faster(run.tf32_speedup),
        f"  traffic      {sum(run.sent.values()) / _GB:.2f} GB through each link in a step, "
        f"{_seconds(run.step.communication)} if nothing is computed meanwhile",
        f"  {_length(plan):12} {_span(run.hours, '.1f')} hours; {_cost(run.cost)}",
        "",
        _table(
            ("memory of each process", "GB"),
            [(name, f"{size / _GB:.2f}") for name, size in run.memory.items()],
        ),
    ]
    return "\n".join(lines)


def _faster(speedup: Range | None) -> Iterator[str]:
    if speedup and speedup.middle >= _WORTH_SAYING:
        yield (
            f"  faster       {_span(speedup, '.2f')} times with --segmentation_precision tf32, "
            "which rounds\n               the segmentation side's products: see docs/performance.md"
        )


def _cost(cost: Range | None) -> str:
    return "cost n/a (give --price)" if cost is None else f"cost {_span(cost, ',.0f')}"


def _storage(plan: Plan, loads: Loading, saved: Checkpoint) -> str:
    wanted = plan.recommended.speed.best / plan.nodes if plan.recommended else 0.0
    lines = [
        "Storage",
        f"  samples      {loads.sample_bytes / 1e3:.0f} kB each; up to "
        f"{wanted * loads.sample_bytes / 1e6:.0f} MB/s for each machine",
        f"  loader       {loads.prepared:.0f} samples/s for each GPU (--num_workers), "
        f"storage {loads.read:.0f}",
        f"  checkpoint   {saved.size / _GB:.2f} GB ({saved.kept / _GB:.2f} GB with those kept); "
        f"training stands still {saved.blocked * 1e3:.0f} ms",
        f"  saving       {saved.to_disk:.1f} s to disk, {saved.to_s3:.1f} s to S3, beside training",
    ]
    return "\n".join(lines)


def _scaling(plan: Plan) -> str:
    rows = [
        (
            f"{point.gpus:,}",
            f"{point.nodes:,}",
            _seconds(point.step) if point.fits else "does not fit",
            _span(point.speed, ",.0f") if point.fits else "-",
            f"{point.efficiency:.0%}" if point.fits else "-",
            f"{point.global_batch:,}",
            f"{point.steps_per_epoch:,}",
            point.bottleneck if point.fits else "memory",
        )
        for point in plan.scaling
    ]
    columns = (
        *("GPUs", "machines", "step", "samples/s", "efficiency", "global batch"),
        *("steps an epoch", "first limit"),
    )
    return "The recommended run on other numbers of GPUs\n" + _table(columns, rows)


def _span(value: Range, form: str) -> str:
    low, high = sorted((value.best, value.worst))
    texts = (format(low, form), format(high, form))
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def _seconds(value: Range) -> str:
    if value.worst < 1:
        return f"{_span(value.times(1e3), '.0f' if value.worst > 0.01 else '.1f')} ms"
    return f"{_span(value, '.2f')} s"


def _percent(value: Range) -> str:
    return f"{_span(value.times(100), '.0f')} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: words on the left, numbers on the right."""
    every = [columns, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(columns))]
    left = [all(not row[i][:1].isdigit() for row in rows) for i in range(len(columns))]

    def lines() -> Iterator[str]:
        for row in every:
            cells = (
                text.ljust(width) if words else text.rjust(width)
                for text, width, words in zip(row, widths, left, strict=True)
            )
            yield ("  " + "  ".join(cells)).rstrip()

    return "\n".join(lines())
