"""Reversals that terminals send, in both forms and every case (D8, D12, D13, D14, D15)."""

from __future__ import annotations

import pytest

from gateway.core.effects import Find, Purpose, Update
from gateway.core.events import OperatorAct
from gateway.core.lifecycle import State
from gateway.core.parts import BadRequest
from gateway.core.transaction import Kind
from gateway.core.work import EngineSettings
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import HostRules
from tests.core.acquirer import (
    APPROVES,
    BREAKS_BOOKED,
    DECLINES,
    LATE,
    REFUSES,
    SILENT_BOOKED,
    SILENT_LOST,
    Mood,
    answers,
)
from tests.core.messages import (
    MASTERCARD,
    MERCHANT,
    UNIONPAY_HOST,
    UNIONPAY_RULES,
    key,
    reversal,
    sale,
    unionpay_sale,
)
from tests.core.world import World

LANE = f"{MERCHANT}|TERM0001"


def unionpay(*, up: bool = True) -> World:
    return World(rules=UNIONPAY_RULES, host=UNIONPAY_HOST, up=up)


def purposes(world: World) -> list[Purpose]:
    return [send.purpose for send in world.sends]


def reversals(world: World) -> list[Fields]:
    return [send.message.fields for send in world.sends if send.purpose is Purpose.REVERSAL]


# D12: form


def test_d12_a_unionpay_reversal_repeats_the_originals_fields_under_the_same_stan() -> None:
    world = unionpay()
    original = unionpay_sale(7) | {35: "6212345678900000003=3012", 52: "aa" * 8}
    world.ask("0200", original)
    world.run()
    world.ask("0400", unionpay_sale(7))
    world.run()
    send = world.sends[-1]
    assert send.message.mti == "0400"
    kept = {n: original[n] for n in (2, 3, 4, 11, 14, 22, 25, 41, 42, 49, 60)}
    assert send.message.fields == kept | {38: "H00007", 39: "96"}
    world.check_settled()


@pytest.mark.parametrize(
    ("moods", "reversed_by_terminal", "reason"),
    [
        ([SILENT_BOOKED], False, "98"),
        ([answers("96", books=True)], False, "06"),
        ([Mood(extra=((4, "000000000001"),))], False, "06"),
        ([APPROVES], True, "96"),
        ([SILENT_BOOKED], True, "96"),
    ],
)  # fmt: skip
def test_d12_field_39_of_a_unionpay_reversal_says_why(
    moods: list[Mood], reversed_by_terminal: bool, reason: str
) -> None:
    world = unionpay()
    world.acquirer.moods.extend(moods)
    world.ask("0200", unionpay_sale(7))
    world.settle_journal()
    if reversed_by_terminal:
        world.ask("0400", unionpay_sale(7))
    world.run()
    world.advance(60_000)
    assert reversals(world)[0][39] == reason
    world.check_settled()


def test_d12_a_reversal_with_field_90_names_mti_stan_time_and_institutions() -> None:
    world = World()
    original = sale(7) | {32: "12345", 33: "678"}
    world.ask("0200", original)
    world.run()
    world.ask("0400", reversal(original, 8))
    world.run()
    send = world.sends[-1]
    assert send.message.mti == "0400"
    assert send.message.fields[90] == "0200" + "000007" + "1121120000" + "00000012345" + "00000000678"
    assert send.message.fields[11] == f"{world.journal.row(key(7)).id + 1:06}"
    assert send.message.fields[38] == "H00007"
    for number in (2, 3, 4, 22, 25, 41, 42, 49):
        assert send.message.fields[number] == original[number]
    world.check_settled()


def test_d12_the_reversal_of_an_advice_names_the_advices_mti() -> None:
    world = World(up=False)
    world.ask("0200", sale(7))
    world.run()
    world.up()
    world.ask("0400", reversal(sale(7), 8))
    world.run()
    assert reversals(world)[0][90].startswith("0220000007")
    world.check_settled()


def test_d12_an_original_without_field_7_is_named_by_the_time_that_it_was_sent_with() -> None:
    world = World()
    fields = sale(7)
    del fields[7]
    world.acquirer.moods.append(SILENT_BOOKED)
    world.ask("0200", fields)
    world.run()
    world.advance(60_000)
    sent = world.sends[0].message.fields[7]
    assert sent == "1121120000"
    assert reversals(world)[0][90][10:20] == sent
    world.check_settled()


@pytest.mark.parametrize("interrupted", ["timeouts", "restart", "parked"])
def test_d8_every_repeat_of_a_reversal_equals_the_first_but_for_its_mti(interrupted: str) -> None:
    world = World(
        host=HostRules(reason_field=39), settings=EngineSettings(attempts_max=2 if interrupted == "parked" else 30)
    )
    world.acquirer.moods.extend([LATE, SILENT_LOST, SILENT_LOST])
    world.ask("0200", sale())
    world.run()
    world.advance(46_000)
    if interrupted == "restart":
        world.crash_and_restart()
    world.advance(100_000)
    if interrupted == "parked":
        assert world.command(OperatorAct.RELEASE, 1) == "transaction 1 is now reversing"
    world.advance(100_000)
    sent = [send.message for send in world.sends if send.purpose is Purpose.REVERSAL]
    assert [message.mti for message in sent] == ["0400", "0401", "0401"]
    assert all(message.fields == sent[0].fields for message in sent)
    assert sent[0].fields[39] == "98"
    world.check_settled()


# D15: the cases


def test_d15_an_original_that_is_stored_and_was_never_sent_is_cancelled_with_its_reversal_in_one_write() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    token = world.ask("0400", reversal(sale(1), 2))
    world.look_up()
    (write,) = world.writes
    assert len(write.changes) == 2
    update = write.changes[1]
    assert isinstance(update, Update)
    assert update.transaction.state is State.CANCELLED
    assert len(update.release) == 3
    world.run()
    assert world.code(token) == "00"
    world.up()
    assert not world.sends
    world.check_settled()


def test_d15_an_original_in_flight_is_reversed_after_it_has_settled_and_the_reversal_is_told_00_at_once() -> None:
    world = World()
    world.acquirer.moods.append(Mood(after_ms=5_000))
    original = world.ask("0200", sale(1))
    world.settle_journal()
    token = world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert world.code(token) == "00"
    assert world.code(original) == ""
    assert purposes(world) == [Purpose.REQUEST]
    world.advance(5_000)
    assert world.code(original) == "68"  # not "approved": it is being reversed
    assert purposes(world) == [Purpose.REQUEST, Purpose.REVERSAL]
    assert reversals(world)[0][38] == "H00001"
    world.check_settled()


@pytest.mark.parametrize(
    ("mood", "state", "told"),
    [(DECLINES, State.DECLINED, "51"), (REFUSES, State.CANCELLED, "12"), (SILENT_BOOKED, State.REVERSED, "68")],
)
def test_d15_an_original_in_flight_that_is_reversed_ends_as_its_outcome_says(
    mood: Mood, state: State, told: str
) -> None:
    world = World()
    world.acquirer.moods.append(mood)
    original = world.ask("0200", sale(1))
    world.settle_journal()
    token = world.ask("0400", reversal(sale(1), 2))
    world.settle_journal()
    world.run()
    world.advance(60_000)
    assert (world.code(original), world.code(token)) == (told, "00")
    assert world.journal.row(key(1)).state is state
    world.check_settled()


def test_d15_an_outcome_that_comes_while_the_reversal_is_being_written_waits_for_it() -> None:
    world = World()
    original = world.ask("0200", sale(1))
    world.settle_journal()
    world.ask("0400", reversal(sale(1), 2))
    world.deliver()  # the approval
    world.run()
    assert world.code(original) == "68"
    assert world.journal.row(key(1)).state is State.REVERSED
    world.check_settled()


def test_d15_an_approved_original_is_reversed_behind_what_was_accepted_before_the_reversal() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.mood = answers("96")
    world.ask("0220", sale(2))
    world.run()
    world.ask("0400", reversal(sale(1), 3))
    world.run()
    world.ask("0220", sale(4))
    world.run()
    world.acquirer.mood = APPROVES
    world.advance(60_000)
    order = []
    for send in world.sends[1:]:
        stan = send.message.fields[90][4:10] if send.purpose is Purpose.REVERSAL else send.message.fields[11]
        if (send.purpose.name, stan) not in order:
            order.append((send.purpose.name, stan))
    assert order == [("ADVICE", "000002"), ("REVERSAL", "000001"), ("ADVICE", "000004")]
    world.check_settled()


def test_d15_the_reversal_of_an_unknown_original_is_kept_and_forwarded() -> None:
    world = World()
    token = world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert world.code(token) == "00"
    row = world.journal.row(key(1))
    assert (row.kind, row.state) == (Kind.UNSEEN, State.REVERSED)
    assert reversals(world)[0][90][:20] == "02000000011121120000"
    assert world.journal.row(key(2, message_class="4")).original == row.id
    world.check_settled()


@pytest.mark.parametrize(("code", "told"), [("00", False), ("25", True), ("12", True)])
def test_a_person_is_told_of_a_reversal_of_what_neither_side_knows(code: str, told: bool) -> None:
    world = World()
    world.acquirer.moods.append(Mood(arrives=True, extra=((39, code),)))
    world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert world.journal.row(key(1)).state is State.REVERSED
    facts = [alarm.facts for alarm in world.alarms if alarm.code == "reversal-of-unknown"]
    assert facts == [{"id": "1", "terminal": "TERM0001", "stan": "000001"}] * told


def test_d15_an_original_that_comes_after_its_reversal_is_refused_with_12_and_never_sent() -> None:
    world = World()
    world.ask("0400", reversal(sale(1), 2))
    world.run()
    token = world.ask("0200", sale(1))
    world.run()
    assert world.code(token) == "12"
    assert purposes(world) == [Purpose.REVERSAL]
    world.check_settled()


@pytest.mark.parametrize("mti", ["0200", "0100", "0220"])
def test_d15_it_is_refused_whatever_its_class_where_the_reversal_did_not_say(mti: str) -> None:
    world = unionpay()
    world.ask("0400", unionpay_sale(7))
    world.run()
    token = world.ask(mti, unionpay_sale(7))
    world.run()
    assert world.code(token) == "12"
    assert purposes(world) == [Purpose.REVERSAL]
    world.check_settled()


def test_d15_an_original_that_is_stored_while_its_reversal_looks_for_it_is_found_after_all() -> None:
    world = World(up=False)
    world.ask("0400", reversal(sale(1), 2))
    lookup = world.lookups.popleft()
    assert isinstance(lookup, Find)
    stale = world.journal.find(lookup, world.utc_ms)
    world.ask("0200", sale(1))
    world.run()
    world.step(stale)
    world.run()
    assert world.journal.row(key(1)).state is State.CANCELLED
    world.up()
    assert not world.sends
    world.check_settled()


def test_d15_an_advice_that_has_been_tried_is_settled_first_and_then_reversed() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(SILENT_BOOKED)
    world.up()
    token = world.ask("0400", reversal(sale(1), 2))  # while it is in flight
    world.run()
    assert world.code(token) == "00"
    assert world.journal.row(key(1)).state is State.STORED_CANCELLED
    assert world.journal.row(key(1)).exposed
    world.ask("0220", sale(3))
    world.advance(60_000)
    assert [send.message.mti for send in world.sends] == ["0220", "0221", "0400", "0220"]  # D14
    world.check_settled()


def test_d15_an_advice_that_is_declined_after_its_reversal_was_taken_is_cancelled() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(Mood(books=False, code="51", after_ms=1_000))
    world.up()
    world.ask("0400", reversal(sale(1), 2))
    world.advance(5_000)
    assert world.journal.row(key(1)).state is State.CANCELLED
    assert purposes(world) == [Purpose.ADVICE]
    world.check_settled()


def test_d13_an_advice_that_is_declined_while_an_earlier_send_may_still_arrive_is_reversed() -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.extend([BREAKS_BOOKED, Mood(books=False, code="30", after_ms=1_000)])
    world.up()
    world.advance(600)
    world.ask("0400", reversal(sale(1), 2))
    world.advance(120_000)
    assert purposes(world) == [Purpose.ADVICE, Purpose.ADVICE, Purpose.REVERSAL]
    assert world.journal.row(key(1)).state is State.REVERSED
    world.check_settled()


@pytest.mark.parametrize("mood", [DECLINES, answers("30")])
def test_d15_a_parked_original_is_taken_out_of_the_persons_hands_and_reversed(mood: Mood) -> None:
    world = World(up=False)
    world.ask("0200", sale(1))
    world.run()
    world.acquirer.moods.append(mood)
    world.up()
    assert world.journal.row(key(1)).state is State.PARKED
    token = world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert world.code(token) == "00"
    row = world.journal.row(key(1))
    assert (row.state, row.resume, row.exposed) == (State.REVERSING, None, False)
    world.advance(29_999)
    assert purposes(world) == [Purpose.ADVICE]  # D13: an earlier send of it may still arrive
    world.advance(1)
    world.check_settled()


def test_d15_a_declined_original_stays_declined_and_nothing_goes_upstream() -> None:
    world = World()
    world.acquirer.moods.append(DECLINES)
    world.ask("0200", sale(1))
    world.run()
    token = world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert world.code(token) == "00"
    assert purposes(world) == [Purpose.REQUEST]
    world.check_settled()


def test_d15_a_second_reversal_of_the_same_original_is_taken_and_changes_nothing() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    for stan in (2, 3):
        token = world.ask("0400", reversal(sale(1), stan))
        world.run()
        assert world.code(token) == "00"
    assert len(reversals(world)) == 1
    world.check_settled()


def test_d15_two_reversals_of_one_original_at_once_change_its_row_one_after_the_other() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    tokens = [world.ask("0400", reversal(sale(1), stan)) for stan in (2, 3, 4)]
    while world.lookups or world.writes or world.reports:  # every lookup before any write
        world.look_up()
        world.commit()
        world.report()
    world.run()
    assert [world.code(token) for token in tokens] == ["00"] * 3
    assert len(reversals(world)) == 1
    world.check_settled()


def test_d15_a_reversal_of_what_waits_for_its_lane_is_taken_as_soon_as_that_is_decided() -> None:
    world = World()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", sale(1))
    waiting = world.ask("0200", sale(2))
    world.run()
    token = world.ask("0400", reversal(sale(2), 3))
    world.run()
    world.advance(3_000)
    assert (world.code(waiting), world.code(token)) == ("00", "00")
    assert world.journal.row(key(2)).state is State.CANCELLED
    world.advance(60_000)
    world.check_settled()


@pytest.mark.parametrize("changed", [{4: "000000000999"}, {2: MASTERCARD}], ids=["amount", "card"])
def test_d2_a_reversal_of_another_amount_or_card_is_refused_with_94_and_an_alarm(changed: Fields) -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    token = world.ask("0400", reversal(sale(1), 2) | changed)
    world.run()
    assert world.code(token) == "94"
    assert world.alarms[-1].code == "key-reused"
    assert world.journal.row(key(1)).state is State.APPROVED
    world.check_settled()


def test_d15_a_repeated_reversal_gets_the_stored_answer_and_is_not_sent_twice() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    first = world.ask("0400", reversal(sale(1), 2))
    world.run()
    again = world.ask("0401", reversal(sale(1), 2))
    world.run()
    assert world.told[first].answer == world.told[again].answer
    assert len(reversals(world)) == 1


def test_d15_a_reversal_advice_is_answered_0430() -> None:
    world = World()
    token = world.ask("0420", reversal(sale(1), 2))
    world.run()
    answer = world.told[token].answer
    assert answer is not None
    assert (answer.mti, answer.fields[39]) == ("0430", "00")


def test_d15_a_reversal_that_meets_a_damaged_original_is_refused_with_96_and_an_alarm() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    world.journal.damaged.add(1)
    token = world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert world.code(token) == "96"
    assert world.alarms[-1].code == "retry-of-damaged-record"


def test_inv_2_who_asks_again_for_a_sale_that_was_reversed_is_not_told_that_it_is_paid() -> None:
    world = World()
    first = world.ask("0200", sale(1))
    world.run()
    world.ask("0400", reversal(sale(1), 2))
    world.run()
    again = world.ask("0201", sale(1))
    world.run()
    assert (world.code(first), world.code(again)) == ("00", "12")
    world.check_settled()


def test_d12_a_reversal_handed_to_a_same_stan_host_has_the_originals_stan_also_if_the_terminal_gave_it_its_own() -> (
    None
):
    world = World(host=UNIONPAY_HOST)  # terminals name originals by field 90, the host by the STAN
    world.ask("0400", reversal(sale(1), 2))
    world.run()
    assert reversals(world)[0][11] == "000001"


@pytest.mark.parametrize("at_once", [False, True])
def test_d2_a_reversal_under_the_stan_of_another_ones_reversal_is_told_94_and_not_done(at_once: bool) -> None:
    world = World()
    for stan in (5, 6):
        world.ask("0200", sale(stan))
        world.run()
    first = world.ask("0400", reversal(sale(5), 9))
    if not at_once:
        world.run()
    second = world.ask("0400", reversal(sale(6), 9))
    world.run()
    assert (world.code(first), world.code(second)) == ("00", "94")
    retry = world.ask("0400", reversal(sale(5), 9))
    world.run()
    assert world.code(retry) == "00"
    assert world.journal.row(key(6)).state is State.APPROVED
    world.check_settled()


def _over_midnight(world: World, *, with_time: bool) -> tuple[int, Fields]:
    """A sale five hours west of Greenwich, before midnight, and its reversal, behind it; the sale's token."""
    original = sale(5) | {7: "1122045959", 13: "1121"}
    if not with_time:
        del original[7]
    token = world.ask("0200", original)
    world.run()
    named = f"0200000005{original.get(7, '')}"
    return token, sale(9) | {7: "1122050010", 13: "1122", 90: named.ljust(42, "0")}


@pytest.mark.parametrize("with_time", [True, False])
def test_d15_a_reversal_behind_midnight_cancels_a_stored_sale_of_the_day_before(with_time: bool) -> None:
    world = World(up=False)
    token, undo = _over_midnight(world, with_time=with_time)
    told = world.ask("0400", undo)
    world.run()
    assert (world.code(token), world.code(told)) == ("00", "00")
    world.up()
    world.advance(120_000)
    assert not world.sends
    assert world.journal.row(key(5)).state is State.CANCELLED


@pytest.mark.parametrize("with_time", [True, False])
def test_d12_a_reversal_behind_midnight_names_its_original_as_it_was_sent(with_time: bool) -> None:
    world = World()
    _, undo = _over_midnight(world, with_time=with_time)
    world.ask("0400", undo)
    world.run()
    request, undone = (send.message.fields for send in world.sends)
    assert undone[90][:20] == f"0200000005{request[7]}"
    assert world.journal.row(key(5)).state is State.REVERSED
    world.check_settled()


def test_d15_a_sale_of_the_day_before_that_was_sent_at_another_time_is_not_meant() -> None:
    world = World()
    world.ask("0200", sale(5) | {7: "1122030000", 13: "1121"})
    world.run()
    undo = sale(9) | {7: "1122050010", 13: "1122", 90: "02000000051122045959".ljust(42, "0")}
    world.ask("0400", undo)
    world.run()
    assert world.journal.row(key(5)).state is State.APPROVED


def _undated(*, with_time: bool) -> tuple[Fields, Fields]:
    """A sale without a date, and its reversal, which has the one that its terminal has learned meanwhile."""
    original = sale(5)
    del original[13]
    if not with_time:
        del original[7]
    undo = reversal(sale(5), 9) | {90: f"0200000005{original.get(7, '')}".ljust(42, "0")}
    return original, undo


@pytest.mark.parametrize("with_time", [True, False])
@pytest.mark.parametrize("up", [True, False])
def test_d15_a_dated_reversal_undoes_the_sale_that_came_without_a_date(up: bool, with_time: bool) -> None:
    world = World(up=up)
    original, undo = _undated(with_time=with_time)
    world.ask("0200", original)
    world.run()
    world.advance(3_600_000)
    told = world.ask("0400", undo)
    world.run()
    world.up()
    world.advance(120_000)
    assert world.code(told) == "00"
    undone = key(5).replace("D20251121", "H")
    assert world.journal.row(undone).state is (State.REVERSED if up else State.CANCELLED)
    again = world.ask("0200", original)
    world.run()
    assert world.code(again) == "12", "nobody is told any more that it is paid"
    world.check_settled()


def test_d15_a_sale_without_a_date_that_was_sent_at_another_time_is_not_meant() -> None:
    world = World()
    original, undo = _undated(with_time=True)
    world.ask("0200", original | {7: "1121110000"})
    world.run()
    world.ask("0400", undo)
    world.run()
    assert world.journal.row(key(5).replace("D20251121", "H")).state is State.APPROVED


@pytest.mark.parametrize("sent", ["1120180000", "1121120000", "1122030000"])
@pytest.mark.parametrize("later_ms", [0, 108_000_000])
@pytest.mark.parametrize("up", [True, False])
def test_d15_a_reversal_without_a_date_finds_its_original_whatever_the_hour_is_in_greenwich(
    up: bool, later_ms: int, sent: str
) -> None:
    world = World(up=up)
    world.ask("0200", sale(5) | {7: sent})
    world.run()
    world.jump(later_ms)
    undo = reversal(sale(5) | {7: sent}, 9)
    del undo[13]
    world.ask("0400", undo)
    world.run()
    world.up()
    world.advance(120_000)
    assert world.journal.row(key(5)).state is (State.REVERSED if up else State.CANCELLED)
    world.check_settled()


# A reversal in part


@pytest.mark.parametrize("up", [True, False])
def test_inv_5_a_reversal_in_part_is_refused_and_never_undoes_all_of_its_original(up: bool) -> None:
    world = World(up=up)
    paid = world.ask("0200", sale(1, 1_000))
    world.run()
    assert world.code(paid) == "00"
    with pytest.raises(BadRequest) as refused:
        world.request("0420", {**reversal(sale(1, 1_000), 2), 95: "000000000600".ljust(42, "0")})
    assert refused.value.code == "30"
    world.up()
    world.run()
    assert not reversals(world)
    assert world.journal.row(key(1)).state is State.APPROVED
    world.check_settled()


def test_a_reversal_whose_replacement_amount_is_nothing_undoes_all_of_its_original() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    taken = world.ask("0420", {**reversal(sale(1), 2), 95: "0" * 42})
    world.run()
    assert world.code(taken) == "00"
    assert world.journal.row(key(1)).state is State.REVERSED
    world.check_settled()
