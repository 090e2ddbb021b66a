"""Maintenance that outlives a restart: a mark beside the journal, made before the link closes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec


class Closed(msgspec.Struct, frozen=True):
    """Who closed the link, and why."""

    who: str
    why: str


class MaintenanceMark:
    """The file `JOURNAL.maintenance`; it is there while an operator has closed the link."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(journal.name + ".maintenance")

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def remembered(self) -> Closed | None:
        """Who has closed the link and why; None while it is open. A mark that cannot be read closes it all the same."""
        opens = "`holdfast maintenance off --why ...` opens the link"
        try:
            content = self._path.read_bytes()
            if not content:  # as the handbook has it made, before a copy is started
                return Closed("by hand", f"{self._path} is there; {opens}")
            return msgspec.json.decode(content, type=Closed)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return Closed("unknown", f"{self._path} cannot be read; {opens}")

    def remember(self, who: str, why: str) -> None:
        """Make the mark durable.

        Raises:
            OSError: it could not be written.
        """
        draft = self._path.with_name(self._path.name + ".new")
        try:
            with draft.open("wb") as file:
                file.write(msgspec.json.encode(Closed(who, why)))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self._sync_folder()

    def forget(self) -> None:
        """The link is open again, after a power cut too.

        Raises:
            OSError: the mark could not be removed.
        """
        self._path.unlink(missing_ok=True)
        self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
