"""Makes what a gateway needs before its first start: configuration, keys, operations token. Never overwrites."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from gateway.config.reference import default_config_toml

CONFIG_FILE = "holdfast.toml"
KEYS_FOLDER = "keys"
TOKEN_FILE = "operations.token"  # noqa: S105 - a file's name
_TOKEN_BYTES = 32


class InstallError(Exception):
    """Nothing was made, or not all; the message says what is in the way."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was made."""

    config: Path
    keys: Path
    token: Path


def install(folder: Path) -> Installed:
    """Make the folder if need be, and in it keys, token and a commented configuration, readable by the owner only.

    Raises:
        InstallError: something of that name is there already (nothing was made), or the disk refuses.
    """
    from gateway.journal.keyring import create_keyring  # noqa: PLC0415 - cryptography takes its time to load
    from gateway.journal.port import JournalError  # noqa: PLC0415

    made = Installed(folder / CONFIG_FILE, folder / KEYS_FOLDER, folder / TOKEN_FILE)
    present = [path.name for path in (made.config, made.keys, made.token) if path.is_symlink() or path.exists()]
    if present:
        raise InstallError(f"{folder}: {', '.join(present)} exists already and is never overwritten; nothing was made")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        create_keyring(made.keys)
        _write_private(made.token, secrets.token_hex(_TOKEN_BYTES) + "\n")
        _write_private(made.config, default_config_toml())
    except FileExistsError as error:
        raise InstallError(f"{error.filename}: exists already and is never overwritten") from None
    except OSError as error:
        raise InstallError(f"{error.filename or folder}: cannot be made: {error.strerror}") from None
    except JournalError as error:
        raise InstallError(str(error)) from None
    return made


def _write_private(path: Path, text: str) -> None:
    """Write a new file with mode 0600, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
