"""Settings from the command line and YAML, and back.

Precedence, lowest first: defaults, what ``--init_from`` was trained with, ``--preset``,
``--config file.yaml``, the command line.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from prs_med.checked_settings import CheckedSettings, SettingError, without_none
from prs_med.command_line import LAUNCHED, CommandLine, Group, Option
from prs_med.config import (
    PRESETS,
    STRUCTURE,
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimSettings,
    RunSettings,
    Settings,
    ValidationSettings,
)
from prs_med.paths import expanded
from prs_med.unknown_settings import unknown_setting

_TRAINING_GROUPS = (
    *(DataSettings, ModelSettings, LossSettings, OptimSettings, RunSettings),
    ValidationSettings,
)
_FILES = Group(
    "Many settings at once",
    (
        Option("config", "FILE", "YAML file with settings by these names", common=True),
        Option("preset", "|".join(PRESETS), "Loss recipe (default: released)", common=True),
    ),
)

S = TypeVar("S", bound=CheckedSettings)


def parse_training_settings(
    argv: Sequence[str], description: str = "", program: str = ""
) -> Settings:
    """Training settings from a command line, and from the YAML file and preset that it names.

    Args:
        description: what ``--help`` says above the settings, with an example.
        program: how the program is started, such as ``deepspeed launch/train.py``.

    Raises:
        SettingError: for an unknown name or a value that is not allowed.
        Answered: after ``--help`` or ``--version``.
    """
    return _training_settings(_training_arguments(argv, description, program))


def parse_training_settings_and(
    cls: type[S],
    groups: Sequence[type[CheckedSettings]],
    argv: Sequence[str],
    description: str = "",
    program: str = "",
) -> tuple[Settings, S]:
    """Training settings, and those of a program about training, from one command line.

    Args:
        cls: the program's own settings, which the ``groups`` make up together.

    Raises:
        SettingError, Answered: as :func:`parse_training_settings`.
    """
    given = _training_arguments(argv, description, program, groups)
    own = {
        spec.name: given.pop(spec.name) for spec in dataclasses.fields(cls) if spec.name in given
    }
    return _training_settings(given), cls(**_typed(own, cls))


def _training_arguments(
    argv: Sequence[str],
    description: str,
    program: str,
    further: Sequence[type[CheckedSettings]] = (),
) -> dict[str, str]:
    # A plan can do without the weights and data that training needs.
    for_program, needed = ("plan", False) if further else ("train", True)
    groups = (
        *(Group.of(group, for_program) for group in further),
        _FILES,
        *(Group.of(group, for_program, needed) for group in _TRAINING_GROUPS),
        LAUNCHED,
    )
    return CommandLine(program, description, groups).read(argv)


def _training_settings(given: dict[str, str]) -> Settings:
    from_file = (
        _read_yaml(_config_file(given.pop("config")), "--config") if "config" in given else {}
    )
    preset = given.pop("preset", from_file.pop("preset", "released"))
    if preset not in PRESETS:
        raise SettingError(f"--preset {preset}: allowed are {', '.join(PRESETS)}")
    chosen = {**PRESETS[preset], **from_file, **_typed(given, Settings)}
    return Settings(**{**_structure_of(chosen.get("init_from")), **chosen})


def _config_file(text: str) -> Path:
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise SettingError(f"--config {text}: {error}") from None


def _structure_of(init_from: str | None) -> dict[str, Any]:
    """The settings that belong to the weights in ``init_from``."""
    if not init_from:
        return {}
    folder = Path(init_from)
    if (
        "://" in init_from
        or (folder / "manifest.json").exists()
        or (folder / "checkpoints").exists()
    ):
        raise SettingError(
            f"--init_from {init_from}: is no folder with trained weights; of a training checkpoint "
            f"or run one is made by: python launch/export.py trained {init_from} --output_dir NEW"
        )
    file = folder / "settings.yaml"
    if not file.is_file():
        raise SettingError(
            f"--init_from {init_from}: holds no settings.yaml; a folder with trained weights does "
            "(launch/export.py makes one: 'trained' of a training checkpoint, 'import-released' "
            "of a released one)"
        )
    trained_with = _read_yaml(file, "--init_from")
    return {name: trained_with[name] for name in STRUCTURE if name in trained_with}


def parse_settings(
    cls: type[S], argv: Sequence[str], description: str = "", program: str = ""
) -> S:
    """Settings of any other program from its command line.

    Args:
        description: what ``--help`` says above the settings, with an example.
        program: how the program is started, such as ``python launch/eval.py``.

    Raises:
        SettingError, Answered: as :func:`parse_training_settings`.
    """
    group = dataclasses.replace(Group.of(cls), title="Settings")
    given = CommandLine(program, description, (group, LAUNCHED)).read(argv)
    return cls(**_typed(given, cls))


def _typed(given: Mapping[str, str], cls: type[CheckedSettings]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: _convert(name, text, hints[name]) for name, text in given.items()}


def _convert(name: str, text: str, hint: Any) -> Any:
    plain = without_none(hint)
    try:
        if plain is bool:
            return {"true": True, "false": False}[text.lower()]
        if plain in (int, float):
            return plain(text)
    except (KeyError, ValueError):
        allowed = "true or false" if plain is bool else f"a value of type {plain.__name__}"
        raise SettingError(f"--{name} {text}: allowed is {allowed}") from None
    return text


class _OnceEach(yaml.SafeLoader):
    """YAML in which no name may stand twice; by itself the last value would count."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As that of the class, but for repeated names."""
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands there twice")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path, option: str) -> dict[str, Any]:
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8-sig"), _OnceEach) or {}  # noqa: S506
    except UnicodeDecodeError:
        raise SettingError(f"{option} {path}: is not in UTF-8") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        # A ValueError: a date that is none, or a number with thousands of digits.
        reason = " ".join(str(error).split())
        raise SettingError(f"{option} {path}: {reason}") from None
    if not isinstance(loaded, dict):
        raise SettingError(f"{option} {path}: expected 'name: value' lines")
    known = {spec.name for spec in dataclasses.fields(Settings)} | {"preset"}
    unknown = sorted(set(loaded) - known, key=str)
    if unknown:
        raise SettingError(f"{option} {path}: {unknown_setting(str(unknown[0]), known, '')}")
    hints = typing.get_type_hints(Settings)
    loaded = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in loaded.items()
    }
    # YAML reads 1e-4 as text: its numbers need a decimal point before the exponent.
    return {
        name: _convert(name, value, hints[name])
        if isinstance(value, str) and name in hints
        else value
        for name, value in loaded.items()
    }


def save_settings(settings: Settings, path: Path) -> None:
    """Write all settings as YAML that ``--config`` reads back."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False), encoding="utf-8")


def load_settings(path: Path) -> Settings:
    """Read settings that :func:`save_settings` wrote."""
    return Settings(**_read_yaml(path, "settings in"))
