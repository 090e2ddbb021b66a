"""Files in the folder of the keys: private, replaced whole or not at all, and overwritten before they go.

A file is replaced by way of a draft: written, synced, the old file given a second name, the draft renamed over it, the
folder synced; then the old file's bytes are overwritten, synced, and its second name removed. What a power cut leaves:

    before the rename   the old file, and perhaps a draft or a second name of it; the next change clears them away
    after the rename    the new file, and the old one under its second name; the next change overwrites and removes it

A disk that fails after the rename has the new file written once more, for what it has let go of a failed sync is not
written by another one.

A file belongs to whom the folder belongs to, also where root has a command write it.

So a key that was taken out of a file is not left in a name of the folder. That the storage itself kept no copy of an
overwritten block (SSDs, copy-on-write file systems, snapshots) no program can promise.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.journal.port import JournalKeysWrong
from gateway.new_file import new_file


class KeyFileWrong(JournalKeysWrong):
    """A file cannot be read, or others may; the message names it."""


class HalfReplaced(OSError):
    """The new file is in its place; but a power cut may take that back, or bytes of the old one may be left."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process, and every other thread, from changing the folder's files; waits for its turn."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_private_file(path: Path) -> bytes:
    """The bytes of a file that its owner alone can reach.

    Raises:
        KeyFileWrong: no file, cannot be read, or others may read or write it.
    """
    try:
        if path.is_dir():
            raise KeyFileWrong(f"{path} is a folder, and should be a file")
        refuse_open_to_others(path, "file")
        return path.read_bytes()
    except OSError as error:
        raise KeyFileWrong(f"{path} cannot be read: {error.strerror}") from error


def is_there(path: Path) -> bool:
    """Whether something has that name; raises KeyFileWrong where this user may not look."""
    try:
        return path.exists()
    except OSError as error:
        raise KeyFileWrong(f"{path} cannot be read: {error.strerror}") from error


def refuse_open_to_others(path: Path, what: str) -> None:
    """Raises KeyFileWrong where anybody but the owner may reach it; `what` is "file" or "folder"."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        wanted = "0700" if what == "folder" else "0600"
        raise KeyFileWrong(f"{what} {path} is open to others (mode {mode:04o}): chmod {wanted} it")


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet, whole or not at all, durable in content and in name.

    A crash before the link leaves a draft that nothing reads; after it, the whole file.

    Raises:
        JournalKeysWrong: it exists.
    """
    draft = _draft(path, content)
    try:
        os.link(draft, path)  # unlike a rename, refuses to replace what another process has just made
    except FileExistsError:
        raise JournalKeysWrong(f"{path} exists already; it is never overwritten") from None
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of a file, or make it; the old bytes are overwritten. Caller holds `locked`.

    Raises:
        HalfReplaced: the disk has failed after the rename, twice.
        OSError: the disk refuses; nothing has changed.
    """
    try:
        _replace(path, content)
    except HalfReplaced:
        try:
            _replace(path, content)
        except OSError as error:
            raise HalfReplaced(error.errno, error.strerror) from error


def _replace(path: Path, content: bytes) -> None:
    """Raises as `replace_file`, at the first failure."""
    clear_leftovers(path)
    draft = _draft(path, content)
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    try:
        if path.exists():
            os.link(path, old)
            sync_folder(path.parent)
        draft.replace(path)
    except OSError:
        old.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
        raise
    try:
        sync_folder(path.parent)
        # From here on a crash leaves the new file; what is left of the old one the next change clears away.
        clear_leftovers(path)
    except OSError as error:
        raise HalfReplaced(error.errno, error.strerror) from error


def clear_leftovers(path: Path) -> None:
    """Overwrite and remove what a crash has left of drafts and old versions of `path`. Caller holds `locked`."""
    for left in path.parent.glob(f".{path.name}.*"):
        if path.exists() and left.samefile(path):  # a second name of the file in use: the crash came before the rename
            left.unlink()
            sync_folder(path.parent)
        else:
            erase(left)


def erase(path: Path) -> None:
    """Overwrite a file's bytes where they are, and remove its name; durable when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, secrets.token_bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names within a folder durable: a synced file whose name is lost is a lost file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with new_file(draft) as file:
        file.write(content)
        folder = path.parent.stat()
        if not os.geteuid() and folder.st_uid:  # root's command: the gateway's user has to read it at the next start
            os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
    return draft
