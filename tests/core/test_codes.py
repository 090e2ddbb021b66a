"""The table of response codes: what each means for a request, an advice and a reversal (DOMAIN, response codes)."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.core.effects import Purpose
from gateway.core.events import Connected, OperatorAct
from gateway.core.lifecycle import EntryKind, State
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import HostRules
from tests.core.acquirer import REFUSES, SILENT_BOOKED, SILENT_LOST, Acquirer, Mood, answers
from tests.core.messages import UNIONPAY_HOST, UNIONPAY_RULES, key, reversal, sale, unionpay_key, unionpay_sale
from tests.core.world import World

APPROVED = ("00", "08", "10", "11", "16")
LANE = "MERCHANT0000001|TERM0001"
DEBIT_OPEN = ("09", "68", "91", "96", "98", "A0")
UNHEARD_OF = ("", "  ", "ZZ", "0 ", "000", "0", "0A", "8")
DECLINED = ("01", "05", "12", "25", "30", "51", "55", "77", "90", "92", "95", "99")
RETRY = ("09", "68", "90", "91", "92", "96", "98", "77", "A0")


@pytest.mark.parametrize(
    ("code", "state"),
    [(code, State.APPROVED) for code in APPROVED]
    + [(code, State.REVERSING) for code in (*DEBIT_OPEN, *UNHEARD_OF)]
    + [(code, State.DECLINED) for code in DECLINED]
    + [("94", State.PARKED)],
)
def test_what_a_code_means_for_a_request(code: str, state: State) -> None:
    world = World()
    world.acquirer.moods.extend([answers(code, books=state is State.APPROVED), SILENT_LOST])
    token = world.ask("0200", sale())
    world.run()
    assert world.journal.row(key()).state is state
    # A0 is about the gateway's own MAC: a terminal that heard it would sign on for nothing.
    assert world.code(token) == ("68" if code in {*UNHEARD_OF, "A0"} else code)


def test_94_to_a_request_is_never_a_decline_but_a_persons_matter_with_an_alarm() -> None:
    world = World()
    world.acquirer.moods.append(answers("94"))
    world.ask("0200", sale())
    world.run()
    assert world.journal.log[-1].kind is EntryKind.PARKED
    assert world.alarms[-1].code == "request-duplicate-at-host"
    assert world.journal.row(key()).resume is State.CANCELLED
    assert "ask the acquirer" in world.command(OperatorAct.RELEASE, 1)
    world.ask("0400", reversal(sale(), 2))
    world.run()
    assert world.journal.row(key()).state is State.PARKED, "a reversal could undo another customer's sale"
    assert not [send for send in world.sends if send.purpose is Purpose.REVERSAL]
    world.command(OperatorAct.VOID, 1)
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED


def test_94_to_the_repeat_of_a_request_says_that_the_first_may_be_booked_and_is_reversed() -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer.moods.extend([SILENT_LOST, answers("94")])
    world.ask("0200", sale())
    world.run()
    world.advance(15_000)
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED


class _TakesNoRepeat(Acquirer):
    """It answers the repeat of a request with its mood's code, whatever it has decided of the first."""

    def arrive(self, purpose: Purpose, message: Message, mood: Mood) -> Fields:
        if message.mti != "0201":
            return super().arrive(purpose, message, mood)
        return {**{n: message.fields[n] for n in (3, 4, 11, 41, 42)}, 39: mood.code}


@pytest.mark.parametrize("code", ["12", "25", "30", "40", "77", "90", "92", "95", "97"])
@pytest.mark.parametrize("first", [SILENT_BOOKED, Mood(after_ms=20_000)], ids=["booked", "on its way"])
def test_d11_a_code_that_is_about_the_repeat_leaves_open_what_became_of_the_first_send(code: str, first: Mood) -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer = _TakesNoRepeat(moods=deque([first, answers(code)]))
    token = world.ask("0200", sale())
    world.run()
    world.advance(15_000)
    assert (world.code(token), world.journal.row(key()).state) == (code, State.REVERSING)
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED
    assert world.acquirer.net((LANE, "000001")) == 0
    assert not world.acquirer.overtaken


@pytest.mark.parametrize("code", ["05", "51", "55"])
def test_a_decline_of_the_repeat_is_a_decline(code: str) -> None:
    world = World(host=HostRules(repeat_request=True))
    world.acquirer.moods.extend([SILENT_LOST, answers(code)])
    token = world.ask("0200", sale())
    world.run()
    world.advance(15_000)
    assert (world.code(token), world.journal.row(key()).state) == (code, State.DECLINED)


@pytest.mark.parametrize(
    ("code", "state"),
    [(code, State.APPROVED) for code in APPROVED]
    + [(code, State.STORED) for code in RETRY]
    + [(code, State.PARKED) for code in ("94", "30", "05", "12", "25", "51", "95", "000", "")],
)
def test_what_a_code_means_for_an_advice(code: str, state: State) -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.append(answers(code, books=True))
    world.up()
    assert world.journal.row(key()).state is state


def test_94_to_the_repeat_of_an_advice_says_that_the_first_was_taken() -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend([SILENT_LOST, answers("94")])
    world.up()
    world.advance(120_000)
    assert world.journal.row(key()).state is State.APPROVED


@pytest.mark.parametrize("times", [1, 3])
def test_94_to_an_advice_of_which_no_byte_had_left_before_is_another_transactions_too(times: int) -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend([REFUSES] * times + [answers("94")])
    world.up()
    world.advance(120_000)
    assert world.journal.row(key()).state is State.PARKED


def test_94_to_an_advice_that_the_link_went_down_before_is_another_transactions_too() -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.connected = True
    world.step(Connected(True))
    world.deliver()  # the probe
    world.look_up()
    world.commit()  # its send is on the disk
    world.down()
    world.run()
    assert (world.journal.row(key()).attempts, world.sends) == (1, [])
    world.acquirer.moods.append(answers("94"))
    world.up()
    world.advance(120_000)
    assert world.journal.row(key()).state is State.PARKED


def test_94_to_the_first_send_of_an_advice_is_another_transactions_and_a_persons_matter() -> None:
    world = World(up=False, rules=UNIONPAY_RULES)
    world.ask("0200", unionpay_sale(1, 1_000))
    world.ask("0200", unionpay_sale(1, 2_500, batch="000002"))
    world.run()
    world.up()
    world.advance(120_000)
    states = [world.journal.row(unionpay_key(1, batch=batch)).state for batch in ("000001", "000002")]
    assert states == [State.APPROVED, State.PARKED], "a host without batches knows the STAN as the first one"
    assert sum(world.acquirer.booked.values()) == 1_000
    world.acquirer.moods.append(answers("94"))
    assert world.command(OperatorAct.RELEASE, 2) == "transaction 2 is now stored"
    world.advance(120_000)
    assert world.journal.row(unionpay_key(1, batch="000002")).state is State.APPROVED, "somebody has looked"


@pytest.mark.parametrize(
    ("code", "state"),
    [(code, State.REVERSED) for code in ("00", "12", "25")]
    + [(code, State.REVERSING) for code in RETRY]
    + [(code, State.PARKED) for code in ("94", "05", "30", "51", "08", "95", "000", "")],
)
def test_what_a_code_means_for_a_reversal(code: str, state: State) -> None:
    world = World()
    world.acquirer.moods.extend([SILENT_LOST, Mood(extra=((39, code),))])
    world.ask("0200", sale())
    world.run()
    world.advance(30_000)
    assert world.journal.row(key()).state is state


@pytest.mark.parametrize("code", ["12", "25", "94"])
@pytest.mark.parametrize("undone_by", ["terminal", "operator"])
def test_d13_a_sale_that_the_acquirer_approved_is_not_called_reversed_where_it_refuses_to(
    code: str, undone_by: str
) -> None:
    world = World()
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.append(Mood(arrives=True, extra=((39, code),)))
    if undone_by == "terminal":
        assert world.code(world.ask("0400", reversal(sale(), 2))) in ("", "00")
    else:
        world.command(OperatorAct.VOID, 1)
    world.run()
    world.advance(60_000)
    assert world.journal.row(key()).state is State.PARKED, "its batch may be settled, and the money gone"
    assert world.alarms[-1].code == "parked"
    world.acquirer.moods.append(Mood(extra=((39, code),)))
    assert world.command(OperatorAct.RELEASE, 1) == "transaction 1 is now reversing"
    world.advance(60_000)
    assert world.journal.row(key()).state is State.REVERSED, "somebody has looked"


@pytest.mark.parametrize(
    "approval", [Mood(extra=((4, "000000000001"),)), Mood(after_ms=20_000)], ids=["another amount", "late"]
)
def test_d13_nor_is_one_that_it_approved_otherwise_or_too_late(approval: Mood) -> None:
    world = World()
    world.acquirer.moods.extend([approval, Mood(extra=((39, "25"),))])
    token = world.ask("0200", sale())
    world.run()
    world.advance(60_000)
    assert world.code(token) == "68"
    assert world.journal.row(key()).state is State.PARKED, "it knew the sale"


@pytest.mark.parametrize("reversed_when", ["its advice is booked", "its advice is on its way", "it was the terminal's"])
def test_d13_nor_is_one_whose_advice_it_has_taken(reversed_when: str) -> None:
    world = World(up=reversed_when == "it was the terminal's")
    world.ask("0220" if reversed_when == "it was the terminal's" else "0200", sale())
    world.run()
    world.acquirer.moods.extend([Mood(answers=False)] if reversed_when == "its advice is on its way" else [])
    world.up()
    world.advance(1_000)
    if reversed_when == "its advice is on its way":
        world.ask("0400", reversal(sale(), 2))
        world.run()
        assert world.journal.row(key()).state is State.STORED_CANCELLED
        world.acquirer.moods.extend([Mood(), Mood(extra=((39, "25"),))])
    else:
        assert world.journal.row(key()).state is State.APPROVED
        world.acquirer.moods.append(Mood(extra=((39, "25"),)))
        world.ask("0400", reversal(sale(), 2))
    world.run()
    world.advance(120_000)
    assert world.journal.row(key()).state is State.PARKED, "it had it, and says now that it never had"
    assert world.journal.row(key()).reason.startswith("answer.code-25")


def test_d13_one_that_stood_in_and_that_the_acquirer_never_had_is_reversed_where_it_does_not_know_it() -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend([answers("05"), Mood(extra=((39, "25"),))])
    world.up()
    world.advance(1_000)
    assert world.journal.row(key()).state is State.PARKED, "its advice was refused"
    world.ask("0400", reversal(sale(), 2))
    world.run()
    world.advance(120_000)
    assert world.journal.row(key()).state is State.REVERSED


@pytest.mark.parametrize(
    ("put_off", "state"),
    [("A0", State.PARKED), ("90", State.PARKED), ("91", State.REVERSED), ("96", State.REVERSED)],
)
def test_d13_what_the_acquirer_did_not_take_in_is_no_first_asking(put_off: str, state: State) -> None:
    world = World()
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend([answers(put_off), Mood(extra=((39, "25"),))])
    world.ask("0400", reversal(sale(), 2))
    world.run()
    world.advance(120_000)
    assert world.journal.row(key()).state is state


@pytest.mark.parametrize("parked_twice", [False, True])
def test_d13_nor_where_its_terminal_asks_once_more_before_a_person_has_looked(parked_twice: bool) -> None:
    world = World()
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.append(Mood(denies=True))
    for stan in (2, 3, 4) if parked_twice else (2, 3):
        assert world.code(world.ask("0400", reversal(sale(), stan))) in ("", "00")
        world.run()
        world.advance(120_000)
        assert world.journal.row(key()).state is State.PARKED
        assert world.journal.row(key()).reason.startswith("answer.code-25 < terminal.reversal")
    world.command(OperatorAct.RELEASE, 1)
    world.advance(120_000)
    assert world.journal.row(key()).state is State.REVERSED, "somebody has looked"


@pytest.mark.parametrize("code", ["12", "25", "94"])
def test_d13_where_its_first_send_was_not_answered_a_reversal_refused_is_done(code: str) -> None:
    world = World()
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend([Mood(answers=False), Mood(extra=((39, code),))])
    world.ask("0400", reversal(sale(), 2))
    world.run()
    world.advance(120_000)
    assert world.journal.row(key()).state is State.REVERSED
    world.check_settled()


@pytest.mark.parametrize(
    ("host", "before", "state"),
    [
        (HostRules(), [], State.PARKED),
        (HostRules(), [Mood(answers=False)], State.REVERSED),
        (UNIONPAY_HOST, [], State.REVERSED),
    ],
    ids=["a STAN of its own", "its repeat", "the STAN of its original"],
)
def test_94_to_the_first_send_of_a_reversal_says_that_its_own_stan_is_another_messages(
    host: HostRules, before: list[Mood], state: State
) -> None:
    world = World(host=host, rules=UNIONPAY_RULES)
    world.acquirer.moods.extend([Mood(answers=False), *before, Mood(extra=((39, "94"),))])
    world.ask("0200", unionpay_sale())
    world.run()
    world.advance(120_000)
    assert world.journal.rows[1].transaction.state is state


def test_which_codes_approve_is_the_hosts_matter() -> None:
    for host, state in ((UNIONPAY_HOST, State.APPROVED), (HostRules(), State.REVERSED)):  # no proof of a decline
        world = World(host=host, rules=UNIONPAY_RULES)
        world.acquirer.moods.append(Mood(code="A2"))
        world.ask("0200", unionpay_sale())
        world.run()
        assert world.journal.rows[1].transaction.state is state
        world.check_settled()


def _sale_whose_stan_is_anothers() -> World:
    """A sale that was stood in for, and whose STAN the acquirer has booked for another till's."""
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.append(answers("94"))
    world.up()
    world.advance(1_000)
    assert (world.journal.row(key()).state, world.acquirer.net((LANE, "000001"))) == (State.PARKED, 1)
    return world


def test_a_terminals_reversal_of_a_sale_whose_stan_is_anothers_undoes_nothing_before_a_person_has_looked() -> None:
    world = _sale_whose_stan_is_anothers()
    for stan in (2, 3):
        token = world.ask("0400", reversal(sale(), stan))
        world.run()
        world.advance(120_000)
        assert world.code(token) == "00"
        assert world.journal.row(key()).state is State.PARKED
        assert world.acquirer.net((LANE, "000001")) == 1, "the other till's sale stands"
    token = world.ask("0201", sale())
    world.run()
    assert world.code(token) == "12"
    assert "no reversal is sent any more" in world.command(OperatorAct.CANCEL, 1)
    assert world.acquirer.net((LANE, "000001")) == 1
    world.journal.check_counters()


def test_a_released_sale_that_its_terminal_has_reversed_is_reversed_behind_its_advice() -> None:
    world = _sale_whose_stan_is_anothers()
    world.ask("0400", reversal(sale(), 2))
    world.run()
    assert world.command(OperatorAct.RELEASE, 1) == "transaction 1 is now stored-cancelled"
    world.advance(120_000)
    assert world.journal.row(key()).state is State.REVERSED
    assert world.acquirer.net((LANE, "000001")) == 0
    world.journal.check_counters()


@pytest.mark.parametrize("code", ["12", "25"])
def test_d13_a_reversal_that_could_not_be_encoded_is_asked_for_the_first_time_once_it_is_released(code: str) -> None:
    world = World()
    world.ask("0200", sale())
    world.run()
    world.refused_at_link = "unencodable: field 48"
    world.ask("0400", reversal(sale(), 2))
    world.run()
    assert world.journal.row(key()).reason == "replay.unencodable < terminal.reversal"
    world.refused_at_link = ""
    world.acquirer.unknown = code
    world.acquirer.moods.append(Mood(denies=True))
    world.command(OperatorAct.RELEASE, 1)
    world.advance(60_000)
    assert world.sends[-1].message.mti == "0400", "nothing of it has left before"
    assert (world.journal.row(key()).state, world.acquirer.net((LANE, "000001"))) == (State.PARKED, 1)


def test_94_to_an_advice_that_never_left_is_another_transactions_also_where_it_was_voided() -> None:
    world = World(up=False)
    world.ask("0200", sale())
    world.run()
    world.acquirer.moods.extend([REFUSES, answers("94")])
    world.up()
    world.command(OperatorAct.VOID, 1)
    world.advance(120_000)
    assert (world.journal.row(key()).state, world.acquirer.net((LANE, "000001"))) == (State.PARKED, 1)
