"""What reached the host of a load, one byte a transaction: enough to tell lost, doubled, reordered and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from bench.load.frames import Amounts

BOOKED: Final = 1
REVERSED: Final = 2
DECLINED: Final = 4
DOUBLED: Final = 8
"""Bits of a transaction: doubled is one that was to be booked again and did not say that it was a repeat."""

_GROWTH_MIN: Final = 1024


class Lane:
    """One terminal's.

    Attributes:
        bits: by STAN, from 0, which is none.
        newest: the highest STAN that was booked or declined for the first time.
        out_of_order: how many came for the first time after one of a higher STAN.
        changed: how many had another amount than their STAN says.
    """

    __slots__ = ("bits", "changed", "newest", "out_of_order")

    def __init__(self) -> None:
        self.bits = bytearray(_GROWTH_MIN)
        self.newest = 0
        self.out_of_order = 0
        self.changed = 0


class Books:
    """All lanes, by field 41 as it stands on the wire."""

    def __init__(self, amounts: Amounts) -> None:
        self.lanes: dict[bytes, Lane] = {}
        self.booked = self.reversed = self.declined = 0
        self._amounts = amounts

    def lane(self, terminal: bytes) -> Lane:
        """A terminal's lane; made where there is none."""
        lane = self.lanes.get(terminal)
        if lane is None:
            lane = self.lanes[terminal] = Lane()
        return lane

    def book(self, lane: Lane, stan: int, amount_minor: int, *, repeat: bool, advice: bool) -> bytes:
        """Book a sale or an advice, at most once; returns the code of the answer."""
        had = self._had(lane, stan)
        if had & REVERSED and not had & BOOKED:
            return b"12"  # its reversal came first: it is void
        if had & BOOKED:
            if not repeat:
                lane.bits[stan] = had | DOUBLED
            return b"00" if advice or repeat else b"94"
        self._first(lane, stan, amount_minor, had)
        lane.bits[stan] = had | BOOKED
        self.booked += 1
        return b"00"

    def decline(self, lane: Lane, stan: int, amount_minor: int) -> None:
        """Decline a sale."""
        had = self._had(lane, stan)
        if not had & DECLINED:
            self._first(lane, stan, amount_minor, had)
            lane.bits[stan] = had | DECLINED
            self.declined += 1

    def reverse(self, lane: Lane, stan: int) -> bytes:
        """Undo a booking, or refuse it should it come later; returns the code of the answer."""
        had = self._had(lane, stan)
        if not had & REVERSED:
            lane.bits[stan] = had | REVERSED
            self.reversed += had & BOOKED
        return b"00" if had & (BOOKED | DECLINED) else b"25"

    def _had(self, lane: Lane, stan: int) -> int:
        bits = lane.bits
        if stan >= len(bits):
            bits.extend(bytes(max(len(bits), stan + 1 - len(bits))))
        return bits[stan]

    def _first(self, lane: Lane, stan: int, amount_minor: int, had: int) -> None:
        if had:
            return
        if stan < lane.newest:
            lane.out_of_order += 1
        else:
            lane.newest = stan
        expected = self._amounts.minor(stan)
        if amount_minor not in (expected, expected + 51):
            lane.changed += 1


class SavedLane(msgspec.Struct):
    """A lane in a file."""

    bits: bytes
    out_of_order: int
    changed: int


def save_books(books: Books, path: Path) -> None:
    """Write the books to a file. Raises: OSError."""
    lanes = {
        name.decode("latin-1").strip(): SavedLane(bytes(lane.bits), lane.out_of_order, lane.changed)
        for name, lane in books.lanes.items()
    }
    path.write_bytes(msgspec.msgpack.encode(lanes))


def read_books(path: Path) -> dict[str, SavedLane]:
    """Read them back. Raises: OSError, msgspec.DecodeError."""
    return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, SavedLane])
