"""Find out at the start of a run whether saving will work, and not after hours."""

from __future__ import annotations

import logging
import shutil
import uuid
from pathlib import Path

from prs_med.storage.store import StorageError, Store

_logger = logging.getLogger("prs_med.checkpoint")


def check_store(store: Store) -> None:
    """Create, read, list and delete a small file.

    That the place lets nothing be deleted is only logged.

    Raises:
        StorageAwayError: it does not answer for now.
        StorageError: it refuses what saving needs.
    """
    name = f"preflight-{uuid.uuid4().hex}"
    if not store.create(name, b"1"):
        raise StorageError(f"{store.where(name)}: could not be created")
    if store.create(name, b"2"):
        _logger.warning(
            "%s: this server overwrites where it was told not to (If-None-Match: *), so two "
            "runs that save there by mistake may not notice each other",
            store.uri,
        )
    if store.read(name) not in (b"1", b"2") or name not in store.names(name):
        raise StorageError(f"{store.where(name)}: was written and cannot be found again")
    try:
        store.delete(name)
    except StorageError as error:
        _logger.warning("nothing can be deleted, so old checkpoints will stay: %s", error)


def check_disk(folder: Path, checkpoint_bytes: int, kept: int) -> None:
    """Make sure that there is room for ``kept`` more checkpoints.

    Raises:
        StorageError: there is not even room for two; less than wanted is only logged.
    """
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {_size(free)} are free, and each checkpoint takes {_size(checkpoint_bytes)}"
    if free < 2 * checkpoint_bytes:
        raise StorageError(f"{text}; make room or save elsewhere")
    if free < kept * checkpoint_bytes:
        _logger.warning("%s: there may be up to %d of them", text, kept)


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
