"""Which transactions belong together: those of a batch, of a terminal, of a terminal's STAN, and where they are listed.

A group is a number of 64 bits. Its upper 40 bits are a keyed hash of the terminal, its lower 24 tell the terminal's
groups apart: what a terminal adds lies close together in each table, so that a few thousand transactions change a few
pages for each terminal, and not one for each transaction. Two groups may have one number; every row is verified.

    by_batch, by_batch_again   hash of the terminal | hash of the batch    two independent ones, as for keys: a hidden
                                                                           transaction would make a batch's totals wrong
    by_terminal                hash of the terminal | 1,000,001            all that it sent
                               hash of the terminal | STAN                 one STAN of it, whatever the batch

The newest transactions are not in these tables yet: newest.py.
"""

from __future__ import annotations

from typing import Final

from gateway.journal.rows import RowCodec

LOWER: Final = (1 << 24) - 1
"""The bits that tell a terminal's groups apart."""
_OTHER_STANS: Final = 1_000_000  # whatever has not six digits
_ALL: Final = 1_000_001


def batch_of(key: str) -> str:
    """`PERIOD|MERCHANT|TERMINAL` of a key that goes on after it, else nothing."""
    parts = key.split("|", 3)
    return key[: -len(parts[3]) - 1] if len(parts) == 4 else ""


def batch_numbers(codec: RowCodec, batch: str) -> tuple[int, int]:
    """The group of a batch in `by_batch` and in `by_batch_again`."""
    upper, upper_again = codec.hashes(batch.rpartition("|")[2])
    lower, lower_again = codec.hashes(batch)
    return upper & ~LOWER | lower & LOWER, upper_again & ~LOWER | lower_again & LOWER


def terminal_number(codec: RowCodec, terminal: str, stan: str = "") -> int:
    """The group in `by_terminal` of a terminal, or of one STAN of it."""
    return codec.hashes(terminal)[0] & ~LOWER | (stan_number(stan) if stan else _ALL)


def stan_number(stan: str) -> int:
    """What tells a STAN's group from the terminal's others."""
    return int(stan) if len(stan) == 6 and stan.isascii() and stan.isdecimal() else _OTHER_STANS
