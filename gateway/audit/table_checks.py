"""Whether the file has a journal's tables and nothing else, and whether look-ups find what is there.

Of the second, SQLite's own check of the pages of every table tells.

A reading of a whole table meets every row, in whatever order pages have them. A look-up goes down from the root and
trusts that order: where it is not kept, a row is there and is not found, so that a retry could be charged again. Only
`integrity_check` looks at the order of rows in all tables; `quick_check` leaves out those that lookups are in. Its time
grows with the length of the journal, and it writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from gateway.audit.damage import Damage, Findings
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.rows import TAG_BYTES
from gateway.journal.schema import TABLES

_STEPS: Final = 250_000
_DECLARED: Final = "SELECT name, type, sql FROM sqlite_schema"
_META: Final = "SELECT copy, content, digest FROM meta"
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


def check_declared(reader: LogReader, findings: Findings) -> None:
    """Check that the file declares a journal's tables and nothing else, and says of itself, twice, what it is.

    A trigger of somebody else's acts within the gateway's own commits; a gateway that starts refuses each of these.
    """
    try:
        found = {_text(name): (_text(kind), _text(sql)) for name, kind, sql in reader.select(_DECLARED)}
        copies = {copy: (content, digest) for copy, content, digest in reader.select(_META)}
    except LogDamaged:
        findings.add(Damage.TABLE, "what the file declares, or the journal says of itself, cannot be read")
        return
    for name in sorted(found.keys() - TABLES.keys()):
        text = f"the file declares {found[name][0]!a} {ascii(name)[:80]}, and a journal has none of that name"
        findings.add(Damage.TABLE, f"{text}: no gateway starts on it")
    for name in TABLES:
        if name in found and found[name] != ("table", TABLES[name]):
            findings.add(Damage.TABLE, f"table {name}: the file declares another one of that name")
    for copy in (1, 2):
        content, digest = copies.get(copy, (b"", b""))
        if not isinstance(content, bytes) or not content or sha256(content).digest()[:TAG_BYTES] != digest:
            text = f"copy {copy} of what the journal says of itself is not there, or is not one"
            findings.add(Damage.TABLE, f"table meta: {text}; with neither no gateway starts on it")


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _in_words(found: list[bytes]) -> str:
    """What SQLite says first, and how much more; it tells of pages and places, never of contents."""
    lines = [line for each in found for line in each.decode(errors="replace").splitlines()]
    lines = [line for line in lines if not line.startswith(_PREAMBLE)]
    return lines[0] + (f", and {len(lines) - 1} more" if len(lines) > 1 else "")
