"""A batch is closed once, with totals that the journal confirms, or uploaded; then it is settled with the acquirer."""

from __future__ import annotations

import pytest

from gateway.core.effects import Purpose
from gateway.core.events import OperatorAct
from gateway.core.lifecycle import State
from gateway.core.transaction import PARKED_FROM, Kind
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import HostRules
from protocol.settlement import Balance, Detail, Totals, parse_details, parse_totals, result_of, totals_text
from tests.core.acquirer import DECLINES, SILENT_LOST, Mood, answers
from tests.core.messages import (
    UNIONPAY,
    UNIONPAY_HOST,
    UNIONPAY_RULES,
    VISA,
    settlement,
    unionpay_key,
    unionpay_sale,
    upload,
    upload_end,
)
from tests.core.world import World

EMPTY = Totals()


def shop(*, up: bool = True, host: HostRules = UNIONPAY_HOST) -> World:
    return World(host=host, rules=UNIONPAY_RULES, up=up)


def asked(world: World, mti: str, fields: Fields) -> str:
    """Send, let everything follow, and return what the terminal is told."""
    token = world.ask(mti, fields)
    world.run()
    return world.code(token)


def sell(world: World, *stans: int, amount: int = 1_000) -> None:
    for stan in stans:
        assert asked(world, "0200", unionpay_sale(stan, amount)) == "00"


def sent(world: World, mti: str) -> list[Message]:
    return [
        send.message for send in world.sends if send.purpose is Purpose.SETTLEMENT and send.message.mti == mti
    ]  # fmt: skip


def details(*stans: int, amount: int = 1_000) -> list[Detail]:
    return [Detail(f"{stan:06}", amount, UNIONPAY) for stan in stans]


def test_a_batch_whose_totals_agree_is_closed_and_settled_with_the_acquirer() -> None:
    world = shop()
    sell(world, 1, 2)
    world.acquirer.moods.append(DECLINES)
    assert asked(world, "0200", unionpay_sale(3)) == "51"
    token = world.ask("0500", settlement(4, Totals(2_000, 2)))
    world.run()
    told = world.told[token].answer
    assert told is not None
    assert (told.mti, told.fields[39], result_of(told.fields[48])) == ("0510", "00", Balance.BALANCED)
    (message,) = sent(world, "0500")
    assert parse_totals(message.fields[48]) == (Totals(2_000, 2), EMPTY)
    assert message.fields[60] == "00000001201"
    assert message.fields[11] == "000004"
    assert world.journal.row(unionpay_key(4, message_class="5")).state is State.APPROVED
    world.check_settled()


def test_domestic_and_foreign_totals_are_added_up() -> None:
    world = shop()
    sell(world, 1, 2)
    halves = {**settlement(3, EMPTY), 48: totals_text(Totals(1_000, 1), Totals(1_000, 1))}
    assert asked(world, "0500", halves) == "00"


def test_voids_and_refunds_are_credits_and_a_voided_sale_stays_a_debit() -> None:
    world = shop()
    sell(world, 1, 2)
    void = {**unionpay_sale(3), 3: "200000", 60: "23000001000", 61: "000001000001"}
    assert asked(world, "0200", void) == "00"
    refund = {**unionpay_sale(4, 300), 3: "200000", 60: "25000001000"}
    assert asked(world, "0220", refund) == "00"
    assert asked(world, "0500", settlement(5, Totals(2_000, 2, 1_300, 2))) == "00"


def test_a_pre_authorisation_does_not_count_and_its_completion_does() -> None:
    world = shop()
    hold = {**unionpay_sale(1), 3: "030000", 25: "06", 60: "10000001000"}
    assert asked(world, "0100", hold) == "00"
    completion = {**unionpay_sale(2, 900), 25: "06", 60: "24000001000"}
    assert asked(world, "0220", completion) == "00"
    assert asked(world, "0500", settlement(3, Totals(900, 1))) == "00"


def test_what_was_reversed_or_stood_in_for_counts_as_the_terminal_was_told() -> None:
    world = shop()
    sell(world, 1, 2)
    undone = unionpay_sale(2)
    assert asked(world, "0400", undone | {39: "98"}) == "00"
    world.down()
    assert asked(world, "0200", unionpay_sale(3)) == "00"
    assert world.journal.row(unionpay_key(3)).state is State.STORED
    assert asked(world, "0500", settlement(4, Totals(2_000, 2))) == "00"
    assert not sent(world, "0500"), "the acquirer is away"
    world.up()
    world.advance(60_000)
    (message,) = sent(world, "0500")
    assert parse_totals(message.fields[48])[0] == Totals(2_000, 2)
    stans = [send.message.fields[11] for send in world.sends if send.message.mti in {"0220", "0500"}]
    assert stans == ["000003", "000004"], "behind what the lane owed (D14)"
    world.check_settled()


def test_totals_that_differ_are_told_95_and_the_batch_stays_open() -> None:
    world = shop()
    sell(world, 1)
    token = world.ask("0500", settlement(2, Totals(2_000, 2)))
    world.run()
    told = world.told[token].answer
    assert told is not None
    assert (told.fields[39], result_of(told.fields[48])) == ("95", Balance.OUT_OF_BALANCE)
    assert not sent(world, "0500")
    assert asked(world, "0500", settlement(2, Totals(2_000, 2))) == "95", "a retry hears the same"
    sell(world, 3)
    assert asked(world, "0500", settlement(4, Totals(2_000, 2))) == "00"


def test_an_upload_that_agrees_closes_the_batch() -> None:
    world = shop()
    sell(world, *range(1, 11))
    assert asked(world, "0500", settlement(11, Totals(9_000, 9))) == "95"
    assert asked(world, "0320", upload(12, *details(*range(1, 9)))) == "00"
    assert asked(world, "0320", upload(13, *details(9, 10))) == "00"
    assert asked(world, "0320", upload(13, *details(9, 10))) == "00", "a retry counts once"
    assert asked(world, "0320", upload_end(14)) == "00"
    (message,) = sent(world, "0500")
    assert parse_totals(message.fields[48])[0] == Totals(10_000, 10)
    assert not [alarm for alarm in world.alarms if alarm.code == "batch-differs"]
    world.check_settled()


@pytest.mark.parametrize(
    ("uploaded", "named"),
    [
        (details(1), {"missing": "000002"}),
        (details(1, 2, 3), {"unknown": "000003"}),
        ([*details(1), *details(2, amount=999)], {"changed": "000002"}),
        ([*details(1), Detail("000002", 1_000, VISA)], {"changed": "000002"}),
    ],
)
def test_an_upload_that_differs_closes_the_batch_and_is_a_persons_matter(
    uploaded: list[Detail], named: dict[str, str]
) -> None:
    world = shop()
    sell(world, 1, 2)
    assert asked(world, "0500", settlement(3, EMPTY)) == "95"
    assert asked(world, "0320", upload(4, *uploaded)) == "00"
    assert asked(world, "0320", upload_end(5)) == "00"
    row = world.journal.row(unionpay_key(5, message_class="3"))
    assert (row.state, row.kind) == (State.PARKED, Kind.SETTLEMENT)
    assert row.reason.partition(PARKED_FROM)[0] == "settlement.differs"
    alarm = next(alarm for alarm in world.alarms if alarm.code == "batch-differs")
    assert named.items() <= alarm.facts.items()
    assert not sent(world, "0500"), "a person decides"
    assert "nothing to void" in world.command(OperatorAct.VOID, row.id)
    world.command(OperatorAct.RELEASE, row.id)
    world.run()
    assert parse_totals(sent(world, "0500")[0].fields[48])[0] == Totals(2_000, 2), "what the acquirer has booked"
    world.check_settled()


def test_a_closed_batch_takes_nothing_new_but_answers_retries_and_takes_reversals() -> None:
    world = shop()
    sell(world, 1)
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    for restarted in (False, True):
        if restarted:
            world.crash_and_restart()
        assert asked(world, "0200", unionpay_sale(3)) == "77"
        assert asked(world, "0320", upload(4, *details(1))) == "77"
        assert asked(world, "0200", unionpay_sale(1)) == "00", "its retry"
        assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00", "its retry"
        assert asked(world, "0500", settlement(5, Totals(1_000, 1))) == "00", "the same totals under another STAN"
        assert asked(world, "0500", settlement(6, EMPTY)) == "77"
        assert asked(world, "0200", unionpay_sale(7 + restarted, batch="000002")) == "00"
    assert asked(world, "0400", unionpay_sale(1) | {39: "98"}) == "00"
    assert world.journal.row(unionpay_key(1)).state is State.REVERSED
    assert len(sent(world, "0500")) == 1


def test_an_advice_for_a_closed_batch_is_taken() -> None:
    world = shop()
    assert asked(world, "0500", settlement(1, EMPTY)) == "00"
    assert asked(world, "0220", unionpay_sale(2)) == "00", "it tells of what has happened (D18)"


@pytest.mark.parametrize("end", [Mood(code="00"), Mood(code="95")])
def test_an_acquirer_that_finds_other_totals_gets_the_upload_and_has_the_last_word(end: Mood) -> None:
    world = shop()
    sell(world, *range(1, 11))
    world.acquirer.moods.extend([answers("95"), answers("00"), answers("00"), end])
    assert asked(world, "0500", settlement(11, Totals(10_000, 10))) == "00"
    messages = sent(world, "0320")
    assert [len(parse_details(message.fields.get(48, "00"))) for message in messages] == [8, 2, 0]
    assert [message.fields[60] for message in messages] == ["00000001201", "00000001201", "00000001202"]
    assert len({message.fields[11] for message in messages}) == 3
    row = world.journal.row(unionpay_key(11, message_class="5"))
    assert row.state is (State.APPROVED if end.code == "00" else State.PARKED)


def test_an_approval_that_says_out_of_balance_beside_the_totals_is_no_approval() -> None:
    world = shop()
    sell(world, 1)
    says_no = ((48, totals_text(Totals(1_000, 1), result=Balance.OUT_OF_BALANCE)),)
    world.acquirer.moods.append(Mood(extra=says_no))
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    assert len(sent(world, "0320")) == 2


@pytest.mark.parametrize("result", [Balance.ERROR, Balance.OUT_OF_BALANCE])
@pytest.mark.parametrize(("code", "state"), [("96", State.APPROVED), ("A0", State.APPROVED), ("30", State.PARKED)])
def test_a_result_beside_totals_that_were_not_taken_asks_for_no_upload(
    code: str, state: State, result: Balance
) -> None:
    world = shop()
    sell(world, 1)
    world.acquirer.moods.append(Mood(code=code, extra=((48, totals_text(Totals(1_000, 1), result=result)),)))
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    world.advance(120_000)
    assert not sent(world, "0320"), "it would be taken, and close nothing"
    assert len(sent(world, "0500")) == (2 if state is State.APPROVED else 1)
    assert world.journal.row(unionpay_key(2, message_class="5")).state is state


def test_a_settlement_without_answer_is_sent_again_until_it_is_taken() -> None:
    world = shop()
    sell(world, 1)
    world.acquirer.moods.append(SILENT_LOST)
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    world.advance(120_000)
    assert len(sent(world, "0500")) == 2
    world.check_settled()


@pytest.mark.parametrize("by_a_person", [False, True])
def test_what_is_to_be_reversed_behind_a_settlement_is_in_its_totals_each_time(by_a_person: bool) -> None:
    world = shop()
    sell(world, 1, 2)
    world.acquirer.moods.append(SILENT_LOST)
    assert asked(world, "0500", settlement(3, Totals(2_000, 2))) == "00"
    if by_a_person:
        world.command(OperatorAct.VOID, world.journal.row(unionpay_key(1)).id)
        world.run()
    else:
        assert asked(world, "0400", unionpay_sale(1) | {39: "98"}) == "00"
    world.advance(120_000)
    first, second = sent(world, "0500")
    assert first.fields == second.fields, "a repeat equals the first (D8)"
    assert world.sends[-1].purpose is Purpose.REVERSAL
    assert world.journal.row(unionpay_key(1)).state is State.REVERSED
    world.check_settled()


def test_a_crash_in_the_middle_of_the_upload_begins_again_with_the_totals() -> None:
    world = shop()
    sell(world, 1)
    world.acquirer.moods.extend([answers("95"), SILENT_LOST])
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    assert len(sent(world, "0320")) == 1
    world.crash_and_restart()
    world.advance(120_000)
    assert len(sent(world, "0500")) == 2
    world.check_settled()


def test_an_upload_goes_on_behind_what_the_acquirer_has_from_before() -> None:
    world = shop()
    sell(world, *range(1, 11))
    world.acquirer.moods.extend([answers("95"), SILENT_LOST, answers("95"), answers("94"), answers("00")])
    assert asked(world, "0500", settlement(11, Totals(10_000, 10))) == "00"
    world.advance(120_000)
    messages = sent(world, "0320")
    assert [len(parse_details(message.fields.get(48, "00"))) for message in messages] == [8, 8, 2, 0]
    assert messages[-1].fields[60] == "00000001202", "the end of the upload is sent"
    assert world.journal.row(unionpay_key(11, message_class="5")).state is State.APPROVED
    world.check_settled()


@pytest.mark.parametrize("balanced", [False, True])
def test_totals_that_the_acquirer_has_had_before_are_settled_only_where_it_says_that_they_are_balanced(
    balanced: bool,
) -> None:
    world = shop()
    sell(world, 1)
    says = ((48, totals_text(Totals(1_000, 1), result=Balance.BALANCED)),) if balanced else ()
    world.acquirer.moods.extend([SILENT_LOST, Mood(code="94", extra=says)])
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    world.advance(120_000)
    row = world.journal.row(unionpay_key(2, message_class="5"))
    assert row.state is (State.APPROVED if balanced else State.PARKED)
    assert balanced is ("parked" not in [alarm.code for alarm in world.alarms])


@pytest.mark.parametrize("keep", [0, 1])
def test_a_crash_at_the_closing_commit_leaves_the_batch_open_or_owed_and_nothing_else(keep: int) -> None:
    world = shop()
    sell(world, 1)
    world.ask("0500", settlement(2, Totals(1_000, 1)))
    while not world.writes:
        world.look_up()
    world.crash_and_restart(keep=keep)
    assert len(sent(world, "0500")) == keep
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    assert len(sent(world, "0500")) == 1
    world.check_settled()


def test_what_is_asked_while_the_batch_is_being_closed_waits_for_the_outcome() -> None:
    world = shop()
    sell(world, 1)
    closing = world.ask("0500", settlement(2, Totals(1_000, 1)))
    late = world.ask("0200", unionpay_sale(3))
    twice = world.ask("0500", settlement(2, Totals(1_000, 1)))
    other = world.ask("0500", settlement(4, EMPTY))
    assert world.code(late) == ""
    world.run()
    assert [world.code(token) for token in (closing, late, twice)] == ["00", "77", "00"]
    assert world.code(other) in {"09", "96"}
    refused = shop()
    sell(refused, 1)
    differs = refused.ask("0500", settlement(2, EMPTY))
    late = refused.ask("0200", unionpay_sale(3))
    refused.run()
    assert [refused.code(token) for token in (differs, late)] == ["95", "00"], "the batch stayed open"


@pytest.mark.parametrize("known", [False, True])
def test_a_sale_that_comes_with_the_settlement_never_enters_the_closed_batch(known: bool) -> None:
    world = shop()
    sell(world, 1)
    if not known:
        world.crash_and_restart()  # nothing is known of the batch any more
    late = world.ask("0200", unionpay_sale(3))  # looked up, if it is not known
    closing = world.ask("0500", settlement(2, Totals(1_000, 1)))
    world.run()
    told = (world.code(closing), world.code(late))
    assert told in {("00", "77"), ("96", "00")}
    if told == ("00", "77"):
        assert asked(world, "0200", unionpay_sale(4)) == "77"


def test_a_look_up_that_comes_back_after_the_batch_was_closed_is_out_of_date() -> None:
    world = shop()
    sell(world, 1)
    world.crash_and_restart()
    late = world.ask("0200", unionpay_sale(3))
    found = world.read()  # asked for before the batch is closed, and delivered after it
    closing = world.ask("0500", settlement(2, Totals(1_000, 1)))
    world.run()
    world.step(found)
    world.run()
    assert (world.code(closing), world.code(late)) == ("00", "77")


def test_what_is_taken_after_the_settlement_is_told_to_a_person() -> None:
    world = shop()
    sell(world, 1)
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    assert asked(world, "0220", unionpay_sale(3)) == "00"
    assert asked(world, "0400", unionpay_sale(1) | {39: "98"}) == "00"
    keys = [alarm.facts["key"] for alarm in world.alarms if alarm.code == "taken-after-settlement"]
    assert keys == [unionpay_key(3), unionpay_key(1)]


@pytest.mark.parametrize("first", [answers("91"), Mood(answers=False)], ids=["put off", "not answered"])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("undone_by", ["terminal", "operator"])
def test_d13_a_reversal_that_is_refused_behind_the_settlement_is_a_persons_matter(
    first: Mood, restarts: bool, settled: bool, undone_by: str
) -> None:
    """No send of it was in time, whichever of them the acquirer has decided upon."""
    world = shop()
    sell(world, 1)
    if settled:
        assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    world.acquirer.moods.extend([first, Mood(extra=((39, "25"),))])
    if undone_by == "terminal":
        assert asked(world, "0400", unionpay_sale(1) | {39: "98"}) == "00"
    else:
        assert world.command(OperatorAct.VOID, 1) == "transaction 1 is now reversing"
        world.run()
    if restarts:
        world.crash_and_restart()
    world.advance(120_000)
    row = world.journal.row(unionpay_key(1))
    if not settled:
        assert row.state is State.REVERSED, "the first one may have done it"
        return
    assert row.state is State.PARKED
    why = "terminal.reversal-98" if undone_by == "terminal" else "operator.void"
    assert row.reason == f"answer.code-25 < {why} < batch.closed"
    world.acquirer.moods.append(Mood(extra=((39, "25"),)))
    assert world.command(OperatorAct.RELEASE, row.id) == f"transaction {row.id} is now reversing"
    world.advance(120_000)
    assert world.journal.row(unionpay_key(1)).state is State.REVERSED, "somebody has looked"


@pytest.mark.parametrize("act", [OperatorAct.RELEASE, OperatorAct.VOID])
def test_d14_what_a_person_releases_waits_for_a_settlement_that_is_not_answered(act: OperatorAct) -> None:
    """Its repeat has the totals of the first time, which the acquirer may have taken."""
    world = shop(up=False)
    sell(world, 1, 2)
    assert asked(world, "0500", settlement(3, Totals(2_000, 2))) == "00"
    world.acquirer.moods.extend([answers("05"), Mood(), Mood(answers=False)])
    world.up()
    while not sent(world, "0500"):
        world.advance(100)
    assert world.journal.row(unionpay_key(1)).state is State.PARKED
    world.advance(1_000)
    world.command(act, 1)
    world.advance(120_000)
    assert len(sent(world, "0500")) == 2
    assert len({message.fields[48] for message in sent(world, "0500")}) == 1
    order = [send.message.mti for send in world.sends if send.message.mti in ("0220", "0221", "0400", "0401", "0500")]
    assert order[:4] == ["0220", "0220", "0500", "0500"]
    assert world.journal.row(unionpay_key(3, message_class="5")).state is State.APPROVED
    ends = State.APPROVED if act is OperatorAct.RELEASE else State.REVERSED
    assert world.journal.row(unionpay_key(1)).state is ends
    late = [alarm.facts["key"] for alarm in world.alarms if alarm.code == "taken-after-settlement"]
    assert late == ([unionpay_key(1)] if act is OperatorAct.RELEASE else [])


def test_settlements_out_of_balance_do_not_fill_the_journal() -> None:
    world = shop()
    for stan in range(1, 41):
        assert asked(world, "0500", settlement(stan, Totals(1))) == "95"
    assert len(world.journal.rows) == 20
    assert asked(world, "0500", settlement(41, EMPTY)) == "00"


def test_a_detail_that_is_uploaded_again_takes_the_place_of_the_first() -> None:
    world = shop()
    sell(world, 1)
    assert asked(world, "0500", settlement(2, EMPTY)) == "95"
    assert asked(world, "0320", upload(3, *details(1, amount=5))) == "00"
    assert asked(world, "0320", upload(4, *details(1))) == "00"
    assert asked(world, "0320", upload_end(5)) == "00"
    assert world.journal.row(unionpay_key(5, message_class="3")).state is State.APPROVED


def test_a_parked_settlement_keeps_what_differs() -> None:
    world = shop()
    sell(world, 1, 2)
    assert asked(world, "0320", upload(3, *details(2, 7))) == "00"
    assert asked(world, "0320", upload_end(4)) == "00"
    kept = world.journal.stored(unionpay_key(4, message_class="3")).request.fields[48]
    assert kept == "unknown 000007; missing 000001"


def test_more_than_999_sales_are_settled_with_the_acquirer_in_two_halves() -> None:
    world = shop()
    sell(world, *range(1, 1_006), amount=1)
    token = world.ask("0500", {**settlement(2_000, EMPTY), 48: totals_text(Totals(600, 600), Totals(405, 405))})
    world.run()
    assert world.code(token) == "00"
    (message,) = sent(world, "0500")
    assert parse_totals(message.fields[48]) == (Totals(1_005, 999), Totals(0, 6))
    world.check_settled()


def test_a_terminal_that_settles_while_its_sale_is_under_way_is_told_to_ask_again() -> None:
    world = shop()
    world.acquirer.moods.append(SILENT_LOST)
    world.ask("0200", unionpay_sale(1))
    world.run()
    assert asked(world, "0500", settlement(2, EMPTY)) == "96"


def test_a_batch_with_a_damaged_record_is_never_called_balanced() -> None:
    world = shop()
    sell(world, 1, 2)
    world.journal.damaged.add(world.journal.row(unionpay_key(2)).id)
    assert asked(world, "0500", settlement(3, Totals(1_000, 1))) == "95"
    assert asked(world, "0320", upload(4, *details(1))) == "00"
    assert asked(world, "0320", upload_end(5)) == "00"
    assert world.journal.row(unionpay_key(5, message_class="3")).state is State.PARKED


def test_a_host_that_does_not_settle_is_not_asked() -> None:
    world = World(rules=UNIONPAY_RULES)
    sell(world, 1)
    assert asked(world, "0500", settlement(2, Totals(1_000, 1))) == "00"
    assert not sent(world, "0500")
    assert world.journal.row(unionpay_key(2, message_class="5")).state is State.APPROVED


def test_a_full_journal_refuses_a_settlement_before_it_is_acknowledged() -> None:
    world = shop()
    world.journal.full = True
    assert asked(world, "0500", settlement(1, EMPTY)) == "96"
    world.journal.full = False
    assert asked(world, "0500", settlement(1, EMPTY)) == "00"


def test_the_journal_keeps_no_card_number_of_an_upload() -> None:
    world = shop()
    sell(world, 1)
    assert asked(world, "0320", upload(2, *details(1))) == "00"
    kept = world.journal.stored(unionpay_key(2, message_class="3"))
    assert UNIONPAY not in repr(kept.request.fields)


@pytest.mark.parametrize("currencies", [("156", "392"), ("392", "392")])
def test_amounts_in_another_currency_are_never_settled_as_if_they_were_in_the_one_that_the_totals_name(
    currencies: tuple[str, str],
) -> None:
    world = shop()
    for stan, currency in enumerate(currencies, 1):
        assert asked(world, "0200", {**unionpay_sale(stan), 49: currency}) == "00"
    assert asked(world, "0500", settlement(3, Totals(2_000, 2))) == "00"
    assert not sent(world, "0500")
    row = world.journal.row(unionpay_key(3, message_class="5"))
    assert (row.state, row.reason.partition(PARKED_FROM)[0]) == (State.PARKED, "replay.unencodable")
    assert [alarm.code for alarm in world.alarms if alarm.code == "parked"]
