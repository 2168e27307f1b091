"""What may stand on a program's command line: read it, and explain it (``--help``)."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from prs_med import __version__
from prs_med.checked_settings import CheckedSettings, SettingError, without_none
from prs_med.old_spellings import modern
from prs_med.unknown_settings import unknown_setting

_WIDTH, _COLUMN = 100, 32
_LONGEST_SHAPE = 60
_ANSWERS = {
    "help": "Show this text",
    "version": "Show the versions of the program, Python and PyTorch",
}


class Answered(SystemExit):
    """``--help`` or ``--version`` was asked for and shown; the program ends with status 0."""


@dataclass(frozen=True)
class Option:
    """One name on the command line, and how ``--help`` shows it."""

    name: str
    shape: str
    """What its value looks like; empty if it takes none."""
    text: str
    is_flag: bool = False
    """Whether it may stand without its value, which then is true."""
    required: bool = False
    instead: tuple[str, ...] = ()
    """Options of which one may be given instead, if this one is required."""
    common: bool = False
    positional: bool = False
    """Whether its value may stand without its name."""
    hidden: bool = False

    @property
    def head(self) -> str:
        """Its name and value as one types them."""
        if self.positional:
            return f"{self.shape}, --{self.name} {self.shape}"
        return " ".join([f"--{self.name}", *([self._shape_or_nothing] if self.shape else [])])

    @property
    def _shape_or_nothing(self) -> str:
        return f"[{self.shape}]" if self.is_flag else self.shape


@dataclass(frozen=True)
class Group:
    """Options that ``--help`` shows under one title."""

    title: str
    options: tuple[Option, ...]

    @classmethod
    def of(cls, settings: type[CheckedSettings], program: str = "", needed: bool = True) -> Group:
        """That of a class of settings, under its docstring.

        Args:
            program: for which, by the name that the settings' ``common`` has.
            needed: whether it needs what the settings require.
        """
        hints = typing.get_type_hints(settings)
        specs = dataclasses.fields(settings)
        names = {spec.name for spec in specs}
        options = (_option(spec, hints[spec.name], names, program, needed) for spec in specs)
        return cls(settings.__doc__ or "", tuple(options))


LAUNCHED = Group("", (Option("local_rank", "N", "", hidden=True),))
"""What DeepSpeed's launcher adds; the environment says the same."""


@dataclass(frozen=True)
class CommandLine:
    """All options of a program, or of one of its commands.

    Args:
        program: how it is started, such as ``python launch/data.py check``.
        description: what it does, with an example.
    """

    program: str
    description: str
    groups: tuple[Group, ...]

    def read(self, argv: Sequence[str]) -> dict[str, str]:
        """Values by name, with old spellings in today's.

        Raises:
            SettingError: for an unknown name, or a value that is missing or given twice.
            Answered: after ``--help`` or ``--version``.
        """
        known = {option.name: option for option in self._options()}
        pairs, positional = self._split(argv, known)
        for name, _ in pairs:
            if name in _ANSWERS:
                _show(self.help() if name == "help" else version_text(self.program))
                raise Answered(0)
        given: dict[str, str] = {}
        for old, text in pairs:
            name, value = modern(old, text, known.keys())
            if name not in known:
                shown = {each for each, option in known.items() if not option.hidden}
                raise SettingError(unknown_setting(name, shown | _ANSWERS.keys(), "--"))
            option = known[name]
            if value is None and not option.is_flag:
                raise SettingError(f"--{name}: its value is missing (see --help)")
            given[name] = "true" if value is None else value
        given.pop("local_rank", None)
        return self._with_positional(given, positional)

    def help(self) -> str:
        """What ``--help`` shows: what is needed and often changed, then the rest in groups."""
        parts = [self._usage(), self.description.strip()]
        front = [*self._required(), *(option for option in self._options() if option.common)]
        for title, options in (
            ("Required:", self._required()),
            ("Often changed:", [o for o in front if o not in self._required()]),
        ):
            parts += _section(title, options)
        for group in self.groups:
            parts += _section(f"{group.title}:", [o for o in group.options if o not in front])
        answers = [Option(name, "", text) for name, text in _ANSWERS.items()]
        return "\n\n".join([*parts, *_section("Answers:", answers)])

    def _options(self) -> Iterator[Option]:
        for group in self.groups:
            yield from group.options

    def _required(self) -> list[Option]:
        """What must be given, each followed by what may be given instead."""
        named = {option.name: option for option in self._options()}
        found: list[Option] = []
        for option in named.values():
            if option.required:
                found += [option, *(named[name] for name in option.instead)]
        return list(dict.fromkeys(found))

    def _usage(self) -> str:
        words: list[str] = []
        for option in self._options():
            if option.required and option.positional:
                words.insert(0, option.shape)
            elif option.required:
                instead = [f"--{name} {name.upper()}" for name in option.instead]
                either = " | ".join([option.head, *instead])
                words.append(f"({either})" if instead else either)
        usage = " ".join([f"usage: {self.program}", *words, "[--SETTING VALUE ...]"])
        return _wrapped(usage, "", " " * 7)

    def _split(
        self, argv: Sequence[str], known: dict[str, Option]
    ) -> tuple[list[tuple[str, str | None]], list[str]]:
        """Names with their values, and the words that belong to no name."""
        takes_words = any(option.positional for option in known.values())
        pairs: list[tuple[str, str | None]] = []
        positional = []
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "-h":
                pairs.append(("help", None))
            elif not word.startswith("--"):
                positional.append(word)
            else:
                name, joined, value = word[2:].partition("=")
                may_be_alone = name in _ANSWERS or (
                    takes_words and name in known and known[name].is_flag
                )
                if not joined and words and _is_value(words[0], only_truth=may_be_alone):
                    value, joined = words.pop(0), "="
                pairs.append((name, value if joined else None))
        return pairs, positional

    def _with_positional(self, given: dict[str, str], words: list[str]) -> dict[str, str]:
        option = next((option for option in self._options() if option.positional), None)
        if words and option is None:
            raise SettingError(f"{words[0]}: belongs to no setting; their names begin with --")
        for word in words:
            assert option is not None
            if option.name in given:
                raise SettingError(
                    f"--{option.name} is given twice: {given[option.name]} and {word}"
                )
            given[option.name] = word
        return given


def _show(text: str) -> None:
    """Print a long text, of which ``head`` or ``less`` may not want the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is left would be written at the interpreter's end, and fail again.
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def version_text(program: str) -> str:
    """The versions that a question about ``program`` should name, without importing PyTorch."""
    name = next((word for word in program.split() if word.endswith(".py")), program)
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed"
    return f"{name}: prs-med {__version__}, Python {platform.python_version()}, torch {torch}"


def _is_value(word: str, only_truth: bool) -> bool:
    """Whether a word behind a name is its value: "-1" is one, "-h" and "--seed" are not."""
    if only_truth:
        return word.lower() in ("true", "false")
    return not re.match(r"-\D", word)


def _option(
    spec: dataclasses.Field[Any], hint: Any, names: set[str], program: str, needed: bool
) -> Option:
    plain = without_none(hint)
    instead = tuple(name for name in spec.metadata["instead"] if name in names)
    required = needed and spec.metadata["required"]
    shape = _shape(spec.name, plain)
    return Option(
        name=spec.name,
        shape=shape if len(shape) <= _LONGEST_SHAPE else spec.name.upper(),
        text=_text(spec, required, instead, shape if len(shape) > _LONGEST_SHAPE else ""),
        is_flag=plain is bool,
        required=required,
        instead=instead if required else (),
        common=program in spec.metadata["common"],
        positional=spec.metadata["positional"],
    )


def _shape(name: str, plain: Any) -> str:
    if plain is bool:
        return "true|false"
    if typing.get_origin(plain) is Literal:
        return "|".join(typing.get_args(plain))
    return name.upper()


def _text(
    spec: dataclasses.Field[Any], required: bool, instead: Iterable[str], allowed: str
) -> str:
    text: str = spec.metadata["help"]
    if allowed:
        text += f": {allowed.replace('|', ', ')}"
    if required:
        return f"{text} ({', or '.join(['required', *(f'--{name}' for name in instead)])})"
    if spec.default in ("", None):
        return text
    default = str(spec.default).lower() if isinstance(spec.default, bool) else spec.default
    return f"{text} (default: {default})"


def _section(title: str, options: Iterable[Option]) -> list[str]:
    """A titled list of options, if there are any."""
    lines = [_lines(option) for option in options if not option.hidden]
    return ["\n".join([title, *lines])] if lines else []


def _lines(option: Option) -> str:
    head = f"  {option.head}"
    if len(head) > _COLUMN - 2:
        return f"{head}\n{_wrapped(option.text, ' ' * _COLUMN)}"
    return _wrapped(option.text, head.ljust(_COLUMN))


def _wrapped(text: str, first: str, other: str = " " * _COLUMN) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=other,
        break_long_words=False,
        break_on_hyphens=False,
    )
