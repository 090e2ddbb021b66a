"""Files of secrets: plain text that its owner alone may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_CHARACTERS_MAX: Final = 16 * 2**20


class PrivateFileWrong(Exception):
    """The file cannot be used; the message says what would be right, and holds nothing of it."""


def read_private(path: Path, right: str) -> str:
    """The text of a file of secrets.

    Args:
        right: what the file should be, in words.
    Raises:
        PrivateFileWrong: no file, not plain text, far too long, or open to others than its owner.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_CHARACTERS_MAX + 1)
    except FileNotFoundError:
        raise PrivateFileWrong(f"does not exist; {right}") from None
    except (OSError, UnicodeDecodeError):
        raise PrivateFileWrong(f"cannot be read as plain text; {right}") from None
    if mode & 0o077:
        raise PrivateFileWrong("others may read or write it; `chmod 600` it")
    if len(text) > _CHARACTERS_MAX:
        raise PrivateFileWrong(f"is far too long; {right}")
    return text


def make_private(path: Path) -> None:
    """Make a file that its owner alone may read, if there is none; an empty one that others may read becomes so.

    To be called before SQLite makes it, because what SQLite puts beside a database gets the database's mode.
    Must not be called while SQLite has the file open in this process: closing any descriptor drops SQLite's locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size == 0:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
