"""Where each transaction stands, by what the entries say: memory for one reading of a whole journal.

Up to 24 bytes for each entry of the journal, in a temporary file that is gone when this is closed: what the process
holds in memory stays flat, because most entries are about new transactions and the system writes the rest out.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from gateway.journal.port import JournalError

RECORD: Final = Struct("<BxxxIqq")
"""State, attempts, hash of what may never change (INV-5), hash of response and reason; by transaction id."""

_DROP_EVERY: Final = 1 << 24


class Standing(NamedTuple):
    """What the newest entry of a transaction says; all zeros where no entry was met."""

    state: int
    attempts: int
    payment: int
    told: int


class Standings:
    """Records of fixed size by transaction id, which is the sequence of the entry that created it.

    The first byte of a record that is in use is not 0.
    """

    def __init__(self, size: int, record: Struct = RECORD) -> None:
        """`size` is the largest id that may come; `record` is how each is packed.

        Raises:
            JournalError: there is no room for it where temporary files are made.
        """
        self._record = record
        needed = record.size * (size + 1)
        self._file = tempfile.TemporaryFile(prefix="holdfast-audit-")  # noqa: SIM115  # closed by close()
        try:
            # Reserved at once: a mapped file that outgrows its disk later would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, needed)
            else:
                self._file.truncate(needed)
        except OSError as error:
            self._file.close()
            raise JournalError(
                f"{tempfile.gettempdir()} has no room for {needed:,} bytes ({error.strerror}); "
                f"name another folder in TMPDIR"
            ) from error
        self.memory = mmap.mmap(self._file.fileno(), 0)
        self._size = size
        self._dropped_at = 0

    def get(self, transaction: int) -> Standing:
        """The standing of a transaction, where the records are RECORD."""
        return Standing(*RECORD.unpack_from(self.memory, self._record.size * transaction))

    def forget(self, transaction: int) -> None:
        """As if no entry had told of it: `left` passes it over."""
        self.memory[self._record.size * transaction] = 0

    def let_go(self, transaction: int) -> None:
        """Give memory back now and then; what was written stays in the file. `transaction` is where the reading is."""
        place = self._record.size * transaction
        if abs(place - self._dropped_at) >= _DROP_EVERY and hasattr(mmap, "MADV_DONTNEED"):
            self._dropped_at = place
            self.memory.madvise(mmap.MADV_DONTNEED)

    def left(self) -> Iterator[int]:
        """Transactions that have a standing, in order."""
        for start in range(0, self._size + 1, 4096):
            self.let_go(start)
            states = self.memory[
                self._record.size * start : self._record.size * min(start + 4096, self._size + 1) : self._record.size
            ]
            if any(states):
                yield from (start + place for place, state in enumerate(states) if state)

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
        self.memory.close()
        self._file.close()
