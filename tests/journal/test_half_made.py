"""A journal whose making was cut short opens; what only looks like one is refused, and not written to."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gateway.journal.port import JournalUnreadable
from gateway.journal.schema import PAGE_BYTES, refuse_foreign_file


def made(path: Path, *, page_bytes: int, tables: int, write_ahead: bool = False) -> bytes:
    """A database of somebody else's; what its file holds."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size = {page_bytes}")
    if write_ahead:
        connection.execute("PRAGMA journal_mode = WAL")
    for number in range(tables):
        connection.execute(f"CREATE TABLE t{number} (a)")
    connection.commit()
    connection.close()
    return path.read_bytes()


def test_a_file_whose_making_was_cut_short_is_left_to_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    made(path, page_bytes=PAGE_BYTES, tables=0, write_ahead=True)
    refuse_foreign_file(path)


@pytest.mark.parametrize(("page_bytes", "tables"), [(1024, 2), (512, 1), (PAGE_BYTES, 1)])
def test_somebody_elses_small_database_is_refused_and_stays_as_it_was(
    tmp_path: Path, page_bytes: int, tables: int
) -> None:
    path = tmp_path / "journal.db"
    before = made(path, page_bytes=page_bytes, tables=tables)
    with pytest.raises(JournalUnreadable):
        refuse_foreign_file(path)
    assert path.read_bytes() == before
