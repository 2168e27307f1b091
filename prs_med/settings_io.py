"""Settings from the command line and YAML, and back.

Precedence, lowest first: defaults, what ``--init_from`` was trained with, ``--preset``,
``--config file.yaml``, the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from prs_med.checked_settings import CheckedSettings, SettingError, without_none
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
from prs_med.old_spellings import modernise

_TRAINING_GROUPS = (
    *(DataSettings, ModelSettings, LossSettings, OptimSettings, RunSettings),
    ValidationSettings,
)

S = TypeVar("S", bound=CheckedSettings)


def parse_training_settings(argv: Sequence[str], description: str) -> Settings:
    """Training settings from a command line, and from the YAML file and preset that it names.

    Raises:
        SettingError: for an unknown name or a value that is not allowed.
        Answered: after ``--help``.
    """
    return _training_settings(_training_arguments(argv, description, ()))


def parse_training_settings_and(
    cls: type[S],
    groups: Sequence[type[CheckedSettings]],
    argv: Sequence[str],
    description: str,
) -> tuple[Settings, S]:
    """Training settings, and those of a program about training, from one command line.

    Args:
        cls: the program's own settings, which the ``groups`` make up together.

    Raises:
        SettingError: as :func:`parse_training_settings`.
    """
    given = _training_arguments(argv, description, groups)
    own = {
        spec.name: given.pop(spec.name) for spec in dataclasses.fields(cls) if spec.name in given
    }
    return _training_settings(given), cls(**_typed(own, cls))


def _training_arguments(
    argv: Sequence[str], description: str, further: Sequence[type[CheckedSettings]]
) -> dict[str, str]:
    parser = _parser(description)
    _add_groups(parser, further)
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings by these names")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"Loss recipe: {' or '.join(PRESETS)} (default: released)",
    )
    # DeepSpeed's launcher adds it; the environment says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    _add_groups(parser, _TRAINING_GROUPS)
    given = vars(parser.parse_args(_modern(argv, (*_TRAINING_GROUPS, *further))))
    given.pop("local_rank", None)
    return given


def _training_settings(given: dict[str, str]) -> Settings:
    from_file = _read_yaml(Path(given.pop("config")), "--config") if "config" in given else {}
    preset = given.pop("preset", from_file.pop("preset", "released"))
    if preset not in PRESETS:
        raise SettingError(f"--preset {preset}: allowed are {', '.join(PRESETS)}")
    chosen = {**PRESETS[preset], **from_file, **_typed(given, Settings)}
    return Settings(**{**_structure_of(chosen.get("init_from")), **chosen})


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


def parse_settings(cls: type[S], argv: Sequence[str], description: str) -> S:
    """Settings of any other program from its command line.

    Raises:
        SettingError: as :func:`parse_training_settings`.
    """
    parser = _parser(description)
    # As in training: DeepSpeed's launcher adds it.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    _add_groups(parser, (cls,))
    given = vars(parser.parse_args(_modern(argv, (cls,))))
    given.pop("local_rank", None)
    return cls(**_typed(given, cls))


class Answered(SystemExit):
    """The question was for ``--help``, and has been answered; a program ends with status 0."""


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> typing.NoReturn:
        raise Answered(status)

    def error(self, message: str) -> typing.NoReturn:
        raise SettingError(f"{message} (see --help)")


def _parser(description: str) -> _Parser:
    return _Parser(
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=32, width=100
        ),
        allow_abbrev=False,
    )


def _modern(argv: Sequence[str], groups: Sequence[type[CheckedSettings]]) -> list[str]:
    known = {spec.name for group in groups for spec in dataclasses.fields(group)}
    return modernise(argv, known)


def _add_groups(parser: argparse.ArgumentParser, groups: Sequence[type[CheckedSettings]]) -> None:
    for group in groups:
        hints = typing.get_type_hints(group)
        arguments = parser.add_argument_group(group.__doc__)
        for spec in dataclasses.fields(group):
            arguments.add_argument(
                f"--{spec.name}", help=_help(spec), **_shape(spec.name, hints[spec.name])
            )


def _help(spec: dataclasses.Field[Any]) -> str:
    text: str = spec.metadata["help"].replace("%", "%%")
    if spec.default in ("", None):
        return text
    default = str(spec.default).lower() if isinstance(spec.default, bool) else spec.default
    return f"{text} (default: {default})"


def _shape(name: str, hint: Any) -> dict[str, Any]:
    if without_none(hint) is bool:
        return {"nargs": "?", "const": "true", "metavar": "true|false"}
    if typing.get_origin(hint) is Literal:
        return {"metavar": "|".join(typing.get_args(hint))}
    return {"metavar": name.upper()}


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


def _read_yaml(path: Path, option: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"{option} {path}: {reason}") from None
    if not isinstance(loaded, dict):
        raise SettingError(f"{option} {path}: expected 'name: value' lines")
    known = {spec.name for spec in dataclasses.fields(Settings)} | {"preset"}
    unknown = sorted(set(loaded) - known)
    if unknown:
        raise SettingError(f"{option} {path}: unknown setting {unknown[0]!r} (see --help)")
    hints = typing.get_type_hints(Settings)
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
