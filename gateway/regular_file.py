"""Reads small files that others may put something else in the place of: a pipe there must not be waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, bytes_max: int) -> bytes:
    """The first `bytes_max` bytes of a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(bytes_max)


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting: a pipe would never give its first byte."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
