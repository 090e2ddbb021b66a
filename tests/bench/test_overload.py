"""The overload run: it works end to end, and its verdict says no where it must."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import msgspec
import pytest

from bench.history import Defect, Finding, check
from bench.overload import OverloadOptions, headline, report, run
from bench.overload_crowd import Phase, Second, Shown, Tally
from bench.overload_frames import CARD, Frames, HttpAnswers, HttpSales, IsoAnswers
from bench.overload_records import ANSWERED, SENT, Outcome, amount_minor, history, packed, unpacked
from bench.overload_verdict import MEMORY_MIB_MAX, STOOD_IN, Played, Scenario, without_owed
from bench.records import LedgerEvent, card_hash, card_mask, read_lines
from bench.till import MERCHANT
from gateway.core.answers import local_answer
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

DIALECT = load_dialect("unionpay")


def shown(name: str, times: float, *p99_ms: float | None, sent: int = 1_000, refused: int = 0) -> Shown:
    """A phase of ten seconds."""
    seconds = [Second(approved=50, refused=0, p99_ms=each) for each in p99_ms]
    return Shown(
        name=name, times=times, seconds=10.0, sent=sent, approved=500, refused=refused, refused_ms=(5.0, 20.0),
        by_second=seconds,
    )  # fmt: skip


def played() -> Played:
    """What holds: 100 sales a second, ten times as many offered, normal again in the second second."""
    return Played(
        scenario=Scenario.ANSWERING,
        capacity_per_s=100.0,
        phases=[
            shown("capacity", 0, 10.0),
            shown("normal", 0.5, 10.0, 12.0, 11.0),
            shown("flood", 10, 900.0, sent=10_000, refused=9_000),
            shown("after the flood", 0.5, 300.0, 20.0, 11.0),
            shown("after the storm", 0.5, 11.0, 11.0, 11.0),
        ],
        memory_mib={"flood": [100.0] * 30},
    )


def test_a_run_that_refuses_and_recovers_holds() -> None:
    one = played()
    assert one.problems() == []
    assert one.normal_ms == 12.0
    assert one.recovered_after_s("after the flood") == 1
    assert report(OverloadOptions(), [one])["held"]
    flood = one.phase("flood")
    assert flood is not None
    assert one.offered_times(flood) == 10.0
    one.phases[2] = msgspec.structs.replace(flood, sent=3_700)
    assert headline(10.0, [one], held=True) == "HELD: 10 times the capacity wanted, 3.7 offered"


def test_what_does_not_recover_in_five_seconds_is_a_no() -> None:
    one = played()
    one.phases[3] = shown("after the flood", 0.5, *[251.0] * 6, 11.0, 11.0)
    assert one.recovered_after_s("after the flood") == 6
    assert len(one.problems()) == 1
    one.phases[3] = shown("after the flood", 0.5, 11.0, 251.0, 11.0, 251.0)
    assert one.recovered_after_s("after the flood") is None, "one good second is not normal again"
    one.phases[3] = shown("after the flood", 0.5, 11.0, None, None)
    assert one.recovered_after_s("after the flood") is None
    one.phases[3] = shown("after the flood", 0.5, 11.0, 11.0, 11.0)
    one.phases[3].by_second[0].refused = 1
    assert one.recovered_after_s("after the flood") == 1, "who is refused has not recovered"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"silent": 1}, "1 sales were met with silence"),
        ({"refused": 0}, "nothing was refused"),
        ({"approved": 0}, "nothing was approved in the flood"),
        ({"refused_ms": (10.0, 60_000.0)}, "refusals came late"),
        ({"sent": 1_900}, "only 1.9 times the capacity could be offered"),
    ],
)
def test_each_thing_that_is_wrong_in_the_flood_is_a_no(change: dict[str, object], said: str) -> None:
    one = played()
    one.phases[2] = msgspec.structs.replace(one.phases[2], **change)
    assert len(one.problems()) == 1
    assert said in one.problems()[0]


def test_memory_closed_connections_strange_answers_and_findings_are_each_a_no() -> None:
    one = played()
    one.memory_mib = {"flood": [MEMORY_MIB_MAX + 1] * 30}
    one.lost_connections, one.unmatched = 1, 1
    one.findings = [Finding(Defect.LOST, "m/t/1", "told 00, but booked 0")]
    one.troubles = ["interrupted"]
    assert len(one.problems()) == 5
    one = played()
    one.counted = {STOOD_IN: 3}
    assert one.problems() == ["3 sales were approved without the acquirer, which answered"]
    one.scenario = Scenario.AWAY
    assert one.problems() == []
    one = played()
    one.memory_mib = {"flood": [100.0 + 3 * number for number in range(60)]}
    assert "no plateau" in one.problems()[0]
    one.memory_mib = {"flood": [100.0 + number for number in range(20)] + [120.0] * 40}
    assert one.problems() == []


def test_what_is_owed_is_not_lost_but_what_is_neither_owed_nor_booked_is() -> None:
    queued = Finding(Defect.UNSETTLED, "m/t/1", "still in the gateway's queue: stored")
    told_no = Finding(Defect.UNSETTLED, "m/t/2", "told 96, but booked 1, reversed 0 times")
    lost = Finding(Defect.LOST, "m/t/3", "told 00, but booked 0, reversed 0 times")
    assert without_owed([queued, told_no, lost], frozenset({"m/t/1", "m/t/2"})) == [told_no, lost]


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_a_frame_that_was_patched_is_the_sale_that_it_says() -> None:
    frames = Frames()
    for terminal, stan in ((0, 1), (19_999, 999_999), (9_000_039, 42)):
        (frame,) = DIALECT.framing.reader().feed(frames.sale(terminal, stan))
        fields = DIALECT.codec.decode(frame).fields
        assert (fields[41], fields[11]) == (f"T{terminal:07}", f"{stan:06}")
        assert int(fields[4]) == amount_minor(terminal, stan)
        assert int(fields[4]) % 100 == 0


def test_answers_are_read_as_the_gateway_writes_them_however_they_are_cut() -> None:
    (frame,) = DIALECT.framing.reader().feed(Frames().sale(77, 4321))
    asked = DIALECT.codec.decode(frame)
    stream = b""
    for code, approval in (("96", ""), ("00", "123456")):
        answer = local_answer("0200", asked.fields, code, DIALECT.terminal, 0, approval=approval, stan=asked.fields[11])
        stream += DIALECT.framing.wrap(
            DIALECT.codec.encode(Message(answer.mti, answer.fields, asked.tpdu, asked.header))
        )
    expected = [(77, 4321, "96"), (77, 4321, "00")]
    assert list(IsoAnswers().feed(stream)) == expected
    cut = IsoAnswers()
    assert [each for number in range(len(stream)) for each in cut.feed(stream[number : number + 1])] == expected
    with pytest.raises(ValueError, match="without terminal"):
        list(IsoAnswers().feed(b"\x00\x02ab"))


def test_http_refusals_must_be_problem_details_that_say_when_to_come_again() -> None:
    body = b"{}"
    proper = b"HTTP/1.1 503 X\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n"
    bare = b"HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n"
    waits = b'{"type":"urn:holdfast:problem:in-progress"}'
    conflict = proper.replace(b"503", b"409").replace(b"Length: 2", b"Length: %d" % len(waits))
    paid = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"response_code":"00"}'
    answers = HttpAnswers()
    stream = proper + body + bare + body + conflict + waits + conflict + waits.replace(b"progress", b"conflict") + paid
    found = [each for number in range(len(stream)) for each in answers.feed(stream[number : number + 1])]
    assert found == [
        (Outcome.REFUSED, "http 503"), (Outcome.OTHER, "http 503"), (Outcome.REFUSED, "http 409"),
        (Outcome.OTHER, "http 409"), (Outcome.APPROVED, "00"),
    ]  # fmt: skip
    assert [Outcome.of_code(code) for code in ("96", "09", "05")] == [Outcome.REFUSED, Outcome.REFUSED, Outcome.OTHER]
    assert HttpSales(9_000_001).sale(3) == HttpSales(9_000_001).sale(3)


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_record_holds_what_happened() -> None:
    for record in ((SENT, 0, 1, ""), (ANSWERED, 9_999_999, 999_999, "00"), (ANSWERED, 1, 2, "96")):
        assert unpacked(packed(*record)) == record


def booked(terminal: int, stan: int) -> LedgerEvent:
    """The acquirer's line of a sale."""
    name = f"T{terminal:07}"
    return LedgerEvent(
        at=0.0, act="booked", business="sale", mti="0200", terminal=name, merchant=MERCHANT, stan=f"{stan:06}",
        key=f"{MERCHANT}/{name}/{stan:06}", amount_minor=amount_minor(terminal, stan), currency="156",
        card=card_mask(CARD), card_hash=card_hash(CARD), answer="00",
    )  # fmt: skip


def judged(tmp_path: Path, records: list[int], *ledger: LedgerEvent) -> list[tuple[Defect, str]]:
    """What the checker says of records and a ledger."""
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in ledger))
    events = history(array("Q", records), path, CARD, MERCHANT)
    return [(f.defect, f.key[-6:]) for f in check(events, read_lines(path, LedgerEvent)).findings]


def test_the_checker_is_told_of_everything_that_may_be_wrong(tmp_path: Path) -> None:
    def sale(stan: int, *codes: str) -> list[int]:
        return [packed(SENT, 5, stan, ""), *(packed(ANSWERED, 5, stan, code) for code in codes)]

    good = [*sale(1, "00"), *sale(2, "96"), *sale(2, "00"), *sale(3, "96")]
    assert judged(tmp_path, good, booked(5, 1), booked(5, 2)) == []
    assert judged(tmp_path, sale(1, "00")) == [(Defect.LOST, "000001")]
    assert judged(tmp_path, sale(1, "96"), booked(5, 1)) == [(Defect.UNSETTLED, "000001")]
    assert judged(tmp_path, sale(1, "00"), booked(5, 1), booked(5, 1)) == [(Defect.DOUBLED, "000001")]
    assert judged(tmp_path, [], booked(5, 1)) == [(Defect.PHANTOM, "000001")]
    assert judged(tmp_path, [*sale(1, "09"), *sale(1, "00"), *sale(2, "09")], booked(5, 1)) == []
    assert judged(tmp_path, sale(1, "09"), booked(5, 1)) == [], "it promised nothing: the terminal asks again"
    assert judged(tmp_path, sale(1, "00", "09")) == [(Defect.LOST, "000001")]
    assert judged(tmp_path, [*sale(1, "09"), *sale(1, "96")], booked(5, 1)) == [(Defect.UNSETTLED, "000001")]
    assert judged(tmp_path, sale(1), booked(5, 1)) == [], "its terminal reverses it; the silence is counted elsewhere"


def test_a_tally_enters_each_answer_under_the_second_of_its_sale() -> None:
    tally = Tally(Phase(name="normal", seconds=3, times=0.5))
    tally.began = 100.0
    tally.answered(100.5, 100.51, Outcome.APPROVED, "00")
    tally.answered(102.5, 104.5, Outcome.APPROVED, "00")
    tally.answered(101.0, 101.1, Outcome.REFUSED, "96")
    told = tally.finished()
    assert [(s.approved, s.refused) for s in told.by_second] == [(1, 0), (0, 1), (1, 0)]
    assert [s.p99_ms for s in told.by_second] == [10.0, None, 2000.0]
    assert (told.approved, told.refused, told.codes) == (2, 1, {"00": 2, "96": 1})


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_a_small_run_works_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "overload.json"
    options = OverloadOptions(
        seconds=2,
        capacity_s=1,
        normal_s=1,
        after_s=1,
        storm_s=1,
        connections=60,
        terminals=8_000,
        closed_loop=100,
        drain_s=5,
    )
    code = run(options, path)
    text = capsys.readouterr().out
    told = json.loads(path.read_text())
    assert code == (0 if told["held"] else 1)
    assert list(told["scenarios"]) == ["answering", "away"]
    for scenario in told["scenarios"].values():
        # How fast it all goes is this machine's affair while other tests run on it.
        timing = (
            "shows nothing: only",
            "p99 was not within",
            "refusals came late",
            "shows nothing: nothing was refused",
        )
        assert [problem for problem in scenario["problems"] if not any(words in problem for words in timing)] == []
        assert scenario["capacity_per_s"] > 0
        assert scenario["phases"]["flood"]["approved"] > 0
        assert all(phase["silent"] == 0 for phase in scenario["phases"].values())
        assert scenario["history"]["acknowledged"] > 100
        assert scenario["history"]["lost"] == scenario["history"]["doubled"] == scenario["history"]["changed"] == 0
        assert set(scenario["memory_mib"]) >= {"flood", "after the flood"}
    assert told["scenarios"]["answering"]["owed_at_the_end"] == 0
    away = told["scenarios"]["away"]  # what was booked and not answered is owed all the same
    assert away["history"]["acknowledged"] <= away["history"]["booked"] + away["owed_at_the_end"]
    assert ("HELD" if told["held"] else "BROKEN") in text
