"""Flipped bits in a journal that was not closed: in its database, its log or its mark (INV-1, INV-7).

tests/journal/test_damage.py flips bits of a closed database of sixty records; here the journal is larger, and its last
commits are in the log. SQLite ends a log at the first frame whose checksum does not fit, without a word, so a flipped
bit there takes back acknowledged commits, and the journal's own head with them. The mark, which lies outside of both,
must tell; then the log is put right, or the journal is refused as it was.
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
from gateway.journal import upkeep
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.port import JournalError
from tests.crash.amounts import LIMIT_S, TIMES
from tests.journal.conformance import loaded
from tests.journal.rig import Rig, sale, sqlite_make
from tests.journal.test_damage import LANES, fill

RECORDS: Final = 240
FLIPS: Final = {"journal.db": 200 * TIMES, "journal.db-wal": 250 * TIMES, "journal.db-mark": 50 * TIMES}
PARTS: Final = 2
PAIRS: Final = 60 * TIMES
UNMARKED: Final = 30
SAMPLE: Final = 30
READ_SHARE: Final = 0.1
"""Of the journals whose database comes out byte for byte as it should, so many are read as well."""

pytestmark = pytest.mark.timeout(LIMIT_S)


@dataclass(frozen=True, slots=True)
class Killed:
    """A journal as a kill leaves it.

    Attributes:
        truth: what it holds; its newest entry is `head`.
        image: the database that the next opening makes of the files.
    """

    files: dict[str, bytes]
    truth: dict[int, Stored]
    head: int
    image: bytes
    keyring: Keyring
    folder: Path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Filled, half of it in the database and half in the log, and copied while it was open."""
    folder = tmp_path_factory.mktemp("flips")
    keyring = create_keyring(folder / "keys")
    path = folder / "journal.db"
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("_LULL_FRAMES", "_FEW_FRAMES", "_CHECKPOINT_FRAMES"):
            patch.setattr(upkeep, limit, 1_000_000)  # else the log would be moved while it is filled
        rig = Rig(sqlite_make(path, keyring)).open()
        fill(rig, RECORDS // 2)
        rig.reopen()
        truth = fill_more(rig)
        head = rig.run(rig.journal.health()).entries
        files = {name: (folder / name).read_bytes() for name in FLIPS}
        rig.close()
    (folder / "flipped").mkdir()
    lay(folder / "flipped", files)
    rig = Rig(sqlite_make(folder / "flipped" / "journal.db", keyring)).open()
    image = (folder / "flipped" / "journal.db").read_bytes()
    rig.close()
    return Killed(files, truth, head, image, keyring, folder / "flipped")


def lay(folder: Path, files: dict[str, bytes]) -> None:
    """Make these the only files in a folder."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def fill_more(rig: Rig) -> dict[int, Stored]:
    """More of the same kinds, under other keys."""
    for number in range(RECORDS // 2):
        alias = f"idem|M|T|{number}" if number % 2 else ""
        rig.write(sale(f"more|{number:06}", lane=LANES[number % len(LANES)], alias=alias))
    return {number: loaded(rig, number) for number in rig.listed()}


@dataclass(slots=True)
class Seen:
    """How journals with flipped bits behaved."""

    refused: int = 0
    repaired: int = 0
    told: int = 0
    harmless: int = 0
    went_back: int = 0


def look(rig: Rig, killed: Killed, dice: random.Random, where: str) -> str:
    """Read a sample in every way. Returns "told" or "harmless"; fails where something wrong is served."""
    told = False
    for number in dice.sample(sorted(killed.truth), SAMPLE):
        stored = killed.truth[number]
        keys = filter(None, (stored.transaction.key, stored.transaction.alias))
        for found in (rig.load(number), *rig.find(*keys)):
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


def refused(rig: Rig) -> str:
    """Open; why that was refused, empty where it was not."""
    try:
        rig.open()
    except JournalError as refusal:
        return str(refusal)
    return ""


def closes(rig: Rig) -> bool:
    """Close; False where the closing says that it has met damage: what was in memory is still in the log then."""
    try:
        rig.close()
    except JournalError:
        rig._end_loop()
        return False
    return True


def live_through(killed: Killed, files: dict[str, bytes], dice: random.Random, where: str, seen: Seen) -> None:
    """Open the journal of these files, and count how it ends; fails where anything is lost or changed."""
    path = killed.folder / "journal.db"
    lay(killed.folder, files)
    rig = Rig(sqlite_make(path, killed.keyring))
    refusal = refused(rig)
    if refusal:
        seen.refused += 1
        if files["journal.db"] == killed.files["journal.db"]:
            assert "was committed" in refusal, where
            assert {name: (killed.folder / name).read_bytes() for name in files} == files, f"{where}: changed"
        return
    try:
        if rig.run(rig.journal.health()).entries < killed.head:
            seen.went_back += 1
            return
        kept = killed.folder / "journal.db-wal.damaged"
        if kept.exists():
            seen.repaired += 1
            assert kept.read_bytes() == files["journal.db-wal"], where
        what = "harmless"
        if files["journal.db"] == killed.files["journal.db"]:
            assert path.read_bytes() == killed.image, f"{where}: something is lost or changed"
        if files["journal.db"] != killed.files["journal.db"] or dice.random() < READ_SHARE:
            what = look(rig, killed, dice, where)
        assert what == "harmless" or not kept.exists(), where
        seen.told += what == "told"
        seen.harmless += what == "harmless" and not kept.exists()
    except JournalError:
        assert rig.failure is not None or rig.damaged, where
        seen.told += 1
    finally:
        seen.told += not closes(rig)


def flipped(content: bytes, dice: random.Random, bits: int = 1) -> tuple[bytes, str]:
    """So many bits the other way; and which bytes."""
    other = bytearray(content)
    places = [dice.randrange(len(other)) for _ in range(bits)]
    for at in places:
        other[at] ^= 1 << dice.randrange(8)
    return bytes(other), f"bytes {places}"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", FLIPS)
def test_after_any_flipped_bit_nothing_is_lost_or_changed_and_nothing_false_is_served(
    killed: Killed, name: str, part: int
) -> None:
    seen, flips = Seen(), FLIPS[name] // PARTS
    for seed in range(part * flips, (part + 1) * flips):
        dice = random.Random(f"flip/{name}/{seed}")
        content, which = flipped(killed.files[name], dice)
        live_through(killed, {**killed.files, name: content}, dice, f"seed {seed}, {which} of {name}", seen)
    print(f"{name}: {seen}")
    assert seen.went_back == 0
    if name == "journal.db-wal":
        assert seen.repaired > 0.9 * flips, "a single bit of the log is put right, but for a few"
        assert seen.refused + seen.repaired == flips, "a flip in the log takes something back"
    elif name == "journal.db":
        assert seen.told + seen.refused > flips // 20, "the flips hit nothing that matters"
    else:
        assert seen.harmless == flips, "one half of the mark is enough"


def test_two_flipped_bits_in_the_log_are_both_put_right_or_refused(killed: Killed) -> None:
    seen = Seen()
    for seed in range(PAIRS):
        dice = random.Random(f"pair/{seed}")
        content, which = flipped(killed.files["journal.db-wal"], dice, bits=2)
        live_through(killed, {**killed.files, "journal.db-wal": content}, dice, f"seed {seed}, {which}", seen)
    print(seen)
    assert (seen.went_back, seen.repaired + seen.refused) == (0, PAIRS)


def test_two_flipped_bits_in_one_page_of_the_log_are_refused(killed: Killed) -> None:
    content = bytearray(killed.files["journal.db-wal"])
    for at in (32 + 24 + 100, 32 + 24 + 2_000):
        content[at] ^= 4
    seen = Seen()
    live_through(killed, {**killed.files, "journal.db-wal": bytes(content)}, random.Random(1), "one page", seen)
    assert seen.refused == 1


def test_a_log_that_is_gone_or_cut_short_is_refused(killed: Killed) -> None:
    seen = Seen()
    log = killed.files["journal.db-wal"]
    without = {name: content for name, content in killed.files.items() if name != "journal.db-wal"}
    for number, files in enumerate(
        (without, {**without, "journal.db-wal": b""}, {**without, "journal.db-wal": log[:-1]})
    ):
        live_through(killed, files, random.Random(1), f"log {number}", seen)
    assert seen.refused == 3


def test_without_the_mark_a_flipped_bit_in_the_log_takes_commits_back_unnoticed(killed: Killed) -> None:
    """The mark taken away, the same flips lose what was acknowledged: so the tests above can fail."""
    seen = Seen()
    unmarked = {name: content for name, content in killed.files.items() if name != "journal.db-mark"}
    for seed in range(UNMARKED):
        dice = random.Random(f"flip/journal.db-wal/{seed}")
        content, which = flipped(killed.files["journal.db-wal"], dice)
        live_through(killed, {**unmarked, "journal.db-wal": content}, dice, which, seen)
    print(seen)
    assert seen.went_back > UNMARKED // 2
