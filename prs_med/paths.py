"""What a user's name of a file, a folder or an address means.

Shells replace ``~`` and ``${NAME}`` on a command line, but neither in YAML nor, the first, in
``--name=~/x``. And ``s3:/bucket`` is a good name of a folder, which nobody means. So that no folder
of such a name is made or looked for, the ones are replaced here, and the others refused.
"""

from __future__ import annotations

import os
import re

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<plain>\w+))")
_COMMAND = re.compile(r"\$\(|`|\$\{")
_NEARLY_AN_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)|s3(:|//)(?!//)|[sS]3[aAnN]?://")


def expanded(text: str) -> str:
    """The name, or each of several with commas between, with homes and variables replaced.

    Raises:
        ValueError: with the reason why it names nothing.
    """
    parts = [_VARIABLE.sub(_value, _with_home(part)) for part in text.split(",")]
    for part in parts:
        if _COMMAND.search(part):
            raise ValueError("commands in it are run by a shell alone: write their result")
        if reason := address_problem(part):
            raise ValueError(reason)
    return ",".join(parts)


def address_problem(text: str) -> str:
    """Why a name that looks like an address of S3 is none; empty if there is nothing to say."""
    if text.startswith("s3://") or not _NEARLY_AN_ADDRESS.match(text):
        return ""
    return "is no address, and hardly a folder: write s3://bucket/folder, or ./ before a folder"


def _with_home(part: str) -> str:
    if not part.startswith("~"):
        return part
    found = os.path.expanduser(part)
    if found.startswith("~"):
        user = part.partition("/")[0]
        raise ValueError(f"there is no user {user[1:]}; write ./ before a folder of that name")
    return found


def _value(variable: re.Match[str]) -> str:
    name = variable["braced"] if variable["plain"] is None else variable["plain"]
    if name not in os.environ:
        raise ValueError(f"{name or 'a variable without a name'} is not set in the environment")
    return os.environ[name]
