"""Retries: the stored outcome, before, during and after a restart, and never a second send (D2, D3, INV-2, INV-6)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.effects import Purpose
from gateway.core.events import OperatorAct
from gateway.core.lifecycle import State
from gateway.core.retries import JOINED_MAX
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import Period, TerminalRules
from tests.core.acquirer import APPROVES, DECLINES, SILENT_BOOKED, SILENT_LOST, Mood, answers
from tests.core.messages import MASTERCARD, key, reversal, sale
from tests.core.world import START_UTC_MS, World

HORIZON = replace(TerminalRules(), period=Period.HORIZON)
BEFORE_MIDNIGHT_MS = START_UTC_MS + 43_195_000


@pytest.mark.parametrize("restarted", ["no", "while-the-link-is-away", "and-up-again"])
@pytest.mark.parametrize(
    ("mood", "told"), [(APPROVES, "00"), (DECLINES, "51"), (SILENT_BOOKED, "68"), (answers("91", books=True), "91")]
)
def test_inv_6_a_retry_gets_the_same_answer_before_and_after_a_restart(mood: Mood, told: str, restarted: str) -> None:
    world = World()
    world.acquirer.moods.append(mood)
    first = world.ask("0200", sale())
    world.run()
    world.advance(60_000)
    if restarted != "no":
        world.crash_and_restart(up=restarted == "and-up-again")
    again = world.ask("0201", sale())
    world.run()
    assert world.code(first) == told
    assert world.told[first].answer == world.told[again].answer
    assert [send.purpose for send in world.sends].count(Purpose.REQUEST) == 1
    world.up()
    world.check_settled()


def test_inv_6_a_retry_of_a_stand_in_gets_its_approval_while_it_is_stored_replayed_and_taken() -> None:
    world = World(up=False)
    first = world.ask("0200", sale())
    world.run()
    tokens = [world.ask("0201", sale())]
    world.run()
    world.crash_and_restart(up=False)
    tokens.append(world.ask("0201", sale()))
    world.run()
    world.acquirer.moods.append(Mood(after_ms=1_000))
    world.up()
    tokens.append(world.ask("0201", sale()))  # its advice is in flight
    world.run()
    world.advance(1_000)
    tokens.append(world.ask("0201", sale()))
    world.run()
    assert all(world.told[token].answer == world.told[first].answer for token in tokens)
    world.check_settled()


def test_d3_a_retry_of_a_request_in_flight_waits_for_its_outcome_and_sends_nothing() -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=5_000))
    first = world.ask("0200", sale())
    world.settle_journal()
    again = world.ask("0201", sale())
    world.run()
    assert (world.code(first), world.code(again)) == ("", "")
    world.advance(5_000)
    assert world.told[first].answer == world.told[again].answer
    assert len(world.sends) == 1
    world.check_settled()


def test_d3_a_retry_before_the_first_commit_waits_for_it_too() -> None:
    world = World()
    tokens = [world.ask("0200", sale()), world.ask("0201", sale())]
    world.run()
    assert [world.code(token) for token in tokens] == ["00", "00"]
    assert len(world.journal.rows) == 1
    world.check_settled()


def test_d3_so_many_retries_wait_for_one_outcome_and_no_token_is_left_without_an_answer() -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=5_000))
    tokens = [world.ask("0200", sale()) for _ in range(JOINED_MAX + 3)]
    world.settle_journal()
    assert [world.code(token) for token in tokens[JOINED_MAX:]] == ["09"] * 3, "who came first is not sent away"
    world.advance(5_000)
    assert [world.code(token) for token in tokens[:JOINED_MAX]] == ["00"] * JOINED_MAX
    world.check_settled()


@pytest.mark.parametrize("keep", [0, 1])
def test_d7_a_retry_after_a_crash_before_the_answer_is_told_68_and_the_reversal_is_owed(keep: int) -> None:
    world = World()
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", sale())
    world.settle_journal()
    world.crash_and_restart(keep=keep)
    token = world.ask("0201", sale())
    world.run()
    assert world.code(token) == "68"
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED
    world.check_settled()


def test_d7_a_retry_while_recovery_is_being_written_is_in_progress_and_told_nothing_that_is_not_durable() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", sale())
    world.settle_journal()
    world.crash()
    world.restart()
    token = world.ask("0201", sale())
    assert world.code(token) == "09"
    world.run()
    later = world.ask("0201", sale())
    world.run()
    assert world.code(later) == "68"


def test_d5_a_crash_before_the_first_commit_leaves_nothing_and_the_retry_is_the_first_time() -> None:
    world = World()
    world.ask("0200", sale())
    world.crash_and_restart(keep=0)
    assert not world.journal.rows
    token = world.ask("0201", sale())
    world.run()
    assert world.code(token) == "00"
    world.check_settled()


@pytest.mark.parametrize("keep", [0, 1])
def test_inv_1_a_crash_between_answer_and_commit_leaves_what_was_not_told_reversed(keep: int) -> None:
    world = World()
    first = world.ask("0200", sale())
    world.settle_journal()
    world.deliver()
    assert len(world.writes) == 1
    world.crash_and_restart(keep=keep)
    again = world.ask("0201", sale())
    world.run()
    assert world.code(first) == ""
    assert world.code(again) == ("00" if keep else "68")
    world.advance(60_000)
    world.check_settled()


@pytest.mark.parametrize("changed", [{4: "000000000001"}, {2: MASTERCARD}], ids=["amount", "card"])
@pytest.mark.parametrize("when", ["in-flight", "stored", "replaying", "settled"])
def test_d2_the_same_key_with_another_fingerprint_is_told_94_and_nothing_is_sent(
    changed: dict[int, str], when: str
) -> None:
    world = World(up=when in {"in-flight", "settled"})
    world.acquirer.moods.append(Mood(after_ms=5_000) if when in {"in-flight", "replaying"} else APPROVES)
    world.ask("0200", sale())
    if when == "in-flight":
        world.settle_journal()
    else:
        world.run()
    if when == "replaying":
        world.up()
    sent = len(world.sends)
    token = world.ask("0200", sale() | changed)
    world.run()
    assert world.code(token) == "94"
    assert world.alarms[-1].code == "key-reused"
    assert len(world.sends) == sent
    assert len(world.journal.rows) == 1
    world.up()
    world.advance(10_000)
    world.check_settled()


@pytest.mark.parametrize("when", ["in-flight", "settled"])
def test_d2_an_advice_under_the_key_of_a_request_is_no_retry_of_it(when: str) -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=5_000) if when == "in-flight" else APPROVES)
    world.ask("0200", sale())
    world.settle_journal()
    if when == "settled":
        world.run()
    token = world.ask("0220", sale())
    world.run()
    assert world.code(token) == "94"


def test_d1_a_retry_across_midnight_meets_the_same_transaction_within_the_horizon() -> None:
    world = World(rules=HORIZON)
    first = world.ask("0200", sale())
    world.run()
    world.advance(23 * 3_600_000)
    again = world.ask("0201", sale())
    world.run()
    assert world.told[first].answer == world.told[again].answer
    assert len(world.journal.rows) == 1


@pytest.mark.parametrize(("mti", "repeated"), [("0200", "0201"), ("0100", "0101"), ("0220", "0221")])
@pytest.mark.parametrize("when", ["at once", "answered", "restarted", "offline"])
def test_d1_a_repeat_behind_midnight_with_the_new_date_is_no_second_charge(mti: str, repeated: str, when: str) -> None:
    world = World(utc_ms=BEFORE_MIDNIGHT_MS, up=when != "offline")
    first = world.ask(mti, sale())
    if when != "at once":
        world.run()
    world.advance(10_000, run=when != "at once")
    if when == "restarted":
        world.crash_and_restart()
    again = world.ask(repeated, sale() | {7: "1122000005", 13: "1122"})
    world.run()
    assert world.told[again].answer == world.told[first].answer
    assert world.code(again) == "00"
    world.up()
    world.advance(60_000)
    assert len(world.journal.rows) == len(world.acquirer.booked) == 1
    assert [send.message.mti for send in world.sends if send.message.fields[13] == "1122"] == []
    world.check_settled()


@pytest.mark.parametrize(
    ("day", "next_day", "year"),
    [
        ("1121", "1122", 2025),
        ("1231", "0101", 2025),
        ("0228", "0301", 2025),
        ("0228", "0229", 2028),
        ("0229", "0301", 2028),
    ],
)
def test_d15_a_sale_whose_repeat_came_behind_midnight_is_undone_by_the_reversal_of_the_repeat(
    day: str, next_day: str, year: int
) -> None:
    before = datetime.strptime(f"{year}{day}235955", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    world = World(utc_ms=int(before.timestamp() * 1000))
    world.ask("0200", sale() | {7: f"{day}235955", 13: day})
    world.run()
    world.advance(10_000)
    repeat = sale() | {7: f"{next_day}000005", 13: next_day}
    world.ask("0201", repeat)
    world.run()
    token = world.ask("0400", reversal(repeat, 2))
    world.run()
    world.advance(60_000)
    assert world.code(token) == "00"
    assert [row.transaction.state for row in world.journal.rows.values()] == [State.REVERSED, State.APPROVED]
    world.check_settled()


@pytest.mark.parametrize(
    ("mti", "after_ms", "changed"),
    [("0200", 10_000, {}), ("0201", 3_600_000, {}), ("0201", 10_000, {4: "000000001001"}), ("0221", 10_000, {})],
    ids=["no repeat", "an hour later", "amount", "kind"],
)
def test_d4_the_same_stan_on_the_next_day_is_another_transaction(mti: str, after_ms: int, changed: Fields) -> None:
    world = World(utc_ms=BEFORE_MIDNIGHT_MS)
    world.ask("0200", sale())
    world.run()
    world.advance(after_ms)
    world.ask(mti, sale() | {7: "1122000005", 13: "1122"} | changed)
    world.run()
    assert len(world.journal.rows) == 2


def test_d1_a_repeat_of_a_repeat_behind_midnight_is_told_the_same() -> None:
    world = World(utc_ms=BEFORE_MIDNIGHT_MS)
    world.advance(10_000)
    tokens = [world.ask("0201", sale() | {7: "1122000005", 13: "1122"}) for _ in range(2)]
    world.run()
    tokens.append(world.ask("0201", sale() | {7: "1122000105", 13: "1122"}))
    world.run()
    assert [world.code(token) for token in tokens] == ["00"] * 3
    assert len(world.journal.rows) == 1


def test_d4_the_same_stan_beyond_the_horizon_is_a_new_transaction() -> None:
    world = World(rules=HORIZON)
    world.ask("0200", sale())
    world.run()
    world.advance(25 * 3_600_000)
    world.acquirer.outcomes.clear()
    again = world.ask("0200", sale())
    world.run()
    assert world.code(again) == "00"
    assert len(world.journal.rows) == 2


def test_d4_also_while_the_older_one_is_being_replayed() -> None:
    world = World(rules=HORIZON, up=False)
    world.ask("0200", sale())
    world.run()
    world.advance(25 * 3_600_000)
    world.acquirer.moods.append(SILENT_LOST)
    world.up()
    assert [send.purpose for send in world.sends] == [Purpose.ADVICE]
    world.ask("0200", sale(1, 77))  # the old one is in flight: another sale with the STAN of 25 hours ago
    world.run()
    world.advance(3_000)
    assert world.code(2) == "00"
    assert len(world.journal.rows) == 2


def owed_twice(world: World) -> None:
    """Two advices of one key, 25 hours apart, while the link is down."""
    for amount, later_ms in ((1_000, 25 * 3_600_000), (77, 0)):
        token = world.ask("0220", sale(1, amount))
        world.run()
        assert world.code(token) == "00"
        world.advance(later_ms)


def test_d4_of_two_that_one_key_owes_the_second_is_known_to_be_under_way_when_the_first_is_settled() -> None:
    world = World(rules=HORIZON, up=False)
    owed_twice(world)
    world.acquirer.moods.extend([APPROVES, Mood(after_ms=5_000)])
    world.up()
    assert [send.message.fields[4] for send in world.sends] == [f"{1_000:012}", f"{77:012}"]
    world.acquirer.outcomes.clear()  # the host knows nothing of the day before, either
    world.acquirer.booked.clear()
    token = world.ask("0400", reversal(sale(1, 77), 2))
    again = world.ask("0220", sale(1, 77))
    world.run()
    world.advance(60_000)
    assert [world.code(each) for each in (token, again)] == ["00", "00"]
    first, second = (world.journal.rows[number].transaction for number in (1, 2))
    assert (first.state, second.state) == (State.APPROVED, State.REVERSED)
    assert [send.purpose for send in world.sends] == [Purpose.ADVICE, Purpose.ADVICE, Purpose.REVERSAL]
    world.exempt.add(1)  # its booking is of the day before
    world.check_settled()


def test_d4_an_older_one_of_a_key_that_follows_is_not_taken_for_the_newer_one_that_is_being_settled() -> None:
    world = World(rules=HORIZON)
    world.ask("0200", sale(1, 1_000))
    world.run()
    world.down()
    world.run()
    world.advance(25 * 3_600_000)
    world.ask("0220", sale(1, 77))
    world.run()
    world.command(OperatorAct.VOID, 1)  # its reversal goes behind the newer advice
    world.acquirer.outcomes.clear()
    world.acquirer.booked.clear()
    world.acquirer.moods.append(Mood(after_ms=5_000))
    world.up()
    world.advance(5_000, run=False)
    world.deliver()  # answered; the record of that is on its way to the journal
    assert world.writes
    token = world.ask("0400", reversal(sale(1, 77), 2))
    world.look_up()  # and is not on the disk when it is looked for
    world.run()
    world.advance(60_000)
    assert world.code(token) == "00"
    first, second = (world.journal.rows[number].transaction for number in (1, 3))
    assert (first.state, second.state) == (State.REVERSED, State.REVERSED)
    world.check_settled()


def test_a_retry_that_meets_a_damaged_record_is_refused_with_96_and_nothing_is_sent() -> None:
    world = World()
    world.ask("0200", sale())
    world.run()
    world.journal.damaged.add(1)
    token = world.ask("0201", sale())
    world.run()
    assert world.code(token) == "96"
    assert world.alarms[-1].code == "retry-of-damaged-record"
    assert len(world.sends) == 1


def test_d20_a_retry_does_not_wait_for_its_lane_to_drain() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(SILENT_LOST)
    world.up()
    token = world.ask("0201", sale(1))
    world.run()
    assert world.code(token) == "00"


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
@pytest.mark.parametrize(("mti", "repeated"), [("0200", "0200"), ("0200", "0201"), ("0220", "0220")])
@pytest.mark.parametrize(
    ("month_day", "last_day"),
    [("0229", (2026, 12, 31)), ("0000", (2026, 12, 31)), ("0101", (2026, 7, 2))],
    ids=["no 29 February", "no date", "half a year off"],
)
def test_d1_a_retry_is_no_second_charge_where_its_wrong_date_changes_year_at_midnight(
    month_day: str, last_day: tuple[int, int, int], mti: str, repeated: str, online: bool
) -> None:
    midnight = datetime(*last_day, tzinfo=UTC) + timedelta(days=1)
    world = World(utc_ms=int(midnight.timestamp() * 1000) - 1_000)
    world.up() if online else world.down()
    first = world.ask(mti, sale() | {13: month_day})
    world.run()
    world.advance(2_000)
    again = world.ask(repeated, sale() | {13: month_day})
    world.run()
    assert world.told[again].answer == world.told[first].answer
    world.up()
    world.advance(60_000)
    assert len(world.journal.rows) == len(world.acquirer.booked) == 1
    assert world.code(again) == "00"
    world.check_settled()


@pytest.mark.parametrize("month_day", ["0229", "0000"])
def test_d15_a_reversal_finds_its_sale_where_their_wrong_date_changes_year_at_midnight(month_day: str) -> None:
    midnight = datetime(2027, 1, 1, tzinfo=UTC)
    world = World(utc_ms=int(midnight.timestamp() * 1000) - 1_000, up=False)
    original = sale(5) | {7: "1231235959", 13: month_day}
    world.ask("0200", original)
    world.run()
    world.advance(2_000)
    undo = sale(9) | {7: "0101000001", 13: month_day, 90: "02000000051231235959".ljust(42, "0")}
    told = world.ask("0400", undo)
    world.run()
    assert world.code(told) == "00"
    world.up()
    world.advance(120_000)
    assert not world.sends
