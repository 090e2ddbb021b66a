"""Whether look-ups find what is there: the pages of every table, by SQLite's own check.

A reading of a whole table meets every row, in whatever order pages have them. A look-up goes down from the root and
trusts that order: where it is not kept, a row is there and is not found, so that a retry could be charged again. Only
`integrity_check` looks at the order of rows in all tables; `quick_check` leaves out those that lookups are in. Its time
grows with the length of the journal, and it writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.audit.damage import Damage, Findings
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.schema import TABLES

_STEPS: Final = 250_000
_PREAMBLE: Final = "*** in database"


class _Telling:
    """Tells of a table while a query runs. What ends that, as Ctrl-C does, ends the query, and is kept."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self.ended: BaseException | None = None

    def __call__(self) -> int:
        try:
            self._tell()
        except BaseException as error:  # noqa: BLE001 - SQLite would lose it, and say that the query has failed
            self.ended = error
            return 1
        return 0


def check_tables(
    reader: LogReader, findings: Findings, tell: Callable[[str, float], None], *, every: int = _STEPS
) -> None:
    """Check the pages of every table; `tell` is given what is done, at first and after each `every` steps of SQLite."""
    for place, table in enumerate(TABLES):
        what, part = f"order of table {table}", place / len(TABLES)
        tell(what, part)
        telling = _Telling(lambda what=what, part=part: tell(what, part))  # type: ignore[misc]
        reader.call_every(every, telling)
        try:
            found = [each for (each,) in reader.select(f"PRAGMA integrity_check({table})") if each != b"ok"]
        except LogDamaged:
            if telling.ended is not None:
                raise telling.ended from None
            findings.add(Damage.TABLE, f"table {table}: its pages cannot be read to the end")
        else:
            if found:
                findings.add(Damage.TABLE, f"table {table}: {_in_words(found)}; look-ups may miss what is there")
        finally:
            reader.call_every(0, None)


def _in_words(found: list[bytes]) -> str:
    """What SQLite says first, and how much more; it tells of pages and places, never of contents."""
    lines = [line for each in found for line in each.decode(errors="replace").splitlines()]
    lines = [line for line in lines if not line.startswith(_PREAMBLE)]
    return lines[0] + (f", and {len(lines) - 1} more" if len(lines) > 1 else "")
