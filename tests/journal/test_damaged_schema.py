"""A journal whose declarations of its tables are damaged: whoever opens it hears that, in words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.audit.verifying import Wanted, verify
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.port import JournalError
from gateway.journal.reader import open_for_reading
from gateway.journal.schema import TABLES
from tests.journal.rig import Rig, sale, sqlite_make


@pytest.fixture
def closed(tmp_path: Path) -> tuple[Path, Keyring]:
    journal, keyring = tmp_path / "journal.db", create_keyring(tmp_path / "keys")
    rig = Rig(sqlite_make(journal, keyring)).open()
    rig.write(sale("B000001|M|T|2|000001"))
    rig.close()
    return journal, keyring


def _read(journal: Path, keyring: Keyring) -> None:
    async def read() -> None:
        await (await open_for_reading(journal, keyring)).close()

    asyncio.run(read())


def _start(journal: Path, keyring: Keyring) -> None:
    rig = Rig(sqlite_make(journal, keyring))
    try:
        rig.open()
    finally:
        rig.close()


def _audit(journal: Path, keyring: Keyring) -> None:
    for keys in (None, keyring):
        if verify(Wanted(journal=journal, keyring=keys), lambda _, __: None).whole:
            raise AssertionError("an auditor hears that it is whole")
    raise JournalError("told as damage")


@pytest.mark.parametrize("opened", [_read, _start, _audit])
def test_a_flipped_bit_in_what_the_file_declares_is_told_in_words(
    closed: tuple[Path, Keyring], opened: Callable[[Path, Keyring], None]
) -> None:
    journal, keyring = closed
    whole = journal.read_bytes()
    for declared in TABLES.values():
        place = whole.index(declared.encode())
        for flipped in (place, place + len("CREATE TABLE "), place + len(declared) - 1):
            damaged = bytearray(whole)
            damaged[flipped] ^= 0x80
            journal.write_bytes(damaged)
            with pytest.raises(JournalError):
                opened(journal, keyring)
