"""What a training checkpoint holds, as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prs_med.checkpoint.manifest import CheckpointName, Group, Manifest
from prs_med.config import SettingError, Settings

_TITLE_WIDTH, _TEXT_WIDTH = 12, 100
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def inspect_text(manifest: Manifest, where: str) -> str:
    """A description of some thirty lines; what a manifest does not say is left out."""
    state = manifest.state
    settings = state.get("settings", {})
    name = CheckpointName.parse(manifest.name)
    assert name is not None, "the reader compares it with the name of its place"
    lines = [
        _line("checkpoint", manifest.name),
        _line("where", where),
        _line("run", f"{manifest.run}, attempt {name.attempt}"),
        _line("created", f"{manifest.created} by {_count(manifest.world_size, 'process', 'es')}"),
        _line("step", _progress(state, name.step)),
        *_base(state, settings),
        *(_line("trained", _group(name, group)) for name, group in manifest.groups.items()),
        _line("kept", f"{', '.join(_kinds(manifest))} of each, in fp32"),
        _line("modalities", ", ".join(state.get("modalities", [])) or "none named"),
        _line("scores", _values(state.get("scores", {})) or "none of this step"),
        _line("data", _values(state.get("data", {}))),
        _line("settings", _changed(settings) or "all defaults"),
        _line("versions", ", ".join(f"{n} {v}" for n, v in state.get("versions", {}).items())),
    ]
    files = manifest.all_files
    longest = max(len(file.name) for file in files)
    lines.append(
        _line("files", f"{len(files)}, {size_text(sum(file.size for file in files))} together")
    )
    indent = " " * _TITLE_WIDTH
    lines += [
        f"{indent}{file.name:<{longest}}  {size_text(file.size):>10}  sha256 {file.sha256[:16]}…"
        for file in files
    ]
    return "\n".join(lines)


def size_text(count: int) -> str:
    """Bytes in the unit that suits them."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit + 1 < len(_UNITS):
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{count} bytes"


def _line(title: str, text: str) -> str:
    wrapped = textwrap.wrap(text, _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{title:<{_TITLE_WIDTH}}" + ("\n" + " " * _TITLE_WIDTH).join(wrapped)


def _progress(state: Mapping[str, Any], step: int) -> str:
    parts = [str(step)]
    if "schedule" in state:
        parts[0] += f" of {state['schedule']['total_steps']}"
    if "epoch" in state:
        parts.append(f"epoch {state['epoch']:.2f}")
    if "samples" in state:
        parts.append(f"{state['samples']:,} samples")
    return ", ".join(parts)


def _base(state: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    if "vlm_path" not in settings:
        return []
    tensors = len(state.get("base", {}).get("language model", {}))
    encoder = f"{settings['encoder_type']} of {settings['init_from'] or settings['sam_ckpt']}"
    return [
        _line("base model", f"{settings['vlm_path']} ({_count(tensors, 'tensor')})"),
        _line("encoder", encoder),
    ]


def _group(name: str, group: Group) -> str:
    elements = sum(parameter.numel for parameter in group.parameters)
    return (
        f"{name}: {_count(len(group.parameters), 'parameter')}, {elements:,} elements, "
        f"{size_text(4 * elements)}, {_count(group.optimizer_steps, 'update')}"
    )


def _kinds(manifest: Manifest) -> list[str]:
    return list(dict.fromkeys(kind for shard in manifest.shards for kind in shard.kinds))


def _changed(settings: Mapping[str, Any]) -> str:
    """Settings that are not as they are by default."""
    try:
        usual = asdict(Settings(encoder_type=settings.get("encoder_type", "tinysam")))
    except SettingError:
        usual = asdict(Settings())
    return _values({n: v for n, v in settings.items() if n not in usual or usual[n] != v})


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"
