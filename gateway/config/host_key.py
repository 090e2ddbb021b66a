"""The key that the gateway shares with a host, in a file of its own, so that no configuration holds one."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.private_file import PrivateFileWrong, read_private

_FILE_BYTES_MAX = 256
_LENGTHS_BYTES = (8, 16, 24, 32)
_HEX = re.compile(r"[0-9a-fA-F]+")


class HostKeyWrong(Exception):
    """The file cannot be used; the message says why and what would be right, and holds no key."""


def read_host_key(path: Path) -> bytes:
    """The terminal master key of the gateway's own sign-on, or the fixed MAC key of a host without one.

    Returns:
        8, 16, 24 or 32 bytes; which of these lengths the host's method takes is for the link to say.
    Raises:
        HostKeyWrong: no file, open to others than its owner, or not one line of 16, 32, 48 or 64 hexadecimal digits.
    """
    try:
        text = read_private(path, "a file with the key in hexadecimal digits")
    except PrivateFileWrong as wrong:
        raise HostKeyWrong(str(wrong)) from None
    digits = text.strip()
    if len(text) > _FILE_BYTES_MAX or not _HEX.fullmatch(digits):
        raise HostKeyWrong("is not a key; one line of hexadecimal digits and nothing else")
    if len(digits) not in [2 * size for size in _LENGTHS_BYTES]:
        raise HostKeyWrong(f"has {len(digits)} hexadecimal digits; a key has 16, 32, 48 or 64")
    return bytes.fromhex(digits)
