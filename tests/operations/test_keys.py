"""Operators change keys while the journal runs; what is due by itself is done; nothing that is owed loses its key."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.config.approvers import Approver
from gateway.core.effects import Write
from gateway.core.events import Committed, JournalEvent
from gateway.core.lifecycle import EntryKind, State
from gateway.journal import key_folder, keyring
from gateway.journal.key_changes import KeyChangeRefused, open_keyring, rotate
from gateway.journal.key_folder import sync_folder
from gateway.journal.keyring import KEYRING_FILE, KeyPurpose, KeyState, create_keyring, load_keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.port import JournalFull, JournalKeysWrong
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.operations import approvals
from gateway.operations.approvals import (
    REQUESTS_FILE,
    ApprovalRefused,
    Approvals,
    Request,
    approving_text,
    asking_text,
    new_request,
    requests_file,
    sign,
)
from gateway.operations.keys import DESTROY_KEY, Keys, KeySettings
from protocol.journal_entry import Entry, decode_entry
from tests.journal.rig import TRACK, evolved, sale

HOUR_MS = 3_600_000
START_MS = 1_800_000_000_000
PEOPLE = {name: Ed25519PrivateKey.generate() for name in ("ann", "bob", "cleo")}


class Desk:
    """Keys over a real journal, and a clock that the test moves."""

    def __init__(self, folder: Path, approvers: tuple[str, ...] = ("ann", "bob", "cleo")) -> None:
        self.folder = folder / "keys"
        self.path = folder / "journal.db"
        self.now_ms = START_MS
        self.reports: list[tuple[str, dict[str, str]]] = []
        self.events: list[JournalEvent] = []
        self.approvers = {
            name: Approver(name, PEOPLE[name].public_key().public_bytes_raw()).public_key for name in approvers
        }
        self.token = 0
        if not (self.folder / KEYRING_FILE).exists():
            create_keyring(self.folder, created_ms=START_MS)

    async def open(self) -> Desk:
        ring = open_keyring(self.folder)
        self.journal = SqliteJournal(
            SqliteJournalSettings(path=self.path, min_free_bytes=0), ring, self.events.extend,
            lambda error: self.reports.append(("failed", {"reason": str(error)})), lambda: self.now_ms,
        )  # fmt: skip
        await self.journal.open()
        approvals = Approvals(requests_file(self.folder), self.approvers, lambda: self.now_ms)
        self.keys = Keys(
            KeySettings(self.folder, 24 * HOUR_MS, 72 * HOUR_MS), None, ring, self.journal, approvals,
            lambda: self.now_ms, lambda name, facts: self.reports.append((name, facts)),
        )  # fmt: skip
        await self.keys.settle()
        return self

    async def close(self) -> None:
        await self.keys.close()
        await self.journal.close()

    async def sell(self, *, sensitive: bool = True) -> int:
        """A stored sale; its id."""
        self.token += 1
        self.journal.write(
            Write(self.token, (sale(f"k|{self.token:06}", sensitive={35: TRACK} if sensitive else None),))
        )
        return (await self._committed()).ids[0]

    async def settle(self, number: int) -> None:
        """The sale is booked upstream."""
        self.token += 1
        created = sale(f"k|{number:06}")
        rows = await self.journal.listing(_everything())
        row = next(each for each in rows if each.id == number)
        assert created.transaction.kind == row.kind
        self.journal.write(Write(self.token, (evolved(row, State.APPROVED),)))
        await self._committed()

    async def _committed(self) -> Committed:
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if getattr(event, "token", 0) == self.token:
                        assert isinstance(event, Committed)
                        return event
                await asyncio.sleep(0)

    def told(self) -> list[dict[str, Any]]:
        """Key events as the journal's entries tell them."""
        with LogReader(self.path) as reader:
            found: list[Entry] = [decode_entry(each.body) for each in reader.entries(0, reader.size)]
        return [json.loads(each.detail) for each in found if each.kind == EntryKind.KEY]

    def state(self, number: int) -> str:
        ring = load_keyring(self.folder)
        return ring.state(ring.records[number]).value

    def named(self, report: str) -> list[dict[str, str]]:
        return [facts for name, facts in self.reports if name == report]

    def request(self, key: int, who: str = "ann") -> tuple[Request, str]:
        request = new_request(
            DESTROY_KEY, f"key {key}", who=who, why="case 7", gateway=self.keys.keyring.name, now_ms=self.now_ms
        )
        return request, sign(PEOPLE[who], asking_text(request))

    async def destroyed_by_two(self, key: int) -> None:
        request, signature = self.request(key)
        await self.keys.ask(request, signature)
        await self.keys.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))


def _everything() -> Any:
    from gateway.journal.port import Listing  # noqa: PLC0415

    return Listing(states=frozenset(State))


def play(folder: Path, story: Callable[[Desk], Awaitable[None]], **desk: Any) -> None:
    """Run a story at an open desk."""

    async def run() -> None:
        opened = await Desk(folder, **desk).open()
        try:
            await story(opened)
        finally:
            await opened.close()

    asyncio.run(run())


def test_a_rotation_is_on_disk_in_use_and_told_before_it_is_acknowledged(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        before = await desk.sell()
        result = await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "a year is over")
        assert "key 6 is the account-epoch key now" in result.text
        assert load_keyring(desk.folder).current[KeyPurpose.ACCOUNT] == 6
        assert [(event["what"], event["who"]) for event in desk.told()] == [
            ("created", "installation"), ("approvers", "gateway"), ("rotated", "ann"),
        ]  # fmt: skip
        assert not load_keyring(desk.folder).untold
        assert load_keyring(desk.folder).records[1].last_sequence > before
        after = await desk.sell()
        with LogReader(desk.path) as reader:
            used = {
                each.sequence: {part.part: part.key_id for part in decode_entry(each.body).parts}
                for each in reader.entries(0, reader.size)
            }
        assert (used[before][1], used[after][1]) == (1, 6)

    play(tmp_path, story)


def test_an_event_that_a_crash_left_untold_is_told_at_the_next_start(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys", created_ms=START_MS)
    rotate(tmp_path / "keys", None, KeyPurpose.ACCOUNT, "ann", "and then the power went", START_MS)

    async def story(desk: Desk) -> None:
        assert [event["number"] for event in desk.told()] == [1, 2, 3]
        assert not load_keyring(desk.folder).untold
        assert load_keyring(desk.folder).records[1].last_sequence > 0

    play(tmp_path, story)


@contextmanager
def failing_after_the_rename(monkeypatch: pytest.MonkeyPatch, times: int) -> Iterator[None]:
    """The disk refuses to sync the folder of the keys, so many times, once the new keyring is in its place."""
    left = times

    def refuse(path: Path) -> None:
        nonlocal left
        linked = any(path.glob(f".{KEYRING_FILE}.*.old"))
        first, second = (path / KEYRING_FILE).stat().st_ino, [p.stat().st_ino for p in path.glob(".*.old")]
        if left and linked and first not in second:
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync_folder(path)

    with monkeypatch.context() as patched:
        patched.setattr(key_folder, "sync_folder", refuse)
        yield
    assert not left


def test_a_keyring_whose_replacing_fails_once_at_its_end_is_written_again_and_the_change_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        with failing_after_the_rename(monkeypatch, 1):
            result = await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        assert "key 6 is the account-epoch key now" in result.text
        assert desk.keys.keyring == load_keyring(desk.folder)
        assert desk.told()[-1]["what"] == "rotated"
        assert not list(desk.folder.glob(".*"))

    play(tmp_path, story)


def test_a_destruction_whose_end_fails_is_not_called_undone_and_is_known_and_told_within_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        sold = await desk.sell()
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        await desk.settle(sold)
        request, signature = desk.request(1)
        await desk.keys.ask(request, signature)
        approving = sign(PEOPLE["bob"], approving_text(request, "bob"))
        with failing_after_the_rename(monkeypatch, 2), pytest.raises(JournalKeysWrong, match="is changed, but a power"):
            await desk.keys.approve(request.id, "bob", approving)
        assert desk.told()[-1]["what"] == "destruction asked for"
        await desk.keys.turn()
        states = {each.id: each.state for each in (await desk.keys.listed()).keys}
        assert (states[1], desk.state(1)) == ("destroyed", "destroyed")
        assert desk.told()[-1]["what"] == "destroyed"
        assert (await desk.keys.listed()).requests == []
        assert not list(desk.folder.glob(".*"))

    play(tmp_path, story)


def refusing_requests(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The list of requests is written so many times more, then its disk refuses."""
    left = after

    def refuse(path: Path, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        key_folder.replace_file(path, content)

    monkeypatch.setattr(approvals, "replace_file", refuse)


def test_who_has_a_key_destroyed_is_told_so_where_only_the_list_of_requests_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        request, signature = desk.request(1)
        await desk.keys.ask(request, signature)
        with monkeypatch.context() as patched:
            refusing_requests(patched, after=1)
            approving = sign(PEOPLE["bob"], approving_text(request, "bob"))
            assert "key 1 is destroyed" in (await desk.keys.approve(request.id, "bob", approving)).text
        assert desk.state(1) == "destroyed"
        await desk.keys.turn()
        assert REQUESTS_FILE in {path.name for path in desk.folder.iterdir()}
        assert request.id not in (desk.folder / REQUESTS_FILE).read_text()

    play(tmp_path, story)


def test_a_request_that_is_kept_is_not_called_refused_where_its_entry_cannot_be_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        request, signature = desk.request(1)

        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(keyring, "replace_file", refuse)
            with pytest.raises(JournalKeysWrong, match=f"request {request.id} waits for a second person; but"):
                await desk.keys.ask(request, signature)
            with pytest.raises(JournalKeysWrong, match=f"request {request.id} is withdrawn; but"):
                await desk.keys.withdraw(request.id, "ann", "no")
        assert (await desk.keys.listed()).requests == []

    play(tmp_path, story)


def test_an_epoch_whose_end_fails_on_the_disk_is_ended_at_the_next_turn_and_none_counts_as_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.SENSITIVE, "ann", "why")
        with failing_after_the_rename(monkeypatch, 2):
            await desk.keys.turn()
        assert "is changed, but a power cut" in desk.named("keys.failed")[-1]["reason"]
        before = len(desk.named("keys.failed"))
        await desk.keys.turn()
        assert len(desk.named("keys.failed")) == before
        assert desk.keys.status().sensitive_epochs_open == 1
        assert (desk.told()[-1]["what"], desk.keys.keyring) == ("destroyed", load_keyring(desk.folder))

    play(tmp_path, story)


def test_two_rotations_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await asyncio.gather(*(desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why") for _ in range(5)))
        assert desk.keys.keyring.current[KeyPurpose.ACCOUNT] == 10
        assert [event["number"] for event in desk.told()] == list(range(1, 8))

    play(tmp_path, story)


def test_a_key_that_something_owed_needs_is_not_destroyed_and_the_transaction_is_named(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        owed = await desk.sell()
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        await desk.keys.rotate(KeyPurpose.SENSITIVE, "ann", "why")
        await desk.sell()
        for key, what in ((1, f"transaction {owed} is not final"), (2, f"sensitive data of transaction {owed}")):
            with pytest.raises(KeyChangeRefused, match=what):
                await desk.keys.ask(*desk.request(key))
        await desk.settle(owed)
        await desk.destroyed_by_two(1)
        assert desk.state(1) == "destroyed"

    play(tmp_path, story)


def test_what_comes_to_be_needed_between_asking_and_approving_cannot_be(tmp_path: Path) -> None:
    """A key that may be asked for is retired: nothing new is sealed with it. The check is made again all the same."""

    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.LOG, "ann", "why")
        with pytest.raises(KeyChangeRefused, match="still signs"):
            await desk.keys.ask(*desk.request(5))
        await desk.keys.retire(5, "ann", "why")
        await desk.destroyed_by_two(5)
        assert [event["what"] for event in desk.told()][2:] == [
            "rotated", "retired", "destruction asked for", "destroyed",
        ]  # fmt: skip

    play(tmp_path, story)


def test_a_destruction_needs_two_different_people_who_are_named_in_the_configuration(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        request, signature = desk.request(1)
        await desk.keys.ask(request, signature)
        own = sign(PEOPLE["ann"], approving_text(request, "ann"))
        forged = sign(PEOPLE["ann"], approving_text(request, "bob"))
        stranger = sign(Ed25519PrivateKey.generate(), approving_text(request, "dora"))
        for who, signed, why in (
            ("ann", own, "another person must approve"),
            ("bob", forged, "not signed by the key of bob"),
            ("bob", signature, "not signed by the key of bob"),
            ("dora", stranger, "'dora' is not one of"),
        ):
            with pytest.raises(ApprovalRefused, match=why):
                await desk.keys.approve(request.id, who, signed)
        assert desk.state(1) == "retired"
        await desk.keys.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))
        assert desk.state(1) == "destroyed"
        evidence = desk.told()[-1]["evidence"]
        assert (evidence["request"]["who"], evidence["approver"]) == ("ann", "bob")
        with pytest.raises(ApprovalRefused, match="there is no request"):
            await desk.keys.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))

    play(tmp_path, story)


def test_a_request_that_is_done_but_stands_in_the_list_again_is_neither_shown_nor_done_again(tmp_path: Path) -> None:
    """A crash before it was taken off leaves it there, and so does a list that is put back from a backup."""

    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        request, signature = desk.request(1)
        await desk.keys.ask(request, signature)
        listed = requests_file(desk.folder).read_bytes()
        approval = sign(PEOPLE["bob"], approving_text(request, "bob"))
        await desk.keys.approve(request.id, "bob", approval)
        requests_file(desk.folder).write_bytes(listed)
        assert not (await desk.keys.listed()).requests
        with pytest.raises(ApprovalRefused, match="key 1 is destroyed already"):
            await desk.keys.approve(request.id, "bob", approval)
        assert request.id not in requests_file(desk.folder).read_text()
        assert [event["what"] for event in desk.told()].count("destroyed") == 1

        requests_file(desk.folder).write_bytes(listed)
        await desk.close()
        await desk.open()
        assert request.id not in requests_file(desk.folder).read_text(), "the start takes it off the list"

    play(tmp_path, story)


def test_a_request_that_waits_survives_a_start(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        request, signature = desk.request(1)
        await desk.keys.ask(request, signature)
        await desk.close()
        await desk.open()
        assert [each.request for each in (await desk.keys.listed()).requests] == [request]
        await desk.keys.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))
        assert desk.state(1) == "destroyed"

    play(tmp_path, story)


def test_a_request_for_another_gateway_or_another_act_is_refused(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        for action, gateway in (("disclose", desk.keys.keyring.name), (DESTROY_KEY, "f" * 32)):
            other = new_request(action, "key 1", who="ann", why="x", gateway=gateway, now_ms=desk.now_ms)
            with pytest.raises(ApprovalRefused):
                await desk.keys.ask(other, sign(PEOPLE["ann"], asking_text(other)))

    play(tmp_path, story)


def test_a_request_is_withdrawn_with_an_entry_and_cannot_be_approved_then(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        request, signature = desk.request(1)
        await desk.keys.ask(request, signature)
        await desk.keys.withdraw(request.id, "cleo", "a mistake")
        assert (desk.told()[-1]["what"], desk.told()[-1]["who"]) == ("request withdrawn", "cleo")
        with pytest.raises(ApprovalRefused, match="there is no request"):
            await desk.keys.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))
        assert desk.state(1) == "retired"

    play(tmp_path, story)


def test_a_day_later_the_next_epoch_begins_and_the_old_key_goes_when_its_last_transaction_is_final(
    tmp_path: Path,
) -> None:
    async def story(desk: Desk) -> None:
        first = await desk.sell()
        await desk.keys.turn()
        assert desk.keys.keyring.current[KeyPurpose.SENSITIVE] == 2
        desk.now_ms += 24 * HOUR_MS
        await desk.keys.turn()
        assert desk.keys.keyring.current[KeyPurpose.SENSITIVE] == 6
        assert desk.state(2) == "retired"
        second = await desk.sell()
        await desk.settle(second)  # of the new epoch: the old one is still needed
        await desk.keys.turn()
        assert desk.state(2) == "retired"
        await desk.settle(first)
        await desk.keys.turn()
        assert desk.state(2) == "destroyed"
        assert [(event["what"], event["who"]) for event in desk.told()][2:] == [
            ("rotated", "gateway"), ("destroyed", "gateway"),
        ]  # fmt: skip
        assert desk.keys.status().sensitive_epochs_open == 1
        assert not desk.named("keys.failed")

    play(tmp_path, story)


def test_an_outage_keeps_an_epoch_open_its_age_shows_and_an_alarm_is_raised_once_an_hour(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.sell()
        desk.now_ms += 72 * HOUR_MS
        await desk.keys.turn()
        assert not desk.keys.status().sensitive_epoch_overdue
        desk.now_ms += HOUR_MS
        for _ in range(3):
            await desk.keys.turn()
        status = desk.keys.status()
        assert (status.sensitive_epoch_age_ms, status.sensitive_epoch_overdue) == (73 * HOUR_MS, True)
        assert len(desk.named("keys.sensitive-epoch-old")) == 1
        desk.now_ms += HOUR_MS
        await desk.keys.turn()
        assert [facts["age_h"] for facts in desk.named("keys.sensitive-epoch-old")] == ["73.0", "74.0"]
        assert desk.state(2) == "retired"

    play(tmp_path, story)


def test_an_epoch_that_began_while_the_clock_was_ahead_ends_when_it_is_set_back_and_its_age_shows(
    tmp_path: Path,
) -> None:
    async def story(desk: Desk) -> None:
        desk.now_ms += 240 * HOUR_MS
        await desk.keys.turn()
        assert desk.keys.keyring.current[KeyPurpose.SENSITIVE] == 6
        sold = await desk.sell()
        desk.now_ms = START_MS
        for _ in range(2):
            await desk.keys.turn()
        assert desk.keys.keyring.current[KeyPurpose.SENSITIVE] == 7
        assert desk.state(6) == "retired"
        desk.now_ms += 73 * HOUR_MS
        await desk.keys.turn()
        status = desk.keys.status()
        assert (status.sensitive_epoch_age_ms, status.sensitive_epoch_overdue) == (73 * HOUR_MS, True)
        assert len(desk.named("keys.sensitive-epoch-old")) == 1
        desk.now_ms -= HOUR_MS // 2
        await desk.keys.turn()
        await desk.settle(sold)
        await desk.keys.turn()
        assert desk.state(6) == "destroyed"

    play(tmp_path, story)


def test_a_clock_that_is_set_back_by_less_than_an_hour_ends_no_epoch(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.now_ms -= HOUR_MS - 1
        await desk.keys.turn()
        assert desk.keys.keyring.current[KeyPurpose.SENSITIVE] == 2

    play(tmp_path, story)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """The disk refuses every new name in the folder, for root too: each draft's name is too long for it."""
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT and Path(path).parent == folder:
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *more, **named)

    os.open = refusing
    try:
        yield
    finally:
        os.open = real


def test_while_the_keys_cannot_be_written_nothing_changes_it_is_reported_once_and_payments_go_on(
    tmp_path: Path,
) -> None:
    async def story(desk: Desk) -> None:
        before = (desk.folder / KEYRING_FILE).read_bytes()
        desk.now_ms += 25 * HOUR_MS
        with unwritable(desk.folder):
            for _ in range(3):
                await desk.keys.turn()
            await desk.sell()
        assert (desk.folder / KEYRING_FILE).read_bytes() == before
        assert len(desk.named("keys.failed")) == 1
        assert "Read-only file system" in desk.named("keys.failed")[0]["reason"]
        await desk.keys.turn()
        assert desk.keys.keyring.current[KeyPurpose.SENSITIVE] == 6

    play(tmp_path, story)


def test_an_event_is_told_once_in_a_life_however_often_the_keys_cannot_be_written(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys", created_ms=START_MS)

    async def run() -> None:
        with unwritable(tmp_path / "keys"):
            desk = await Desk(tmp_path, approvers=()).open()
            for _ in range(3):
                await desk.keys.turn()
            assert [event["what"] for event in desk.told()] == ["created"]
            assert desk.keys.status().events_untold == 1
        await desk.keys.turn()
        assert [event["what"] for event in desk.told()] == ["created"]
        assert desk.keys.status().events_untold == 0
        await desk.close()

    asyncio.run(run())


class FullJournal:
    """A journal whose disk is full for a while, in front of a real one."""

    def __init__(self, real: SqliteJournal) -> None:
        self.real, self.full = real, False

    async def note(self, kind: EntryKind, detail: str) -> int:
        if self.full:
            raise JournalFull("the disk is full")
        return await self.real.note(kind, detail)

    async def adopt_keys(self, keyring: Any) -> None:
        if self.full:
            raise JournalFull("the disk is full")
        await self.real.adopt_keys(keyring)

    async def key_needs(self) -> Any:
        return await self.real.key_needs()


def test_on_a_full_disk_the_new_key_is_kept_and_comes_into_use_when_there_is_room(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        full = FullJournal(desk.journal)
        desk.keys._used.journal = full
        full.full = True
        with pytest.raises(KeyChangeRefused, match="durable, but the journal's disk is full"):
            await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        assert load_keyring(desk.folder).current[KeyPurpose.ACCOUNT] == 6
        await desk.keys.turn()
        assert len(desk.told()) == 2
        full.full = False
        await desk.keys.turn()
        assert desk.told()[-1]["what"] == "rotated"
        assert not load_keyring(desk.folder).untold

    play(tmp_path, story)


def test_who_may_approve_is_told_by_an_entry_whenever_it_changes(tmp_path: Path) -> None:
    async def quiet(_: Desk) -> None:
        pass

    for people in (("ann", "bob"), ("ann", "bob"), ("ann", "cleo"), ()):
        play(tmp_path, quiet, approvers=people)
    desk = Desk(tmp_path)
    assert [sorted(event.get("facts", {})) for event in desk.told() if event["what"] == "approvers"] == [
        ["ann", "bob"], ["ann", "cleo"], [],
    ]  # fmt: skip
    assert KeyState.CURRENT.value == desk.state(1)
