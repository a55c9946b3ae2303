"""Files that survive a power cut."""

import os
from pathlib import Path

from edgehold.core.errors import JournalError


def sync(handle: int, path: Path) -> None:
    """Sync an open file; `JournalError`, which stops the process, when that fails: what is on the disk then, nobody knows."""
    try:
        os.fsync(handle)
    except OSError as error:
        raise JournalError(f"{path}: cannot be synced: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename lasts only once its folder is synced. Fails like `sync`."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(handle, folder)
    finally:
        os.close(handle)
