"""Writes files that are not there yet: whole and durable, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A new file, for its owner alone unless `mode` says more; durable at the end, and gone again where it fails.

    Raises:
        FileExistsError: something has that name, be it a link to nowhere.
        OSError: it cannot be made or written: nothing of it is left, where the disk lets it be taken away.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # a disk that refuses this, too, is told by the first error
            path.unlink(missing_ok=True)
        raise
