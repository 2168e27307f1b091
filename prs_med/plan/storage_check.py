"""Can what training writes be written, and is there room for it?"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from prs_med.config import Settings
from prs_med.plan.findings import Finding, failed, passed, warned
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError, Store

_PATIENCE = 15.0
"""Seconds for which a request is repeated."""
_SKEW = 60.0
"""Seconds by which clocks may differ; S3 refuses requests that are 15 minutes off."""
_SHARED_MEMORY = 1 << 30
"""Bytes in /dev/shm: loader processes hand over batches there."""
_SPARE = 5e9
"""Bytes that should be free for logs and caches of libraries."""


def check_storage(settings: Settings, checkpoint_bytes: float) -> Iterator[Finding]:
    """``--save_dir``, ``--checkpoint_uri``, ``--cache_dir`` and shared memory.

    Args:
        checkpoint_bytes: of all checkpoints that are kept.
    """
    save_dir = Path(settings.save_dir)
    yield from check_room("--save_dir", save_dir, checkpoint_bytes + _SPARE)
    yield from check_links("--save_dir", save_dir)
    if settings.cache_dir:
        yield from check_room("--cache_dir", Path(settings.cache_dir), settings.cache_gb * 2**30)
    yield from check_shared_memory(Path("/dev/shm"))  # noqa: S108  (looked at only)
    if settings.checkpoint_uri:
        store = S3Store(settings.checkpoint_uri, _PATIENCE)
        yield from check_writing("--checkpoint_uri", store)
        yield from check_clock(store)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return there


def check_links(setting: str, folder: Path) -> Iterator[Finding]:
    """Whether checkpoints can be kept on the file system of a folder."""
    there = _nearest(folder)
    store, name = DirectoryStore(there), f".check-{uuid.uuid4().hex}"
    if not os.access(there, os.W_OK):
        return  # Told already.
    try:
        store.create(name, b"1")
        store.delete(name)
    except StorageError as error:
        yield failed(setting, str(error), "give a folder of another file system")


def check_room(setting: str, folder: Path, wanted: float) -> Iterator[Finding]:
    """Whether a folder, or the nearest one above it that is there, can be written and has room."""
    there = _nearest(folder)
    if not os.access(there, os.W_OK):
        yield failed(
            setting, f"{there} cannot be written", "give another folder, or mend its rights"
        )
        return
    free = shutil.disk_usage(there).free
    text = f"{folder}: {free / 1e9:.1f} GB free"
    if free < wanted:
        yield failed(setting, text, f"{wanted / 1e9:.1f} GB are needed; make room or go elsewhere")
    else:
        yield passed(setting, f"{text}, {wanted / 1e9:.1f} GB needed")


def check_shared_memory(folder: Path) -> Iterator[Finding]:
    """Whether loader processes have room."""
    if not folder.is_dir():
        yield warned("shared memory", f"there is no {folder}", "use --num_workers 0")
        return
    size = shutil.disk_usage(folder).total
    text = f"{folder} has {size / 1e9:.1f} GB"
    if size < _SHARED_MEMORY:
        yield warned(
            "shared memory", text, "in a container, start it with --shm-size 8g or --ipc host"
        )
    else:
        yield passed("shared memory", text)


def check_writing(setting: str, store: Store) -> Iterator[Finding]:
    """Create, create again, read, list and delete a small file, as saving a checkpoint does."""
    name = f"check-{uuid.uuid4().hex}"
    rights = "check bucket, endpoint, credentials and their rights"
    try:
        created = store.create(name, b"1")
        again = store.create(name, b"2")
        read = store.read(name) in (b"1", b"2")
        listed = name in store.names(name)
    except StorageError as error:
        yield failed(setting, str(error), rights)
        return
    for what, works in (("write", created), ("read", read), ("list", listed)):
        if works:
            yield passed(setting, f"{what} works")
        else:
            yield failed(setting, f"{what} does not work at {store.uri}", rights)
    if again:
        yield warned(
            setting,
            "the server overwrites where it was told not to (If-None-Match: *)",
            "make sure yourself that no two runs save there",
        )
    else:
        yield passed(setting, "conditional write works")
    try:
        store.delete(name)
        yield passed(setting, "delete works")
    except StorageError as error:
        yield warned(setting, str(error), "old checkpoints will stay: allow deleting")


def check_clock(store: S3Store) -> Iterator[Finding]:
    """Whether this machine's clock agrees with the server's."""
    try:
        theirs = store.server_time()
    except StorageError as error:
        yield failed("clock", str(error), "see above")
        return
    if theirs is None:
        yield warned("clock", "the server does not tell the time", "make sure that NTP runs")
        return
    ahead = time.time() - theirs
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the S3 server's"
    if abs(ahead) > _SKEW:
        yield failed("clock", text, "set it by NTP: S3 refuses requests with a wrong time")
    else:
        yield passed("clock", text)
