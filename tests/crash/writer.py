"""Writes to a journal under the trace and tells what was acknowledged, in the file `told` that is traced with it.

Run as a process of its own, once for each life of the gateway that the trace is to hold:

    python -m tests.crash.writer FOLDER KEYS LIFE COMMITS [--broken SAFEGUARD]

A line of `told` is written from within `deliver`, where a terminal would be answered: what a line says is acknowledged
from then on. A life begins as terminals would after a crash: what was asked and never answered is asked again, and
what that is answered is acknowledged too. A life ends without closing, or with `--close` closes.
"""

from __future__ import annotations

import argparse
import os
import random
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.effects import Create, Limit, Update, Write
from gateway.core.events import Committed, Existing, Found, JournalEvent
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer, Stored
from gateway.journal import batch, upkeep
from gateway.journal.keyring import load_keyring
from tests.crash.safeguards import SAFEGUARDS
from tests.journal.rig import TRACK, Make, Rig, evolved, sale, sqlite_make

COUNTER: Final = "all"
"""Counts the transactions that stand as STORED."""
LANES: Final = 5
RECENT_MAX: Final = 24
CHECKPOINT_FRAMES: Final = 110
WRITES_MAX: Final = 6


class Line(msgspec.Struct, omit_defaults=True):
    """One line of `told`.

    Attributes:
        key: of the transaction.
        id: 0 where the line only says that the key was handed over.
        state, response: what the terminal was told, or the outcome that it would be told when it asks again.
    """

    key: str
    id: int = 0
    state: int = 0
    response: str = ""


def response_of(answer: Answer | None) -> str:
    """The code of an answer; empty where there is none."""
    return answer.fields.get(39, "") if answer is not None else ""


def told_lines(content: bytes) -> list[Line]:
    """The whole lines of `told`."""
    return [msgspec.json.decode(each, type=Line) for each in content.splitlines(keepends=True) if each.endswith(b"\n")]


class TellingRig(Rig):
    """A rig that tells, at the moment of delivery."""

    def __init__(self, make: Make, told: Path) -> None:
        super().__init__(make)
        self._descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.asked: dict[int, Write] = {}

    def tell(self, lines: Sequence[Line]) -> None:
        """Append lines in one write: nothing stands between the event and the trace."""
        if lines:
            os.write(self._descriptor, b"".join(msgspec.json.encode(each) + b"\n" for each in lines))

    def _deliver(self, events: Sequence[JournalEvent]) -> None:
        lines = []
        for event in events:
            if isinstance(event, Committed):
                for change, number in zip(self.asked[event.token].changes, event.ids, strict=True):
                    row = change.transaction
                    lines.append(Line(row.key, number, row.state, response_of(change.answer) or row.response))
            elif isinstance(event, Existing) and event.stored is not None:
                lines.append(line_of(event.stored))
            elif isinstance(event, Found):
                lines += [line_of(each) for each in event.results if isinstance(each, Stored)]
        self.tell(lines)
        super()._deliver(events)

    def hand_over(self, groups: Sequence[tuple[Create | Update, ...]]) -> None:
        """Write several groups of changes in one commit."""
        writes = [Write(self.next_token(), each) for each in groups]
        self.asked = {each.token: each for each in writes}
        self.tell([Line(each.transaction.key) for group in groups for each in group])
        self.perform(*writes)


def line_of(stored: Stored) -> Line:
    """What is acknowledged of a transaction by showing it."""
    row = stored.transaction
    return Line(row.key, row.id, row.state, response_of(stored.answer) or row.response)


def new_sale(key: str, dice: random.Random) -> Create:
    """A sale that is either stored at once or about to be asked."""
    asking = dice.random() < 0.4
    return sale(
        key,
        state=State.ASKING if asking else State.STORED,
        answer=None if asking else Answer("0210", {39: "00", 38: key[-6:]}),
        lane=f"L{dice.randrange(LANES)}",
        amount_minor=dice.randrange(100, 50_000),
        sensitive={35: TRACK} if dice.random() < 0.3 else {},
        reserve=() if asking else (Limit(COUNTER, None, None, None, "bound"),),
    )


def settled(stored: Stored, dice: random.Random) -> Update:
    """The outcome of a transaction that had none."""
    if stored.transaction.state is State.STORED:
        return evolved(stored.transaction, State.APPROVED, answer=Answer("0230", {39: "00"}), release=(COUNTER,))
    code, state = dice.choice([("00", State.APPROVED), ("51", State.DECLINED)])
    return evolved(stored.transaction, state, answer=Answer("0210", {39: code}), response=code)


def ask_again(rig: TellingRig, told: Sequence[Line], dice: random.Random) -> None:
    """What terminals do after a crash."""
    known: dict[str, Line] = {}
    doubtful: dict[str, int] = {}
    for line in told:
        if line.id:
            known[line.key] = line
            doubtful.pop(line.key, None)
        else:
            doubtful[line.key] = known[line.key].id if line.key in known else 0
    for key, number in doubtful.items():
        if number:
            rig.load(number)
        else:
            rig.hand_over([(new_sale(key, dice),)])


def live(rig: TellingRig, life: int, commits: int, told: Sequence[Line]) -> None:
    """One life: `commits` commits of one to six writes, new sales and outcomes mixed."""
    dice = random.Random(f"life/{life}")
    ask_again(rig, told, dice)
    number = 0
    for _ in range(commits):
        opened = rig.listed(states=frozenset({State.ASKING, State.STORED}))
        some = dice.sample(opened, min(len(opened), dice.randrange(3)))
        groups: list[tuple[Create | Update, ...]] = [(settled(read(rig, each), dice),) for each in some]
        for _ in range(dice.randrange(0 if groups else 1, WRITES_MAX - len(groups))):
            number += 1
            groups.append((new_sale(f"B|M|T{dice.randrange(3)}|{life}|{number:06}", dice),))
        rig.hand_over(groups)


def read(rig: Rig, number: int) -> Stored:
    """One transaction, which must be there."""
    stored = rig.load(number)
    assert isinstance(stored, Stored)
    return stored


def main() -> None:
    """Live once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("keys", type=Path)
    parser.add_argument("life", type=int)
    parser.add_argument("commits", type=int)
    parser.add_argument("--broken", choices=sorted(SAFEGUARDS))
    parser.add_argument("--close", action="store_true")
    asked = parser.parse_args()
    if asked.broken:
        SAFEGUARDS[asked.broken]()
    # A short run then sees everything that a long one does: checkpoints, a log that starts anew, rows put in place.
    upkeep._CHECKPOINT_FRAMES = CHECKPOINT_FRAMES  # type: ignore[misc]
    upkeep.RECENT_MAX = batch.RECENT_MAX = RECENT_MAX  # type: ignore[misc, attr-defined]
    batch._FORGOTTEN_AT_ONCE = 2  # type: ignore[misc]
    path = asked.folder / "told"
    before = told_lines(path.read_bytes()) if path.exists() else []
    rig = TellingRig(sqlite_make(asked.folder / "journal.db", load_keyring(asked.keys)), path)
    try:
        rig.open()
        live(rig, asked.life, asked.commits, before)
        if asked.close:
            rig.close()
    except BaseException:  # noqa: BLE001 - the journal's threads would keep the process
        traceback.print_exc()
        os._exit(3)
    os._exit(0)  # as a kill would: nothing is closed


if __name__ == "__main__":
    main()
