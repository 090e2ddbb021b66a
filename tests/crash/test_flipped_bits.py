"""One flipped bit at a time in a journal that was not closed: in its database or in its log (INV-1, INV-7).

tests/journal/test_damage.py flips bits of a closed database of sixty records; here the journal is larger, and its last
commits are in the log. SQLite ends a log at the first frame whose checksum does not fit, without a word, so a flipped
bit there takes back acknowledged commits. The journal's own head goes back with them: only a head that was kept
outside the file can tell (see the test of that).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gateway.core.events import Lookup
from gateway.core.lifecycle import REPLAYABLE
from gateway.core.transaction import Stored
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.port import JournalError
from tests.crash.amounts import LIMIT_S, TIMES
from tests.journal.conformance import loaded
from tests.journal.rig import Rig, sale, sqlite_make
from tests.journal.test_damage import LANES, fill

RECORDS: Final = 240
FLIPS: Final = 500 * TIMES
LOG_SHARE: Final = 0.5
SAMPLE: Final = 30
FILES: Final = ("journal.db", "journal.db-wal")

pytestmark = pytest.mark.timeout(LIMIT_S)


@dataclass(frozen=True, slots=True)
class Killed:
    """A journal as a kill leaves it, and what it held; `head` is its newest sequence as noted outside the file."""

    files: dict[str, bytes]
    truth: dict[int, Stored]
    head: int
    keyring: Keyring
    folder: Path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Filled, half of it in the database and half in the log, and copied while it was open."""
    folder = tmp_path_factory.mktemp("flips")
    keyring = create_keyring(folder / "keys")
    path = folder / "journal.db"
    rig = Rig(sqlite_make(path, keyring)).open()
    fill(rig, RECORDS // 2)
    rig.reopen()
    truth = fill_more(rig)
    head = rig.run(rig.journal.health()).entries
    files = {name: (folder / name).read_bytes() for name in FILES}
    rig.close()
    (folder / "flipped").mkdir()
    return Killed(files, truth, head, keyring, folder / "flipped")


def fill_more(rig: Rig) -> dict[int, Stored]:
    """More of the same kinds, under other keys."""
    for number in range(RECORDS // 2):
        rig.write(sale(f"more|{number:06}", lane=LANES[number % len(LANES)]))
    return {number: loaded(rig, number) for number in rig.listed()}


@dataclass(slots=True)
class Seen:
    """How a journal with one flipped bit behaved."""

    refused: int = 0
    told: int = 0
    went_back: int = 0
    harmless: int = 0


def look(rig: Rig, killed: Killed, dice: random.Random, where: str) -> str:
    """Read a sample in every way. Returns "went back", "told" or "harmless"; fails where something wrong is served."""
    newest = rig.run(rig.journal.health()).entries
    if newest < killed.head:
        for number in dice.sample(sorted(killed.truth), SAMPLE):
            assert rig.load(number) == (killed.truth[number] if number <= newest else Lookup.ABSENT), (
                f"{where}: {number}"
            )
        return "went back"
    told = False
    for number in dice.sample(sorted(killed.truth), SAMPLE):
        stored = killed.truth[number]
        for found in (rig.load(number), *rig.find(stored.transaction.key)):
            assert found in (stored, Lookup.DAMAGED), f"{where}: {number} is read as {found}"
            told |= found is Lookup.DAMAGED
    for lane in LANES:
        true = [s for s in killed.truth.values() if s.transaction.lane == lane and s.transaction.state in REPLAYABLE]
        got = list(rig.heads(lane, 1000).stored)
        if len(got) < len(true):
            rig.settle()
        assert all(each in true for each in got), f"{where}: lane {lane} shows what it does not owe"
        assert len(got) == len(true) or rig.damaged or rig.failure, f"{where}: lane {lane} silently lacks some"
        told |= len(got) < len(true)
    return "told" if told or rig.damaged else "harmless"


def closes(rig: Rig) -> bool:
    """Close; False where the closing says that it has met damage: what was in memory is still in the log then."""
    try:
        rig.close()
    except JournalError:
        rig._end_loop()
        return False
    return True


def test_after_any_flipped_bit_what_is_served_is_true_or_the_head_outside_tells(killed: Killed) -> None:
    seen = Seen()
    path = killed.folder / "journal.db"
    for seed in range(FLIPS):
        dice = random.Random(f"flip/{seed}")
        name = FILES[dice.random() < LOG_SHARE]
        flipped = bytearray(killed.files[name])
        at = dice.randrange(len(flipped))
        flipped[at] ^= 1 << dice.randrange(8)
        where = f"seed {seed}, byte {at} of {name}"
        for each in FILES:
            (killed.folder / each).write_bytes(flipped if each == name else killed.files[each])
        (killed.folder / "journal.db-shm").unlink(missing_ok=True)
        rig = Rig(sqlite_make(path, killed.keyring))
        try:
            rig.open()
        except JournalError:
            seen.refused += 1
            continue
        try:
            what = look(rig, killed, dice, where)
            assert what != "went back" or name == "journal.db-wal", f"{where}: the database alone went back"
            seen.went_back += what == "went back"
            seen.told += what == "told"
            seen.harmless += what == "harmless"
        except JournalError:
            assert rig.failure is not None or rig.damaged, where
            seen.told += 1
        finally:
            seen.told += not closes(rig)
    print(seen)
    assert seen.went_back > FLIPS // 10, "a flipped bit in the log takes commits back; the head outside has to tell"
    assert seen.told + seen.refused > FLIPS // 20
