"""What a setting is: a field of a dataclass with help text, limits, and a check of its value."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prs_med.paths import expanded

MOST = 1_000_000_000
"""The largest number that a setting takes, unless it says otherwise: far above what makes sense,
and below what clocks, threads and tensors count with."""

_ADDRESS_WITH_KEYS = re.compile(r"\w+://([^/]*@|[^/:]+:[^@]*@)")
"""``s3://key:secret@bucket``; secrets may have slashes, and so may names in a bucket have an @."""


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is allowed."""


def setting(
    default: Any,
    help_text: str,
    check: Callable[[Any], bool] | None = None,
    allowed: str = "",
    *,
    most: int = MOST,
    required: bool = False,
    instead: Sequence[str] = (),
    common: Sequence[str] = (),
    positional: bool = False,
    path: Literal["", "local", "any"] = "",
) -> Any:
    """A field with its default, its help text, what its value must satisfy, and that in words.

    Args:
        most: the largest value, if it is a number.
        required: it must be given, which :meth:`CheckedSettings.require` sees to.
        instead: settings of which one may be given instead; those that a program lacks do not
            count.
        common: programs whose ``--help`` shows it in front, since many users change it there.
        positional: its value may stand on the command line without its name.
        path: its value names a file or folder of this machine (``local``), or also an address
            (``any``); see :mod:`prs_med.paths`. Several may stand there with commas between.
    """
    return field(
        default=default,
        metadata={
            "help": help_text,
            "check": check,
            "allowed": allowed,
            "most": most,
            "required": required,
            "instead": tuple(instead),
            "common": tuple(common),
            "positional": positional,
            "path": path,
        },
    )


def positive(value: float) -> bool:
    """Above 0."""
    return value > 0


def not_negative(value: float) -> bool:
    """0 or above."""
    return value >= 0


def seed_setting(help_text: str) -> Any:
    """A field for a seed, from what every library's generator takes; 0 by default."""
    most = 2**32 - 1
    return setting(0, help_text, lambda value: 0 <= value <= most, f"0 to {most}", most=most)


def fraction(value: float) -> bool:
    """Less than all."""
    return 0 <= value < 1


def share(value: float) -> bool:
    """From none to all."""
    return 0 <= value <= 1


def without_none(hint: Any) -> Any:
    """``T`` from ``T | None``."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return hint


def _meant(spec: dataclasses.Field[Any], value: Any) -> Any:
    """A value as it is meant, where it names files, folders or addresses."""
    kind = spec.metadata["path"]
    if not kind or not isinstance(value, str):
        return value
    # What may be a key is not shown.
    shown = f"--{spec.name} {re.sub(r'[^/]*@', '***@', value)}"
    try:
        meant = expanded(value)
    except ValueError as error:
        raise SettingError(f"{shown}: {error}") from None
    if kind == "local" and "://" in meant:
        raise SettingError(f"{shown}: is an address; name a file or folder of this machine")
    return meant


def _check_value(spec: dataclasses.Field[Any], hint: Any, value: Any) -> None:
    plain = without_none(hint)
    optional = hint is not plain
    if value is None and optional:
        return
    if typing.get_origin(plain) is Literal:
        if value not in typing.get_args(plain):
            raise SettingError(
                f"--{spec.name} {value}: allowed are {', '.join(typing.get_args(plain))}"
            )
        return
    if isinstance(value, str) and _ADDRESS_WITH_KEYS.match(value):
        # Not shown: the message ends up in logs.
        raise SettingError(
            f"--{spec.name}: keys or a password in an address would be seen in process lists and "
            "logs; give them by AWS_PROFILE, AWS_ACCESS_KEY_ID, ... or the instance's role"
        )
    accepted = (int, float) if plain is float else plain
    if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
        raise SettingError(f"--{spec.name} {value!r}: expected {plain.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        allowed = spec.metadata["allowed"] or "a number"
        raise SettingError(f"--{spec.name} {value}: allowed is {allowed}, and finite")
    check = spec.metadata["check"]
    if check is not None and not check(value):
        raise SettingError(f"--{spec.name} {value}: allowed is {spec.metadata['allowed']}")
    most = spec.metadata["most"]
    if isinstance(value, (int, float)) and abs(value) > most:
        raise SettingError(f"--{spec.name} {value}: allowed is at most {most}")


def _in_reading_order(cls: type) -> list[str]:
    """Names of the fields, the first base class first (dataclasses begin with the last)."""
    names = [name for base in cls.__bases__ for name in _in_reading_order(base)]
    return list(dict.fromkeys([*names, *vars(cls).get("__annotations__", {})]))


@dataclass(kw_only=True)
class CheckedSettings:
    """Settings whose values are checked against their types and limits when they are made."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            # Also before: what a message shows must hold no keys.
            _check_value(spec, hints[spec.name], value)
            meant = _meant(spec, value)
            if meant != value:
                _check_value(spec, hints[spec.name], meant)
                setattr(self, spec.name, meant)

    def require(self) -> None:
        """Raise :class:`SettingError` for the first required setting that was left empty."""
        specs = {spec.name: spec for spec in dataclasses.fields(self)}
        for spec in (specs[name] for name in _in_reading_order(type(self))):
            instead = [name for name in spec.metadata["instead"] if hasattr(self, name)]
            given = any(getattr(self, name) for name in (spec.name, *instead))
            if spec.metadata["required"] and not given:
                either = " or ".join(f"--{name}" for name in (spec.name, *instead))
                raise SettingError(f"{either} is required: {spec.metadata['help']}")
