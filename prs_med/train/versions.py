"""Which versions trained: kept with each checkpoint, for whoever wants the same numbers again."""

from __future__ import annotations

from importlib.metadata import version

import prs_med

_LIBRARIES = ("torch", "deepspeed", "transformers", "peft")


def versions() -> dict[str, str]:
    """Of this package and the libraries that it computes with, by name.

    This one's own stands in its code: a source tree on ``PYTHONPATH`` trains without having been
    installed.
    """
    return {**{name: version(name) for name in _LIBRARIES}, "prs-med": prs_med.__version__}
