"""Whose answer is it: matching by itself, with a model of a host that answers late, twice, or never."""

from __future__ import annotations

import random

import pytest

from gateway.acquirers.matching import Flight, Late, Matching, NoFlight
from gateway.core.effects import Purpose
from protocol.iso8583.message import Fields
from protocol.iso8583.mti import answer_mti
from protocol.iso8583.rules import HostRules

AGE_MS = 1_000


def matching(*, abandoned_max: int = 100, rules: HostRules | None = None) -> Matching:
    return Matching(rules or HostRules(), abandoned_max=abandoned_max, abandoned_age_ms=AGE_MS)


def fields(stan: int, **more: str) -> Fields:
    made = {4: "000000001000", 11: f"{stan:06}", 41: "T0000001", 42: "M00000000000001"}
    made.update({int(name[1:]): value for name, value in more.items()})
    return made


def flight(m: Matching, token: int, sent: Fields, now_ms: int = 0, timeout_ms: int = 100, mti: str = "0200") -> Flight:
    made = Flight(
        token=token,
        purpose=Purpose.REQUEST,
        key=m.key(answer_mti(mti), sent),
        endpoint=0,
        fields=sent,
        timeout_ms=timeout_ms,
        deadline_ms=now_ms + timeout_ms,
    )
    m.add(made)
    return made


def refusal(m: Matching, sent: Fields, now_ms: int, purpose: Purpose = Purpose.REQUEST) -> str:
    return m.refusal(m.key("0210", sent), sent, purpose, now_ms)


def test_an_abandoned_key_is_closed_to_others_until_it_ages_out() -> None:
    m = matching()
    flight(m, 1, fields(1))
    assert [f.token for f in m.expire(100)] == [1]
    other = fields(1, f4="000000002000")
    assert refusal(m, other, 100)
    assert refusal(m, other, 100 + AGE_MS - 1)
    assert not refusal(m, other, 100 + AGE_MS)
    assert m.answered(m.key("0210", other), 100 + AGE_MS) is NoFlight.UNKNOWN


def test_the_key_of_a_late_answer_stays_closed_because_a_second_one_may_follow() -> None:
    m = matching()
    flight(m, 1, fields(1))
    list(m.expire(100))
    assert m.answered(m.key("0210", fields(1)), 200) == Late(1)
    assert refusal(m, fields(1, f4="000000002000"), 300)
    assert m.answered(m.key("0210", fields(1)), 300) is NoFlight.DUPLICATE


def test_a_repeat_may_differ_in_mac_reason_and_refreshed_fields_and_may_know_more_or_less() -> None:
    m = matching(rules=HostRules(repeat_refresh=frozenset({7}), reason_field=39))
    flight(m, 1, fields(1, f7="1121120000", f35="4111111111111111=2512", f39="98", f64="00" * 8))
    list(m.expire(100))
    assert not refusal(m, fields(1, f7="1121120100", f38="123456", f39="96", f64="11" * 8), 200)
    assert refusal(m, fields(1, f35="4000000000000002=2512"), 200)


def test_a_probe_may_use_its_key_again_whatever_it_carries() -> None:
    m = matching()
    flight(m, 1, fields(1, f7="1121120000"))
    list(m.expire(100))
    assert refusal(m, fields(1, f7="1121120001"), 200, Purpose.INQUIRY)
    assert not refusal(m, fields(1, f7="1121120001"), 200, Purpose.PROBE)


def test_over_the_limit_the_oldest_abandoned_key_is_forgotten_and_counted() -> None:
    m = matching(abandoned_max=2)
    for token in (1, 2, 3):
        flight(m, token, fields(token), now_ms=token)
    assert [f.token for f in m.expire(200)] == [1, 2, 3]
    assert (m.abandoned, m.evicted) == (2, 1)
    assert m.answered(m.key("0210", fields(1)), 201) is NoFlight.UNKNOWN
    assert m.answered(m.key("0210", fields(3)), 201) == Late(3)


def test_deadlines_come_in_order_whatever_the_timeouts() -> None:
    m = matching()
    for token, timeout_ms in enumerate([500, 100, 300, 100, 200], start=1):
        flight(m, token, fields(token), timeout_ms=timeout_ms)
    assert m.next_deadline_ms() == 100
    assert {f.token for f in m.expire(250)} == {2, 4, 5}
    assert m.next_deadline_ms() == 300
    assert [f.token for f in m.lost(0, 260)] == [1, 3]
    assert (len(m), m.next_deadline_ms()) == (0, None)


def test_a_key_cannot_be_in_flight_twice() -> None:
    m = matching()
    flight(m, 1, fields(1))
    assert refusal(m, fields(1), 0) == "match key in flight"
    with pytest.raises(RuntimeError, match="twice"):
        flight(m, 2, fields(1))


@pytest.mark.parametrize("seed", range(60))
def test_no_answer_is_ever_given_to_another_transaction(seed: int) -> None:
    """Few STANs, much reuse, a host that answers each message 0 to 2 times, up to almost the age limit late."""
    random_ = random.Random(seed)
    m = matching(abandoned_max=1_000)
    now_ms = 0
    amount_of: dict[int, str] = {}
    settled: dict[int, list[str]] = {}
    answers: list[tuple[int, Fields]] = []  # (when, what the host says)
    for token in range(1, 400):
        now_ms += random_.randrange(40)
        due = sorted((a for a in answers if a[0] <= now_ms), key=lambda a: a[0])
        answers = [a for a in answers if a[0] > now_ms]
        for at_ms, said in due:
            for lapsed in m.expire(at_ms):
                settled[lapsed.token].append("timed out")
            found = m.answered(m.key("0210", said), at_ms)
            if isinstance(found, Flight | Late):
                assert said[4] == amount_of[found.token], f"seed {seed}, token {found.token}"
                settled[found.token].append("late" if isinstance(found, Late) else "answered")
        for lapsed in m.expire(now_ms):
            settled[lapsed.token].append("timed out")
        sent = fields(random_.randrange(4), f4=f"{random_.randrange(3):012}")
        if refusal(m, sent, now_ms):
            continue
        amount_of[token], settled[token] = sent[4], []
        flight(m, token, sent, now_ms)
        delays = [random_.randrange(1, AGE_MS // 2) for _ in range(random_.choice([0, 1, 1, 2]))]
        # A second answer to what was answered in time is beyond any bound; this host sends it at once.
        first = min(delays, default=0)
        answers += [(now_ms + (first + 1 if first < 100 else delay), dict(sent)) for delay in delays[1:]]
        answers += [(now_ms + first, dict(sent))] if delays else []
    assert sum("late" in told for told in settled.values()) > 0
    for told in settled.values():
        assert told in ([], ["answered"], ["timed out"], ["timed out", "late"]), f"seed {seed}"
