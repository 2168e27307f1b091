"""Quiet by default: the libraries' start-up chatter off, the project's own few lines on.

What programs print on stdout is theirs alone; libraries may speak on stderr.
"""

from __future__ import annotations

import logging
import os
import warnings


def quieten() -> None:
    """Call before the libraries are imported. ``PRS_MED_VERBOSE=1`` leaves everything on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prs_med").setLevel(logging.INFO)
    # A filter, as DeepSpeed sets its logger's level, and a handler on stdout, when it is imported.
    logging.getLogger("DeepSpeed").addFilter(_errors_to_stderr)
    if _verbose():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    # Of damaged metadata, and of sizes that have limits of their own here.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for library in ("bitsandbytes", "torch.distributed"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _verbose() -> bool:
    return os.environ.get("PRS_MED_VERBOSE") == "1"


def _errors_to_stderr(record: logging.LogRecord) -> bool:
    """Hand what is worth showing to the root logger; never for the logger's own handlers."""
    if record.levelno >= logging.ERROR or _verbose():
        logging.getLogger().handle(record)
    return False
