"""The lock that keeps a second gateway away from a journal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from gateway.journal.port import JournalLocked, JournalUnreadable

_LOOK_EVERY_S: Final = 0.25
_LOCK_TRIES: Final = 5
_KERNEL_LOCKS: Final = Path("/proc/locks")


class JournalLock:
    """The lock beside the database; held until it is released, by a crash too.

    flock belongs to the open file, not to the process: a second journal within this process is refused as well. The
    database itself cannot be locked so: to close any descriptor of it drops the locks that SQLite has on it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._released = False
        self._look_again_s = 0.0
        self._refusal = ""

    def holds(self) -> bool:
        """Whether the file of that name is still the one that is locked."""
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def refusal(self) -> str:
        """Why nothing new is taken: somebody has removed the file, so nothing keeps a second gateway out any more."""
        now_s = time.monotonic()
        if not (self._refusal or self._released) and now_s >= self._look_again_s:
            self._look_again_s = now_s + _LOOK_EVERY_S
            if not self.holds():
                self._refusal = (
                    f"{self._path} was removed or replaced, another gateway may write this journal too; "
                    f"make sure that there is none, and start this one anew"
                )
        return self._refusal

    def release(self) -> None:
        """Let another have it."""
        self._released = True
        os.close(self._descriptor)


def lock_name(path: Path) -> Path:
    """The file beside a journal that is locked."""
    return path.with_name(path.name + ".lock")


def holder_of(path: Path) -> int | None:
    """The process that holds a journal, as far as the kernel tells: nothing is locked for it, not for a moment.

    None where nobody holds it, or where that cannot be seen: elsewhere than on Linux, out of another container.
    """
    with contextlib.suppress(OSError, ValueError):
        there = lock_name(Path(os.path.realpath(path))).stat()
        named = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
        for line in _KERNEL_LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
            _, kind, *_, process, file, _, _ = line.split()
            if kind == "FLOCK" and file == named and int(process) > 0:
                return int(process)
    return None


def take_lock(path: Path) -> JournalLock:
    """Take the lock of a journal; `path` is without symbolic links.

    Raises:
        JournalLocked: another gateway has it, or could have it under another name of the file.
        JournalUnreadable: the file of the lock cannot be made: a read-only or full disk, another user's folder.
    """
    if path.exists() and path.stat().st_nlink > 1:
        raise JournalLocked(
            f"{path} has another name (a hard link): under that another gateway could write it at the same time, and "
            f"what either acknowledged would be lost; `find -samefile {path}` finds it: remove it, a copy needs no link"
        )
    name = lock_name(path)
    for _ in range(_LOCK_TRIES):
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise JournalUnreadable(f"{name} cannot be made or opened: {error.strerror}; nothing was done") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise JournalLocked(f"another gateway holds {path}") from error
        lock = JournalLock(name, descriptor)
        if lock.holds():
            return lock
        lock.release()  # somebody has put another file there meanwhile
    raise JournalLocked(f"{name} does not stay in its place; whatever removes it must be stopped")
