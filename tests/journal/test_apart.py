"""A journal in a process of its own keeps the contract of every journal, and ends with its gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gateway.core.effects import Write
from gateway.core.events import Committed, Existing
from gateway.core.transaction import Stored
from gateway.journal import apart
from gateway.journal.apart import JournalApart, error_of
from gateway.journal.key_folder import KeyFileWrong
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.port import (
    Deliver,
    JournalError,
    JournalInDoubt,
    JournalKeysWrong,
    JournalLocked,
    JournalUnreadable,
    Listing,
)
from gateway.journal.serving import name_of
from gateway.journal.sqlite import SqliteJournalSettings
from gateway.journal.wire import Order, Standing, Stopped, frame, tidings
from tests.journal.conformance import JournalConformance
from tests.journal.rig import Make, Rig, sale, sqlite_make

WITHIN_S = 20.0


class ClockedApart(JournalApart):
    """Its process has the clock of the rig."""

    def __init__(
        self,
        settings: SqliteJournalSettings,
        keyring: Keyring,
        deliver: Deliver,
        failed: Callable[[JournalError], None],
        utc_ms: Callable[[], int],
    ) -> None:
        self._clock = settings.path.with_suffix(".clock")
        self._utc_ms = utc_ms
        program = (sys.executable, "-m", "tests.journal.clocked_serving", str(self._clock))
        super().__init__(settings, keyring, deliver, failed, program)

    def _order(self, order: Order) -> None:
        draft = self._clock.with_suffix(".draft")
        draft.write_text(str(self._utc_ms()))
        draft.replace(self._clock)
        super()._order(order)


def apart_make(path: Path, keyring: Keyring, *, limit_bytes: int = 1 << 40) -> Make:
    settings = SqliteJournalSettings(path=path, min_free_bytes=0, limit_bytes=limit_bytes)
    return lambda deliver, failed, utc_ms: ClockedApart(settings, keyring, deliver, failed, utc_ms)


@pytest.fixture
def rig(tmp_path: Path, keyring: Keyring) -> Iterator[Rig]:
    opened = Rig(apart_make(tmp_path / "journal.db", keyring)).open()
    yield opened
    opened.close()


def pid_of(rig: Rig) -> int:
    assert isinstance(rig.journal, JournalApart)
    assert rig.journal.pid is not None
    return rig.journal.pid


def ends(pid: int) -> bool:
    """Whether a process ends in time; a zombie has ended."""
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


class TestJournalApart(JournalConformance):
    """The suite of every journal."""


def test_it_is_another_process_and_ends_when_the_journal_is_closed(rig: Rig) -> None:
    pid = pid_of(rig)
    assert pid != os.getpid()
    rig.close()
    assert ends(pid)


def test_what_one_process_has_stored_a_journal_within_the_gateway_reads(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    assert rig.write(sale("k|000001")) == Committed(1, (1,))
    rig.close()
    within = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    assert isinstance(within.load(1), Stored)


def test_a_second_process_is_refused_once_the_first_has_had_time_to_end(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    second = Rig(apart_make(tmp_path / "journal.db", keyring))
    with pytest.raises(JournalLocked, match=r"journal\.db"):
        second.open()
    rig.close()
    second.open()
    second.close()


def test_another_keyring_is_refused_by_name(tmp_path: Path, rig: Rig) -> None:
    rig.close()
    other = Rig(apart_make(tmp_path / "journal.db", create_keyring(tmp_path / "other")))
    with pytest.raises(JournalKeysWrong, match=r"account-epoch key 1 .* is not the one"):
        other.open()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(JournalUnreadable):
        Rig(apart_make(path, keyring)).open()


def test_a_journal_without_room_says_so_and_so_does_its_refusal(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    rig.close()
    full = Rig(apart_make(tmp_path / "journal.db", keyring, limit_bytes=1)).open()

    async def refused() -> str:
        async with asyncio.timeout(WITHIN_S):
            while not full.journal.refusal():  # noqa: ASYNC110 - it is told by nothing but itself
                await asyncio.sleep(0.01)
        return full.journal.refusal()

    assert "limit" in full.run(refused())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_meant_for_the_gateway_does_not_end_the_journal(rig: Rig, number: signal.Signals) -> None:
    os.kill(pid_of(rig), number)
    assert isinstance(rig.write(sale("k|000001")), Committed)
    assert isinstance(rig.write(sale("k|000001")), Existing)


def test_a_journal_whose_process_is_killed_is_in_doubt_and_answers_nothing_more(rig: Rig) -> None:
    rig.write(sale("k|000001"))
    os.kill(pid_of(rig), signal.SIGKILL)
    assert rig.perform(Write(rig.next_token(), (sale("k|000002"),))) == []
    assert isinstance(rig.failure, JournalInDoubt)
    with pytest.raises(JournalInDoubt):
        rig.run(rig.journal.health())
    assert rig.journal.refusal()


def test_who_waits_for_a_call_when_the_process_is_killed_is_told(rig: Rig) -> None:
    async def asked() -> None:
        call = asyncio.ensure_future(rig.journal.owing_lanes())
        os.kill(pid_of(rig), signal.SIGKILL)
        async with asyncio.timeout(WITHIN_S):
            await call

    with pytest.raises(JournalInDoubt):
        rig.run(asked())


def test_what_was_durable_before_the_journal_stopped_is_told_first(rig: Rig) -> None:
    async def both_in_one_read() -> None:
        assert isinstance(rig.journal, JournalApart)
        rig.journal.told([Committed(77, (1,)), Stopped("JournalInDoubt", "the disk"), Committed(78, (2,))])

    rig.run(both_in_one_read())
    assert rig.order == [77]
    assert isinstance(rig.failure, JournalInDoubt)
    assert str(rig.failure) == "the disk"


def test_an_order_that_no_bytes_can_be_made_of_stops_the_journal_instead_of_being_lost_with_others(rig: Rig) -> None:
    async def asked() -> None:
        rig.journal.write(Write(1, (sale("k|000001"),)))
        async with asyncio.timeout(WITHIN_S):
            await rig.journal.listing(Listing(states=frozenset(), lane="\ud800"))

    with pytest.raises(JournalInDoubt, match="stops at a defect"):
        rig.run(asked())
    assert isinstance(rig.failure, JournalInDoubt)


def test_when_the_gateway_is_killed_its_journal_ends_and_the_next_one_has_everything(
    tmp_path: Path, keyring: Keyring
) -> None:
    child = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", "tests.journal.killed_gateway", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    told = [child.stdout.readline().strip() for _ in range(200)]
    child.kill()
    told += child.stdout.read().split("\n")[:-1]  # the last line may be cut
    child.wait()
    child.stdout.close()
    assert ends(pid)
    after = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    assert all(isinstance(found, Stored) for found in after.find(*[key for key in told if key]))


def test_frames_are_cut_wherever_the_stream_is() -> None:
    standings = [Standing("", number, bytes(32)) for number in range(20)]
    stream = b"".join(frame([one]) for one in standings)
    for step in (1, 3, 7, 64, len(stream)):
        reader = tidings()
        read: list[object] = []
        for at in range(0, len(stream), step):
            read += reader.feed(stream[at : at + step])
        assert read == standings


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("JournalLocked", JournalLocked),
        ("JournalError", JournalError),
        ("Deliver", JournalInDoubt),
        ("", JournalInDoubt),
    ],
)
def test_an_error_of_the_other_end_comes_as_its_own_class_and_what_is_none_as_doubt(
    name: str, kind: type[JournalError]
) -> None:
    assert type(error_of(name, "why")) is kind


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyFileWrong("k"), "JournalKeysWrong"),
        (JournalUnreadable("u"), "JournalUnreadable"),
        (JournalError("e"), "JournalError"),
        (KeyError("none of ours"), "KeyError"),
    ],
)
def test_an_error_crosses_under_the_name_that_the_contract_has_for_it(error: Exception, name: str) -> None:
    assert name_of(error) == name


def test_many_orders_of_one_turn_are_all_carried_out_in_order(rig: Rig) -> None:
    writes: Sequence[Write] = [Write(rig.next_token(), (sale(f"k|{number:06}"),)) for number in range(2_000)]
    events = rig.perform(*writes)
    assert [event.token for event in events if isinstance(event, Committed)] == [write.token for write in writes]
    assert rig.order == [write.token for write in writes]


def test_no_module_of_the_current_folder_is_taken(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('taken')\n")
    monkeypatch.chdir(tmp_path)
    settings = SqliteJournalSettings(path=tmp_path / "journal.db", min_free_bytes=0)
    rig = Rig(lambda deliver, failed, _: JournalApart(settings, keyring, deliver, failed)).open()
    assert isinstance(rig.write(sale("k|000001")), Committed)


def test_a_program_that_cannot_be_started_is_named(tmp_path: Path, keyring: Keyring) -> None:
    settings = SqliteJournalSettings(path=tmp_path / "journal.db", min_free_bytes=0)
    missing = (str(tmp_path / "no-python"),)
    rig = Rig(lambda deliver, failed, _: JournalApart(settings, keyring, deliver, failed, missing))
    with pytest.raises(JournalError, match="no-python"):
        rig.open()
    assert rig.failure is None


def test_a_journal_that_hangs_is_not_called_well_and_is_again_when_it_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_ANSWERS_WITHIN_S", 0.2)

    async def refusal(hangs: bool) -> str:
        async with asyncio.timeout(WITHIN_S):
            while ("does not answer" in rig.journal.refusal()) != hangs:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.01)
        return rig.journal.refusal()

    before = rig.run(rig.journal.health())
    os.kill(pid_of(rig), signal.SIGSTOP)
    try:
        assert "does not answer" in rig.run(refusal(hangs=True))
        hung = rig.run(rig.journal.health())
        assert (hung.writable, hung.entries) == (False, before.entries)
    finally:
        os.kill(pid_of(rig), signal.SIGCONT)
    assert rig.run(refusal(hangs=False)) == ""
    assert rig.run(rig.journal.health()).writable


def test_questions_to_a_journal_that_hangs_are_not_heaped_up(rig: Rig) -> None:
    assert isinstance(rig.journal, JournalApart)
    os.kill(pid_of(rig), signal.SIGSTOP)
    try:
        for _ in range(1_000):
            rig.journal.refusal()
        assert len(rig.journal._orders) <= 1
    finally:
        os.kill(pid_of(rig), signal.SIGCONT)


def test_a_journal_that_does_not_close_is_ended_and_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_CLOSES_WITHIN_S", 0.2)
    monkeypatch.setattr(apart, "_ENDS_WITHIN_S", 0.2)
    pid = pid_of(rig)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(JournalInDoubt, match="not closed"):
        rig.close()
    assert ends(pid)
    rig._end_loop()


def test_lines_of_the_journals_log_come_to_the_gateways(
    tmp_path: Path, keyring: Keyring, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.write(sale("k|000001"))
    rig.close()
    (tmp_path / "journal.db-mark").unlink()
    with caplog.at_level("INFO"):
        Rig(apart_make(tmp_path / "journal.db", keyring)).open()
    assert any("mark" in line.getMessage() and line.name.startswith("gateway.journal") for line in caplog.records)
