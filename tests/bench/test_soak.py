"""The soak: it repeats by seed, settles and judges window by window, and finds what was made wrong on purpose."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import soak, soak_windows
from bench.acquirer import Mode
from bench.child import Gateway
from bench.history import Defect, Finding
from bench.proxy import CALM, Weather
from bench.records import LedgerEvent, Owed, TerminalEvent
from bench.soak_plan import SoakOptions, on_watch, round_steps
from bench.soak_report import SoakResult, headline, sparkline
from bench.soak_rig import ForgetfulBooks, Networks, of_streams
from bench.soak_samples import Sample, Samples, Window, usage_of
from bench.soak_windows import Place, Windows, read_between

HOUR = SoakOptions(minutes=60)


# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_rounds_and_another_seed_others() -> None:
    numbers = range(40)
    first = [round_steps(SoakOptions(minutes=60, seed=1), number) for number in numbers]
    assert first == [round_steps(SoakOptions(minutes=60, seed=1), number) for number in reversed(numbers)][::-1]
    assert first != [round_steps(SoakOptions(minutes=60, seed=2), number) for number in numbers]
    assert len({str(steps) for steps in first}) == len(first), "no round is like another"


@pytest.mark.parametrize("minutes", [0.4, 5, 60])
def test_every_trouble_ends_within_its_round(minutes: float) -> None:
    for seed in range(20):
        options = SoakOptions(minutes=minutes, seed=seed)
        for number in range(20):
            steps = round_steps(options, number)
            assert all(0 <= one.at_s < options.trouble_s for one in steps), f"seed {seed}, round {number}"
            behaviours = [one.behaviour for one in steps if one.behaviour is not None]
            assert behaviours[-1].mode is Mode.NORMAL
            for part in ("near", "far"):
                weathers = [getattr(one, part) for one in steps if getattr(one, part) is not None]
                assert not weathers or weathers[-1] == CALM
            switches = [one.maintenance for one in steps if one.maintenance is not None]
            assert switches in ([], [True, False])


def test_an_hour_has_every_kind_of_trouble_and_a_watch_without_restarts() -> None:
    for seed in range(10):
        options = dataclasses.replace(HOUR, seed=seed)
        counted = {
            one.counted for number in range(options.rounds) for one in round_steps(options, number) if one.counted
        }
        wanted = {"kills", "clean restarts", "maintenance", "callers left", "network of terminals", "network upstream"}
        assert wanted | {f"acquirer {mode}" for mode in Mode if mode is not Mode.NORMAL} <= counted, f"seed {seed}"
        watch = [number for number in range(options.rounds) if on_watch(options, number)]
        assert len(watch) * (options.trouble_s + 8) > 30 * 60, "long enough to judge memory"
        assert watch == list(range(watch[0], watch[-1] + 1))
        restarts = [one for number in watch for one in round_steps(options, number) if one.restart or one.kill_for_s]
        assert not restarts, f"seed {seed}"
        assert any(one.kill_for_s for one in round_steps(options, 0)), "the first round always has a kill"


# --- the records -----------------------------------------------------------------------------------------------------


def told(number: int, event: str = "answered", response: str = "00", **changes: Any) -> TerminalEvent:
    """A line of the history about sale `number`."""
    line = TerminalEvent(
        at=0.0,
        event="sent",
        business="sale",
        terminal="T1",
        merchant="M",
        stan=f"{number:06d}",
        key=f"M/T1/{number:06d}",
        mti="0200",
        attempt=1,
        amount_minor=100,
        currency="156",
    )
    return msgspec.structs.replace(line, event=event, response=response if event == "answered" else "", **changes)


def booked(number: int, **changes: Any) -> LedgerEvent:
    """A line of the ledger about sale `number`."""
    line = LedgerEvent(
        at=0.0,
        act="booked",
        business="sale",
        mti="0200",
        terminal="T1",
        merchant="M",
        stan=f"{number:06d}",
        key=f"M/T1/{number:06d}",
        amount_minor=100,
        currency="156",
        answer="00",
    )
    return msgspec.structs.replace(line, **changes)


class Book:
    """Both files, written by hand."""

    def __init__(self, folder: Path) -> None:
        self.windows = Windows(folder / "history.jsonl", folder / "ledger.jsonl")
        self.windows.history.touch()

    def write(self, *lines: TerminalEvent | LedgerEvent) -> Place:
        """Append lines; where both files end now."""
        for line in lines:
            path = self.windows.history if isinstance(line, TerminalEvent) else self.windows.ledger
            with path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        return self.windows.end()

    def sold(self, number: int) -> Place:
        """A sale as it should be."""
        return self.write(told(number, "sent"), told(number), booked(number))

    def decided(self, queue: list[Owed] | None) -> list[Defect]:
        """What is found in the middle of a round when all that is written so far was there before the listing."""
        end = self.windows.end()
        return [finding.defect for finding in self.windows.decided(end.history, end, queue)]


def defects(findings: Iterable[Finding]) -> list[Defect]:
    """Their kinds."""
    return [finding.defect for finding in findings]


def test_windows_that_are_as_they_should_be_are_counted_once_each(tmp_path: Path) -> None:
    book = Book(tmp_path)
    for number in range(1, 7):
        assert book.windows.settled(book.sold(number), ()) == []
    assert book.windows.counts["transactions"] == 6
    assert book.windows.counts["booked"] == 6


def test_a_second_booking_is_found_in_the_same_window_in_the_next_and_long_after(tmp_path: Path) -> None:
    book = Book(tmp_path)
    assert defects(book.windows.settled(book.sold(1), ())) == []
    doubled = book.write(booked(1))
    assert book.decided([]) == [Defect.DOUBLED], "the window before is still known"
    assert defects(book.windows.settled(doubled, ())) == [Defect.DOUBLED]
    (tmp_path / "old").mkdir()
    old = Book(tmp_path / "old")
    for number in (1, 2, 3):
        assert old.windows.settled(old.sold(number), ()) == []
    assert defects(old.windows.settled(old.write(booked(1)), ())) == [Defect.PHANTOM], "forgotten, but not let through"


def test_in_the_middle_of_a_round_an_approval_is_in_the_queue_or_in_the_ledger_or_it_is_lost(tmp_path: Path) -> None:
    book = Book(tmp_path)
    end = book.write(told(1, "sent"), told(1))
    assert book.decided(None) == [], "nobody could be asked"
    assert book.decided([Owed(key="M/T1/000001", state="stored")]) == [], "it is owed"
    assert book.decided([]) == [Defect.LOST]
    assert defects(book.windows.decided(0, end, [])) == [], "acknowledged only after the queue was listed"
    book.write(booked(1))
    assert book.decided([]) == []


def test_what_still_may_be_settled_is_no_finding_before_the_end_of_a_window(tmp_path: Path) -> None:
    book = Book(tmp_path)
    end = book.write(told(1, "sent"), booked(1))
    assert book.decided([]) == [], "its terminal may still be told"
    assert defects(book.windows.settled(end, ())) == [Defect.UNSETTLED]
    end = book.sold(2)
    assert defects(book.windows.settled(end, [Owed(key="M/T1/000002", state="parked")]))[-1] is Defect.UNSETTLED


def test_a_sale_that_a_person_cancelled_is_not_lost_and_must_not_be_booked(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.windows.decided_by_person("M/T1/000001", ended=True)
    assert book.windows.settled(book.write(told(1, "sent"), told(1)), ()) == []
    assert defects(book.windows.settled(book.write(booked(1)), ())) == [Defect.UNSETTLED]


def test_what_a_person_has_decided_may_come_after_newer_ones_and_nothing_else_may(tmp_path: Path) -> None:
    lines = (told(1, "sent"), told(1), told(2, "sent"), told(2), booked(2), booked(1))
    book = Book(tmp_path)
    assert defects(book.windows.settled(book.write(*lines), ())) == [Defect.OUT_OF_ORDER]
    (tmp_path / "person").mkdir()
    book = Book(tmp_path / "person")
    book.windows.decided_by_person("M/T1/000001", ended=False)
    assert book.windows.settled(book.write(*lines), ()) == []


def test_lines_are_read_between_two_places_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = [msgspec.json.encode(booked(number)) + b"\n" for number in (1, 2, 3)]
    path.write_bytes(b"".join(lines) + lines[0][:20])
    start = len(lines[0])
    read = [one.stan for one in read_between(path, LedgerEvent, start, path.stat().st_size)]
    assert read == ["000002", "000003"]
    assert [one.stan for one in read_between(path, LedgerEvent, start, start + len(lines[1]) + 5)] == ["000002"]


def test_the_acquirers_books_forget_what_is_two_windows_old() -> None:
    books = ForgetfulBooks()
    for number in range(50):
        books.apply(booked(number))
        assert books.net(f"M/T1/{number:06d}") == 1
        books.end_window()
        assert len(books) <= 2
    assert books.booked == 50


# --- samples and the verdict -----------------------------------------------------------------------------------------


def sample(
    at_s: float, *, quiet: bool, rss: int | None = 1000, handles: int = 30, wal: int = 0, sold: int = 0
) -> Sample:
    """A sample with these figures."""
    return Sample(
        at_s=at_s,
        life=1,
        life_s=at_s,
        quiet=quiet,
        rss_bytes=rss,
        handles=handles,
        threads=9,
        journal_bytes=0,
        wal_bytes=wal,
        log_bytes=0,
        queued=0 if quiet else 7,
        transactions=sold,
        bench_rss_bytes=1,
    )


def test_a_window_takes_memory_and_handles_from_quiet_samples_alone(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "samples.jsonl")
    samples.add(sample(1, quiet=False, rss=9000, handles=80, wal=500))
    samples.add(sample(2, quiet=True, rss=1000, handles=31, sold=10))
    samples.add(sample(3, quiet=True, rss=3000, handles=30, sold=10))
    samples.end_window(1.5, 4096)
    samples.add(sample(4, quiet=False, rss=None))
    samples.end_window(1.5, 4096)
    (window,) = samples.windows
    assert (window.rss_bytes, window.handles, window.wal_most_bytes, window.queued_most) == (2000, 30, 500, 7)
    assert window.transactions == 10
    assert len((tmp_path / "samples.jsonl").read_bytes().splitlines()) == 4, "nothing was quiet, but all is kept"


def test_proc_tells_what_this_process_uses_and_nothing_of_one_that_is_not_there() -> None:
    used = usage_of(os.getpid())
    assert used is not None
    assert used.rss_bytes > 1 << 20
    with Path("/dev/null").open("rb"):
        more = usage_of(os.getpid())
    assert more is not None
    assert more.handles == used.handles + 1
    assert usage_of(1 << 22) is None


def held() -> SoakResult:
    """A result with nothing wrong."""
    result = SoakResult(SoakOptions(seed=7))
    result.counts.update(acknowledged=1, booked=1)
    result.windows = [msgspec.convert({**dict.fromkeys(Window.__struct_fields__, 1)}, Window)]
    return result


def test_the_verdict_says_no_to_a_finding_a_problem_growth_and_a_soak_that_sold_nothing() -> None:
    assert held().held
    assert not SoakResult(SoakOptions()).held
    assert headline(SoakResult(SoakOptions())).startswith("SHOWS NOTHING")
    broken = held()
    broken.findings, broken.failed_at_s = [Finding(Defect.LOST, "M/T/1", "shown")], 12.0
    assert not broken.held
    assert headline(broken) == "BROKEN after 12.0 s, seed 7"
    assert broken.json()["lost"] == 1
    stuck = held()
    stuck.problems = ["the queue was not empty"]
    assert not stuck.held
    early = held()
    early.ended_early = True
    assert early.held
    assert headline(early).startswith("ENDED EARLY, HELD")


def test_a_sparkline_is_as_wide_as_it_may_be_and_shows_the_most() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([0.0, 7.0]) == "▁█"
    line = sparkline([1.0] * 999 + [100.0], width=10)
    assert len(line) == 10
    assert line[-1] == "█"


def test_weather_for_lines_of_bytes_loses_and_reorders_none() -> None:
    for options in (dataclasses.replace(HOUR, seed=seed) for seed in range(5)):
        for number in range(options.rounds):
            for one in round_steps(options, number):
                if one.near is not None:
                    stream = of_streams(one.near)
                    assert stream.drop_reply == stream.late_reply == 0


# --- real soaks ------------------------------------------------------------------------------------------------------


def options(folder: Path, seed: int, minutes: float = 0.4) -> SoakOptions:
    """A soak that a test has time for."""
    return SoakOptions(minutes=minutes, terminals=6, tills=2, seed=seed, keep=Path(os.path.relpath(folder)))


@pytest.mark.timeout(200)
def test_a_soak_with_kills_holds_and_looked_all_the_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = 3
    report = tmp_path / "report.json"
    code = soak.run(options(tmp_path / "run", seed), report)
    shown = capsys.readouterr().out
    assert code == 0, f"seed {seed}\n{shown}"
    got = json.loads(report.read_text())
    assert got["held"], f"seed {seed}"
    assert [got[defect.value] for defect in Defect] == [0] * len(Defect)
    assert got["events"]["kills"] >= 1
    assert got["rounds"] == len(got["windows"]) >= 2
    assert got["checks"] > got["rounds"], "also in the middle of rounds"
    assert got["acknowledged"] > 20
    assert "HELD" in shown
    assert "too short to judge resident memory" in shown
    assert {"first", "last", "most"} == set(got["figures"]["handles, idle"])
    history = (tmp_path / "run" / "history.jsonl").read_bytes()
    assert b'"H0000001"' in history, "a till sold"
    assert b'"T0000001"' in history, "a terminal sold"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("sabotage", "expected"), [("doubled", Defect.DOUBLED), ("dropped", Defect.LOST)])
def test_a_ledger_line_that_is_doubled_or_dropped_stops_the_soak_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sabotage: str,
    expected: Defect,
) -> None:
    """What the checker sees of bookings is falsified from the 20th acknowledged one on; the gateway does no wrong."""
    acknowledged: dict[str, None] = {}

    def falsified(path: Path, kind: type[Any], start: int, end: int) -> Iterator[Any]:
        for line in read_between(path, kind, start, end):
            if isinstance(line, TerminalEvent) and line.response == "00" and line.business == "sale":
                acknowledged.setdefault(line.key)
            if isinstance(line, TerminalEvent) and line.business == "reversal":
                acknowledged.pop(line.original, None)  # undone by its terminal: without its booking it is not lost
            hit = isinstance(line, LedgerEvent) and line.act == "booked" and line.key in list(acknowledged)[19:]
            if not (hit and sabotage == "dropped"):
                yield line
            if hit and sabotage == "doubled":
                yield line

    monkeypatch.setattr(soak_windows, "read_between", falsified)
    seed = 4
    report = tmp_path / "report.json"
    folder = tmp_path / "run"
    assert soak.run(options(folder, seed, minutes=2), report) == 1
    shown = capsys.readouterr().out
    got = json.loads(report.read_text())
    assert got[expected.value] >= 1, f"seed {seed}\n{shown}"
    assert got["minutes"] < 1, "it did not go on"
    assert f"seed {seed}" in shown
    assert "BROKEN after" in shown
    assert all((folder / name).stat().st_size for name in ("history.jsonl", "ledger.jsonl", "samples.jsonl"))


@pytest.mark.timeout(200)
def test_a_network_that_never_heals_breaks_the_bound_within_which_everything_must_settle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def stay_ill(networks: Networks) -> None:
        await networks.far_weather(Weather(refuse=1))

    monkeypatch.setattr(Networks, "heal", stay_ill)
    monkeypatch.setattr(soak, "SETTLE_WITHIN_S", 3.0)
    assert soak.run(options(tmp_path / "run", 8, minutes=2), None) == 1
    shown = capsys.readouterr().out
    assert "3 s after healing" in shown, "either the queue is not empty, or the link is not up"
    assert "BROKEN after" in shown


@pytest.mark.timeout(200)
def test_a_gateway_that_ends_by_itself_stops_the_soak_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Gateway.start

    def die(gateway: Gateway, pid: int) -> None:
        if gateway.running and gateway.pid == pid:  # the soak may have killed it
            os.kill(pid, signal.SIGABRT)

    async def start_and_die(gateway: Gateway, ready_within_s: float = 20.0) -> None:
        await start(gateway, ready_within_s)
        asyncio.get_running_loop().call_later(1.5, die, gateway, gateway.pid)

    monkeypatch.setattr(Gateway, "start", start_and_die)
    assert soak.run(options(tmp_path / "run", 5, minutes=2), None) == 1
    shown = capsys.readouterr().out
    assert "ended by itself" in shown or "ended while it drained" in shown, shown
    assert "operations: http://" in shown, "its log"


@pytest.mark.timeout(200)
def test_an_interruption_ends_the_round_judges_it_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Gateway.start

    async def start_and_interrupt(gateway: Gateway, ready_within_s: float = 20.0) -> None:
        await start(gateway, ready_within_s)
        if gateway.starts == 1:
            asyncio.get_running_loop().call_later(3.0, os.kill, os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Gateway, "start", start_and_interrupt)
    report = tmp_path / "report.json"
    code = soak.run(options(tmp_path / "run", 6, minutes=10), report)
    shown = capsys.readouterr().out
    assert code == 0, shown
    got = json.loads(report.read_text())
    assert got["ended_early"]
    assert got["rounds"] == len(got["windows"]) == 1
    assert got["acknowledged"] > 0
    assert "ENDED EARLY, HELD" in shown
