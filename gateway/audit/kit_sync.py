"""All that was written below a folder becomes durable: what a stick must have before it is pulled out."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Final

_FOLDERS_OPEN: Final = hasattr(os, "O_DIRECTORY")


def sync_below(folder: Path) -> None:
    """Make a folder durable, and its name, and all names and contents below it.

    Linux is asked for the folder's whole file system at once, and for no other. Elsewhere each file and each folder
    has a sync of its own; Windows has none for folders, and looks after names by itself.

    Raises:
        OSError: something could not be written; what of it is on the disk is not known.
    """
    if not _synced_at_once(folder):
        _sync_each(folder)


def _synced_at_once(folder: Path) -> bool:
    """Sync the folder's file system; False where the platform cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) == 0:
            return True
        failed = ctypes.get_errno()
        if failed == errno.ENOSYS:
            return False
        raise OSError(failed, os.strerror(failed), str(folder))
    finally:
        os.close(descriptor)


def _sync_each(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    if not _FOLDERS_OPEN:
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            _sync_names(path)
    disk = folder.stat().st_dev
    for path in folder.absolute().parents:  # any of them may be as new as the folder
        # Who may not look into a folder has made neither it nor any above it.
        if path.stat().st_dev != disk or not os.access(path, os.R_OK):
            return
        _sync_names(path)


def _sync_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
