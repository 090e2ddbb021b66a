"""Makes what a gateway needs before its first start: configuration, keys, operations token. Never overwrites."""

from __future__ import annotations

import secrets
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config.reference import default_config_toml
from gateway.new_file import new_file

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
        InstallError: something of that name is there already, or the disk refuses: nothing is left of it, or the
            message names it.
    """
    made = Installed(folder / CONFIG_FILE, folder / KEYS_FOLDER, folder / TOKEN_FILE)
    present = [path.name for path in (made.config, made.keys, made.token) if path.is_symlink() or path.exists()]
    if present:
        raise InstallError(f"{folder}: {', '.join(present)} exists already and is never overwritten; nothing was made")
    try:
        _make(folder, made)
    except InstallError as error:
        left = [path.name for path in (made.config, made.keys, made.token) if path.exists()]
        if not left or isinstance(error.__cause__, FileExistsError):
            raise
        raise InstallError(f"{error}; remove before the next try: {', '.join(left)}") from None
    return made


def _make(folder: Path, made: Installed) -> None:
    """Raises InstallError, once everything is taken away again that the disk lets be taken away."""
    from gateway.journal.keyring import create_keyring  # noqa: PLC0415 - cryptography takes its time to load
    from gateway.journal.port import JournalError  # noqa: PLC0415

    with ExitStack() as undone:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made.keys.mkdir(mode=0o700)  # fails where another one makes them at this moment: those are not ours to undo
            undone.callback(shutil.rmtree, made.keys, ignore_errors=True)  # they protect nothing yet
            create_keyring(made.keys)
            _write(made.token, secrets.token_hex(_TOKEN_BYTES) + "\n")
            undone.callback(_take_away, made.token)
            _write(made.config, default_config_toml())
        except FileExistsError as error:
            raise InstallError(f"{error.filename}: exists already and is never overwritten") from error
        except OSError as error:
            raise InstallError(f"{error.filename or folder}: cannot be made: {error.strerror}") from None
        except JournalError as error:
            raise InstallError(str(error)) from None
        undone.pop_all()


def _take_away(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with new_file(path) as file:
        file.write(text.encode())
