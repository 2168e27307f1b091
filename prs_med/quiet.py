"""Quiet by default: the libraries' start-up chatter off, the project's own few lines on."""

from __future__ import annotations

import logging
import os
import warnings


def quieten() -> None:
    """Call before the libraries are imported. ``PRS_MED_VERBOSE=1`` leaves everything on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prs_med").setLevel(logging.INFO)
    if os.environ.get("PRS_MED_VERBOSE") == "1":
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    for library in ("DeepSpeed", "bitsandbytes", "torch.distributed"):
        logging.getLogger(library).setLevel(logging.ERROR)
