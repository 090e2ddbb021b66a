"""The secret that steering asks for: one line in a file that only its owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_TOKEN_MIN = 16


class TokenError(Exception):
    """The operations token cannot be used; the message says what to do."""


def read_token(path: Path) -> str:
    """The operations token.

    Raises:
        TokenError: no file, too short, or open to others than its owner.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read(4096).strip()
    except FileNotFoundError:
        raise TokenError(f"{path}: does not exist; `holdfast init` makes one") from None
    except (OSError, UnicodeDecodeError):
        raise TokenError(f"{path}: cannot be read as plain text") from None
    if mode & 0o077:
        raise TokenError(f"{path}: others may read or write it; `chmod 600` it")
    if len(token) < _TOKEN_MIN or not token.isalnum():
        raise TokenError(f"{path}: is not a token; {_TOKEN_MIN} letters and digits or more")
    return token
