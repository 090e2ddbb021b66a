"""The secrets that tills sign HTTP requests with: a file of its own, so that no configuration holds one."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.private_file import PrivateFileWrong, read_private

_LINE = re.compile(r"(\S{1,40})\s+([0-9a-fA-F]{32,128})")


class SigningSecretsWrong(Exception):
    """The file cannot be used; the message says why and what would be right, and holds no secret."""


def read_signing_secrets(path: Path) -> dict[str, bytes]:
    """The secret of each terminal.

    Raises:
        SigningSecretsWrong: no file, open to others than its owner, or a line that is not `TERMINAL SECRET`.
    """
    try:
        lines = read_private(path, "a file of terminals and their secrets").splitlines()
    except PrivateFileWrong as wrong:
        raise SigningSecretsWrong(str(wrong)) from None
    secrets: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None or len(match[2]) % 2:
            raise SigningSecretsWrong(f"line {number} is wrong; a terminal id, a blank, 32 to 128 hexadecimal digits")
        if match[1] in secrets:
            raise SigningSecretsWrong(f"line {number} names a terminal a second time; one line each")
        secrets[match[1]] = bytes.fromhex(match[2])
    return secrets
