"""Small files that are replaced as a whole: after a power cut there is the old content or the new, never a part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from gateway.regular_file import read_regular

CHECKPOINT_BYTES_MAX: Final = 65_536


class NoteFiles:
    """What the notary keeps beside a journal.

    JOURNAL-checkpoint has the newest signed checkpoint, with the cosignatures that it has got so far. It is durable
    before anybody else sees it, so that nobody can ever hold a later one than we know of.
    JOURNAL-checkpoint-witnessed has the newest one that a witness had cosigned when a newer had been signed already.
    JOURNAL-checkpoint-continued tells which witnesses' histories a person has decided to go on against.
    """

    def __init__(self, journal: Path) -> None:
        self.newest = journal.with_name(journal.name + "-checkpoint")
        self.witnessed = journal.with_name(journal.name + "-checkpoint-witnessed")
        self.continued = journal.with_name(journal.name + "-checkpoint-continued")

    def read_newest(self) -> bytes | None:
        """The newest signed note; None where none was kept.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return read_regular(self.newest, CHECKPOINT_BYTES_MAX + 1)
        except FileNotFoundError:
            return None

    def read_continued(self) -> frozenset[str]:
        """Names of the witnesses that are known to hold another history. A file that cannot be read names none."""
        try:
            return frozenset(msgspec.json.decode(read_regular(self.continued, CHECKPOINT_BYTES_MAX), type=list[str]))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return frozenset()

    def write_continued(self, witnesses: frozenset[str]) -> None:
        """Keep those names, or nothing. Raises OSError."""
        if witnesses:
            replace_file(self.continued, msgspec.json.encode(sorted(witnesses)))
        else:
            self.continued.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put `content` in the place of what `path` has, at one instant; others may read it.

    Args:
        durable: on the disk, content and name, when this returns. If not, a power cut may leave a file that is empty.
    Raises:
        OSError: nothing has changed, or the whole is there.
    """
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)  # of a crash; or a link that somebody has put there, to have us write elsewhere
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names within a folder durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
