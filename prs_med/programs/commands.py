"""Programs of several commands, each with settings of its own."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prs_med.checked_settings import CheckedSettings, SettingError
from prs_med.command_line import version_text
from prs_med.programs.program import MISTAKE
from prs_med.settings_io import parse_settings
from prs_med.unknown_settings import nearest

_CONTINUED = " \\\n    "
S = TypeVar("S", bound=CheckedSettings)


@dataclass(frozen=True)
class Command(Generic[S]):
    """What a command needs to know, and what it does with it."""

    settings: type[S]
    run: Callable[[S], int]
    """From its settings to the exit status."""
    example: str
    """Arguments as a user would give them."""

    def __call__(self, argv: Sequence[str], program: str) -> int:
        """Read the arguments and run; ``program`` is how the command is started."""
        example = textwrap.wrap(f"Example: {program} {self.example}", 94, break_on_hyphens=False)
        description = f"{self.settings.__doc__}\n\n{_CONTINUED.join(example)}"
        settings = parse_settings(self.settings, argv, description, program)
        settings.require()
        return self.run(settings)


def run_command(
    program: str, description: str, commands: Mapping[str, Command], argv: Sequence[str]
) -> int:
    """Run the command that ``argv`` begins with; the exit status.

    Raises:
        SettingError: there is no such command.
    """
    name, *arguments = argv or [""]
    if name == "--version":
        print(version_text(program))
        return 0
    if name in ("", "-h", "--help"):
        print(description)
        return 0 if name else MISTAKE
    if name not in commands:
        meant = " or ".join(nearest(name, commands))
        hint = f"; did you mean {meant}?" if meant else ""
        raise SettingError(f"{name}: allowed are {', '.join(commands)}{hint}")
    return commands[name](arguments, f"{program} {name}")
