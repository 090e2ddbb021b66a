"""A planned maintenance does not end because the gateway was started again."""

from __future__ import annotations

from pathlib import Path

from gateway.operations.maintenance import Closed, MaintenanceMark


def test_a_closed_link_is_remembered_until_it_is_opened(tmp_path: Path) -> None:
    mark = MaintenanceMark(tmp_path / "journal.sqlite3")
    assert mark.remembered() is None
    mark.remember("operator", "host upgrade")
    assert MaintenanceMark(tmp_path / "journal.sqlite3").remembered() == Closed("operator", "host upgrade")
    mark.forget()
    assert mark.remembered() is None
    mark.forget()


def test_a_mark_that_cannot_be_read_keeps_the_link_closed(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite3.maintenance").write_bytes(b"{")
    closed = MaintenanceMark(tmp_path / "journal.sqlite3").remembered()
    assert closed is not None
    assert "maintenance off" in closed.why


def test_an_empty_mark_that_a_person_made_closes_the_link_and_is_not_called_unreadable(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite3.maintenance").touch()
    closed = MaintenanceMark(tmp_path / "journal.sqlite3").remembered()
    assert closed is not None
    assert (closed.who, "cannot be read" in closed.why, "maintenance off" in closed.why) == ("by hand", False, True)
