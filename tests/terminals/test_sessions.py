"""A terminal in a session: its MACs are checked, it is answered with MACs, and it gets its keys by signing on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.transaction import Answer, Kind
from gateway.terminals.limits import ListenerSettings
from gateway.terminals.session_keys import ANY_TERMINAL, MasterKey, SessionsImpossible
from gateway.terminals.sessions import UNKNOWN_TERMINALS, Admitted, Refused, TerminalSessions
from protocol import dukpt
from protocol.dukpt import KeyUse
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.rules import MacKeys
from protocol.mac import MacKeyError
from protocol.mac_method import MacMethod
from protocol.tdes import check_value, ecb_encrypt
from protocol.work_keys import open_work_keys
from tests.acquirers.waiting import on_each_loop
from tests.terminals.session_shop import (
    DAY_MS,
    KEYS,
    OTHER,
    OTHER_TMK,
    TERMINAL,
    TMK,
    UNIONPAY,
    SessionShop,
    fixed,
    is_maced,
    maced,
    session_shop,
    sign_on_message,
    signed_on,
    with_rules,
)
from tests.terminals.terminal import HEADER, PAN, TPDU, Terminal, sale

ASCII = load_dialect("iso87-ascii")
KSN = "ffff9876543210e00001"
NEXT_KSN = "ffff9876543210e00002"


async def refused_a0(terminal: Terminal) -> Message:
    """The next answer, which is A0 and has no MAC."""
    answer = await terminal.receive()
    assert answer.fields[39] == "A0"
    assert 64 not in answer.fields
    return answer


# --- sessions by sign-on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["001", "003", "004"])
@pytest.mark.parametrize("method", [MacMethod.UNIONPAY_ECB, MacMethod.X9_9, MacMethod.X9_19])
@on_each_loop
async def test_a_terminal_signs_on_and_sells_under_the_keys_that_it_got(method: MacMethod, code: str) -> None:
    dialect = with_rules(UNIONPAY, mac_method=method)
    async with session_shop(dialect) as s, await s.terminal() as terminal:
        if (method, code) == (MacMethod.X9_19, "001"):
            terminal.send(sign_on_message(code))
            assert (await terminal.receive()).fields[39] == "12"
            return
        keys = await signed_on(terminal, code)
        terminal.send(maced(dialect, keys.mac, sale(dialect, 1)))
        answer = await terminal.receive()
        assert (answer.mti, answer.fields[11], answer.fields[39]) == ("0210", "000001", "00")
        assert is_maced(dialect, keys.mac, answer)
        assert answer.header == HEADER
        assert [r.request.kind for r in s.requested] == [Kind.NETWORK, Kind.SALE]
        assert s.listener.counters()["signed_on"] == 1
        assert s.sessions.refusals() == {}


@pytest.mark.parametrize(
    ("code", "field_bytes", "lengths"),
    [("001", 24, (8, 8, None)), ("003", 40, (16, 16, None)), ("004", 60, (16, 16, 16))],
)
@pytest.mark.parametrize("check_value_bytes", [3, 4])
@on_each_loop
async def test_the_answer_to_a_sign_on_has_the_layout_that_was_asked_for(
    code: str, field_bytes: int, lengths: tuple[int, int, int | None], check_value_bytes: int
) -> None:
    dialect = with_rules(UNIONPAY, check_value_bytes=check_value_bytes)
    async with session_shop(dialect) as s, await s.terminal() as terminal:
        terminal.send(sign_on_message(code))
        field = bytes.fromhex((await terminal.receive()).fields[62])
        assert len(field) == field_bytes - (4 - check_value_bytes) * (3 if code == "004" else 2)
        keys = open_work_keys(TMK, field, check_value_bytes)
        assert (len(keys.pin), len(keys.mac), keys.track and len(keys.track)) == lengths
        assert len({keys.pin[:8], keys.mac[:8], keys.track}) == 3  # each its own


@on_each_loop
async def test_keys_are_a_terminals_own_and_the_same_for_a_whole_period() -> None:
    async with session_shop() as s, await s.terminal() as one, await s.terminal() as other:
        first = await signed_on(one)
        assert await signed_on(one) == first
        others = await signed_on(other, name=OTHER)
        assert {first.pin, first.mac}.isdisjoint({others.pin, others.mac})
        s.utc_ms += DAY_MS
        later = await signed_on(one)
        assert {first.pin, first.mac}.isdisjoint({later.pin, later.mac})


@on_each_loop
async def test_a_period_is_as_long_as_the_dialect_says() -> None:
    async with session_shop(with_rules(UNIONPAY, work_key_hours=1)) as s, await s.terminal() as terminal:
        s.utc_ms = 1_795_000_000_000 // 3_600_000 * 3_600_000
        first = await signed_on(terminal)
        s.utc_ms += 3_599_999
        assert await signed_on(terminal) == first
        s.utc_ms += 1
        assert await signed_on(terminal) != first


@on_each_loop
async def test_keys_of_the_period_before_pass_and_the_answer_asks_for_a_new_sign_on() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        old = await signed_on(terminal)
        s.utc_ms += DAY_MS
        for stan in (1, 2):  # also where it is known that these matched last
            terminal.send(maced(UNIONPAY, old.mac, sale(UNIONPAY, stan)))
            answer = await terminal.receive()
            assert answer.fields[39] == "00"
            assert answer.header.hex() == HEADER.hex()[:5] + "3" + HEADER.hex()[6:]
            assert is_maced(UNIONPAY, old.mac, answer)  # it has no other key yet
        assert s.listener.counters()["mac_of_previous_period"] == 2
        new = await signed_on(terminal)
        terminal.send(maced(UNIONPAY, new.mac, sale(UNIONPAY, 3)))
        answer = await terminal.receive()
        assert (answer.fields[39], answer.header) == ("00", HEADER)
        s.utc_ms += DAY_MS
        terminal.send(maced(UNIONPAY, old.mac, sale(UNIONPAY, 4)))
        await refused_a0(terminal)
        terminal.send(maced(UNIONPAY, new.mac, sale(UNIONPAY, 5)))
        assert (await terminal.receive()).fields[39] == "00"
        s.utc_ms += 7 * DAY_MS  # a shop that was closed
        terminal.send(maced(UNIONPAY, new.mac, sale(UNIONPAY, 6)))
        await refused_a0(terminal)
        new = await signed_on(terminal)
        terminal.send(maced(UNIONPAY, new.mac, sale(UNIONPAY, 7)))
        assert (await terminal.receive()).fields[39] == "00"


@pytest.mark.parametrize(("digit", "asked"), [(-1, HEADER.hex()), (12, HEADER.hex()), (0, "3" + HEADER.hex()[1:])])
@on_each_loop
async def test_a_header_without_the_digit_goes_back_as_it_came(digit: int, asked: str) -> None:
    dialect = with_rules(UNIONPAY, requirement_digit=digit)
    async with session_shop(dialect) as s, await s.terminal() as terminal:
        keys = await signed_on(terminal)
        s.utc_ms += DAY_MS
        terminal.send(maced(dialect, keys.mac, sale(dialect, 1)))
        assert (await terminal.receive()).header.hex() == asked


@pytest.mark.parametrize("periods", [0, 1])
@pytest.mark.parametrize("code", ["001", "003"])
@on_each_loop
async def test_a_gateway_that_was_started_anew_knows_the_keys_that_it_gave(code: str, periods: int) -> None:
    async with session_shop() as before, await before.terminal() as terminal:
        keys = await signed_on(terminal, code)
    async with session_shop() as after, await after.terminal() as terminal:
        after.utc_ms += periods * DAY_MS
        terminal.send(maced(UNIONPAY, keys.mac, sale(UNIONPAY, 1)))
        answer = await terminal.receive()
        assert answer.fields[39] == "00"
        assert is_maced(UNIONPAY, keys.mac, answer)


@on_each_loop
async def test_a_terminal_may_change_the_length_of_its_keys() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        for stan, code in enumerate(["001", "004", "001", "003"]):
            keys = await signed_on(terminal, code)
            terminal.send(maced(UNIONPAY, keys.mac, sale(UNIONPAY, stan)))
            assert is_maced(UNIONPAY, keys.mac, await terminal.receive())


@on_each_loop
async def test_the_answer_to_a_sign_on_tells_the_local_time_whatever_the_terminal_said() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        s.utc_ms = 1_798_736_523_000  # 2026-12-31 17:02:03 UTC
        terminal.send(sign_on_message("003"))
        answer = await terminal.receive()
        assert (answer.fields[12], answer.fields[13]) == ("010203", "0101")
        s.approves = False
        terminal.send(sign_on_message("003"))
        await s.submitted(2)
        s.approve(s.requested[-1], f12="111111", f13="0222")
        answer = await terminal.receive()
        assert (answer.fields[12], answer.fields[13]) == ("010203", "0101")


@on_each_loop
async def test_only_the_answer_that_is_sent_has_keys_and_only_if_the_sign_on_is_approved() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        s.approves = False
        terminal.send(sign_on_message("003"))
        await s.submitted(1)
        s.listener.reply(s.requested[0].terminal_token, Answer("0810", {11: "000001", 39: "96", 41: TERMINAL}))
        answer = await terminal.receive()
        assert answer.fields == {11: "000001", 39: "96", 41: TERMINAL}
        s.approves = False
        terminal.send(sign_on_message("003"))
        await s.submitted(2)
        kept = Answer("0810", {11: "000001", 39: "00", 41: TERMINAL})
        s.listener.reply(s.requested[1].terminal_token, kept)
        assert 62 in (await terminal.receive()).fields
        assert kept.fields.keys() == {11, 39, 41}
        assert s.listener.counters()["signed_on"] == 1
        s.listener.stop_admitting()
        terminal.send(sign_on_message("003"))
        answer = await terminal.receive()
        assert answer.fields[39] == "96"
        assert answer.fields.keys().isdisjoint({12, 13, 62})
        assert s.listener.counters()["signed_on"] == 1


@pytest.mark.parametrize("code", ["002", "301"])
@on_each_loop
async def test_other_network_messages_need_no_mac_and_get_no_keys(code: str) -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        terminal.send(replace(sign_on_message(code, "T9999999"), mti="0820"))
        answer = await terminal.receive()
        assert answer.fields[39] == "00"
        assert answer.fields.keys().isdisjoint({12, 13, 62, 64})


@on_each_loop
async def test_a_sign_on_of_a_terminal_without_a_master_key_is_answered_58() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        for name in ("T9999999", ANY_TERMINAL.ljust(8)):
            terminal.send(sign_on_message("003", name))
            answer = await terminal.receive()
            assert (answer.mti, answer.fields[39]) == ("0810", "58")
            assert 62 not in answer.fields
        nameless = sign_on_message("003")
        del nameless.fields[41]
        terminal.send(nameless)
        assert (await terminal.receive()).fields[39] == "58"
        assert s.requested == []
        assert s.listener.counters()["answered_sign_on_unknown_terminal"] == 3
        assert "T9999999" not in repr(s.reports)


@pytest.mark.parametrize(("key", "code"), [(TMK[:8], "003"), (TMK[:8], "004")])
@on_each_loop
async def test_a_sign_on_that_a_master_key_is_too_short_for_is_answered_12(key: bytes, code: str) -> None:
    async with session_shop(keys={TERMINAL: MasterKey(key)}) as s, await s.terminal() as terminal:
        terminal.send(sign_on_message(code))
        assert (await terminal.receive()).fields[39] == "12"
        assert s.requested == []
        assert s.listener.counters()["answered_sign_on_unsuitable"] == 1
        assert s.reports[0][1]["terminal"] == TERMINAL
        terminal.send(sign_on_message("001"))
        answer = await terminal.receive()
        assert len(open_work_keys(key, bytes.fromhex(answer.fields[62])).mac) == 8


@on_each_loop
async def test_an_acquirers_pin_key_is_handed_on_as_it_came() -> None:
    pin = bytes.fromhex("112233445566778899AABBCCDDEEFF00")
    entry = ecb_encrypt(TMK, pin) + check_value(pin)
    async with session_shop(keys={TERMINAL: MasterKey(TMK, entry)}) as s, await s.terminal() as terminal:
        for code in ("003", "004"):
            terminal.send(sign_on_message(code))
            field = bytes.fromhex((await terminal.receive()).fields[62])
            assert field.startswith(entry)
            keys = open_work_keys(TMK, field)
            assert keys.pin == pin
            terminal.send(maced(UNIONPAY, keys.mac, sale(UNIONPAY, 1)))
            assert (await terminal.receive()).fields[39] == "00"
        terminal.send(sign_on_message("001"))  # for a PIN key of another length
        assert (await terminal.receive()).fields[39] == "12"


# --- what is refused -------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_message_without_a_mac_or_with_a_wrong_one_is_answered_a0() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        keys = await signed_on(terminal)
        right = maced(UNIONPAY, keys.mac, sale(UNIONPAY, 1))
        for bad in (
            sale(UNIONPAY, 1),  # none
            sale(UNIONPAY, 1, f64="00" * 8),
            replace(right, fields=right.fields | {4: "000000100000"}),
            replace(right, fields=right.fields | {11: "000002"}),
            maced(UNIONPAY, keys.pin, sale(UNIONPAY, 1)),
        ):
            terminal.send(bad)
            answer = await refused_a0(terminal)
            assert (answer.mti, answer.header) == ("0210", HEADER)
        assert s.listener.counters()["answered_mac_missing"] == 1
        assert s.listener.counters()["answered_mac_wrong"] == 4
        assert len(s.requested) == 1  # the sign-on
        assert s.sessions.refusals() == {TERMINAL: 5}


@on_each_loop
async def test_a_terminal_cannot_speak_for_another_one() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        keys = await signed_on(terminal)
        terminal.send(maced(UNIONPAY, keys.mac, sale(UNIONPAY, 1, f41=OTHER)))
        await refused_a0(terminal)
        others = await signed_on(terminal, name=OTHER)
        terminal.send(maced(UNIONPAY, others.mac, sale(UNIONPAY, 1)))
        await refused_a0(terminal)
        assert s.sessions.refusals() == {TERMINAL: 1, OTHER: 1}


@on_each_loop
async def test_refusals_are_counted_by_terminal_and_unknown_ones_under_one_name() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        for stan in range(50):
            terminal.send(sale(UNIONPAY, stan, f41=f"X{stan:07}", f64="00" * 8))
            await refused_a0(terminal)
        terminal.send(sale(UNIONPAY, 50, f64="00" * 8))
        await refused_a0(terminal)
        assert s.sessions.refusals() == {UNKNOWN_TERMINALS: 50, TERMINAL: 1}
        assert s.listener.counters()["answered_mac_unknown_terminal"] == 50
        assert s.reports[-1][1]["terminal"] == TERMINAL
        assert "X00000" not in repr(s.reports)
        assert s.requested == []


@pytest.mark.parametrize("code", ["360", "371", "380"])
@on_each_loop
async def test_a_download_that_the_acquirer_is_asked_for_needs_a_terminal_with_a_key(code: str) -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        for mti in ("0800", "0820"):
            terminal.send(replace(sign_on_message(code, "T9999999"), mti=mti))
            assert (await terminal.receive()).fields[39] == "58"
        assert s.requested == []
        terminal.send(sign_on_message(code))
        assert (await terminal.receive()).fields[39] == "00"
        assert len(s.requested) == 1


@on_each_loop
async def test_a_message_is_refused_a0_before_overload_or_stopping_is_told() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        s.listener.stop_admitting()
        terminal.send(sale(UNIONPAY, 1))
        await refused_a0(terminal)
        assert s.listener.counters()["answered_stopping"] == 0


@on_each_loop
async def test_what_is_refused_later_than_its_mac_is_answered_with_one() -> None:
    async with session_shop(in_flight_max=1) as s, await s.terminal() as terminal:
        keys = await signed_on(terminal)
        message = sale(UNIONPAY, 1)
        del message.fields[4]
        terminal.send(maced(UNIONPAY, keys.mac, message))
        understood = await terminal.receive()
        s.approves = False
        terminal.send(*(maced(UNIONPAY, keys.mac, sale(UNIONPAY, stan)) for stan in (2, 3)))
        overloaded = await terminal.receive()
        s.listener.stop_admitting()
        terminal.send(maced(UNIONPAY, keys.mac, sale(UNIONPAY, 4)))
        stopping = await terminal.receive()
        assert [a.fields[39] for a in (understood, overloaded, stopping)] == ["30", "96", "96"]
        assert all(is_maced(UNIONPAY, keys.mac, a) for a in (understood, overloaded, stopping))
        s.approve(s.requested[-1])
        assert is_maced(UNIONPAY, keys.mac, await terminal.receive())


# --- answers ---------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_retry_gets_the_stored_answer_with_a_mac_of_its_own_and_the_stored_one_is_left_alone() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        s.approves = False
        stored = Answer("0210", {11: "000001", 37: "000000000001", 39: "00", 41: TERMINAL, 64: "ff" * 8})
        kept = dict(stored.fields)
        keys = None
        answers = []
        for _ in range(2):
            s.approves = True
            keys = await signed_on(terminal)
            s.approves = False
            terminal.send(maced(UNIONPAY, keys.mac, sale(UNIONPAY, 1)))
            asked = len(s.requested) + 1
            await s.submitted(asked)
            s.listener.reply(s.requested[-1].terminal_token, stored)
            answers.append(await terminal.receive())
            assert is_maced(UNIONPAY, keys.mac, answers[-1])
            assert stored.fields == kept
            s.utc_ms += DAY_MS
        assert answers[0].fields[64] != answers[1].fields[64]
        del answers[0].fields[64], answers[1].fields[64]
        assert answers[0].fields == answers[1].fields


@on_each_loop
async def test_what_the_host_said_too_much_is_left_out_before_the_mac_is_made() -> None:
    async with session_shop() as s, await s.terminal() as terminal:
        s.approves = False
        keys = await signed_on_with(s, terminal)
        terminal.send(maced(UNIONPAY, keys, sale(UNIONPAY, 1)))
        await s.submitted(2)
        s.approve(s.requested[-1], f38="too long for this", f90="0" * 42)
        answer = await terminal.receive()
        assert 38 not in answer.fields
        assert is_maced(UNIONPAY, keys, answer)


async def signed_on_with(s: SessionShop, terminal: Terminal) -> bytes:
    s.approves = True
    keys = await signed_on(terminal)
    s.approves = False
    return keys.mac


# --- fixed keys, and other dialects ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "size"),
    [(MacMethod.UNIONPAY_ECB, 8), (MacMethod.UNIONPAY_ECB, 16), (MacMethod.X9_9, 8), (MacMethod.X9_19, 16)]
    + [(MacMethod.AES_CMAC, size) for size in (16, 24, 32)],
)
@on_each_loop
async def test_a_fixed_key_macs_both_ways_whatever_the_period(method: MacMethod, size: int) -> None:
    key = (TMK + OTHER_TMK)[:size]
    dialect = fixed(method)
    async with session_shop(dialect, {TERMINAL: MasterKey(key)}) as s, await s.terminal() as terminal:
        for stan in range(3):
            terminal.send(maced(dialect, key, sale(dialect, stan)))
            answer = await terminal.receive()
            assert (answer.fields[39], answer.header) == ("00", HEADER)
            assert is_maced(dialect, key, answer)
            s.utc_ms += DAY_MS
        terminal.send(maced(dialect, key[::-1], sale(dialect, 9)))
        await refused_a0(terminal)
        terminal.send(sign_on_message("003"))
        answer = await terminal.receive()
        assert answer.fields[39] == "00"
        assert 62 not in answer.fields
        assert 12 in answer.fields


@pytest.mark.parametrize("field", [64, 128])
@pytest.mark.parametrize("method", [MacMethod.UNIONPAY_ECB, MacMethod.X9_19, MacMethod.AES_CMAC])
@on_each_loop
async def test_a_mac_may_be_hex_text_in_field_64_or_128(method: MacMethod, field: int) -> None:
    dialect = fixed(method, ASCII, mac_field=field)
    async with session_shop(dialect) as s, await s.terminal() as terminal:
        terminal.send(maced(dialect, TMK, sale(dialect, 1, **({"f102": "12345"} if field == 128 else {}))))
        answer = await terminal.receive()
        assert answer.fields[39] == "00"
        assert is_maced(dialect, TMK, answer)
        terminal.send(maced(dialect, OTHER_TMK, sale(dialect, 1)))
        answer = await terminal.receive()
        assert answer.fields[39] == "A0"
        assert answer.fields.keys().isdisjoint({64, 128})
        assert len(s.requested) == 1


@on_each_loop
async def test_fields_behind_the_mac_are_refused_and_none_is_answered() -> None:
    dialect = fixed(MacMethod.X9_19, ASCII)
    async with session_shop(dialect) as s, await s.terminal() as terminal:
        behind = maced(dialect, TMK, sale(dialect, 1))
        terminal.send(replace(behind, fields=behind.fields | {102: "12345"}))
        assert (await terminal.receive()).fields[39] == "A0"
        assert s.listener.counters()["answered_mac_missing"] == 1
        s.approves = False
        terminal.send(maced(dialect, TMK, sale(dialect, 1)))
        await s.submitted(1)
        s.approve(s.requested[0], f102="12345")
        answer = await terminal.receive()
        assert 102 not in answer.fields
        assert is_maced(dialect, TMK, answer)


@on_each_loop
async def test_network_messages_carry_macs_where_they_are_not_exempt() -> None:
    dialect = fixed(MacMethod.X9_19, mac_exempt=frozenset())
    async with session_shop(dialect) as s, await s.terminal() as terminal:
        terminal.send(sign_on_message("003"))
        await refused_a0(terminal)
        terminal.send(maced(dialect, TMK, sign_on_message("003")))
        answer = await terminal.receive()
        assert (answer.fields[39], 12 in answer.fields) == ("00", True)
        assert is_maced(dialect, TMK, answer)


# --- a key for each message ------------------------------------------------------------------------------------------


def dukpt_dialect(method: MacMethod = MacMethod.X9_19, field: int = 46) -> Dialect:
    return with_rules(UNIONPAY, mac_method=method, mac_keys=MacKeys.DUKPT, key_serial_field=field)


def dukpt_keys(base: bytes, serial_hex: str, method: MacMethod = MacMethod.X9_19) -> tuple[bytes, bytes]:
    """MAC keys of a message and of its answer, as the terminal has them."""
    serial = bytes.fromhex(serial_hex).rjust(10, b"\xff")
    if method is MacMethod.AES_CMAC:
        transaction = dukpt.aes_transaction_key(dukpt.aes_initial_key(base, serial), serial)
        asks, answers = (
            dukpt.aes_working_key(transaction, serial, use) for use in (KeyUse.MAC_REQUEST, KeyUse.MAC_RESPONSE)
        )
        return asks, answers
    transaction = dukpt.transaction_key(dukpt.initial_key(base, serial), serial)
    return dukpt.working_key(transaction, KeyUse.MAC_REQUEST), dukpt.working_key(transaction, KeyUse.MAC_RESPONSE)


@pytest.mark.parametrize(
    ("method", "serials"),
    [
        (MacMethod.X9_19, [KSN, NEXT_KSN, "ffff9876543210f54555"]),
        (MacMethod.UNIONPAY_ECB, [KSN]),
        (MacMethod.X9_19, ["9876543210e00001"]),
        (MacMethod.AES_CMAC, ["123456789012345600000001", "123456789012345600000002"]),
    ],
)
@on_each_loop
async def test_each_message_has_a_key_of_its_own_and_its_answer_another_use_of_it(
    method: MacMethod, serials: list[str]
) -> None:
    dialect = dukpt_dialect(method)
    async with session_shop(dialect, {ANY_TERMINAL: MasterKey(TMK)}) as s, await s.terminal() as terminal:
        for stan, serial in enumerate(serials):
            asks, answers = dukpt_keys(TMK, serial, method)
            terminal.send(maced(dialect, asks, sale(dialect, stan, f46=serial)))
            answer = await terminal.receive()
            assert answer.fields[39] == "00"
            assert is_maced(dialect, answers, answer)
        assert len(s.requested) == len(serials)


@on_each_loop
async def test_a_key_serial_number_may_be_text_in_hex() -> None:
    dialect = dukpt_dialect(field=58)  # a field of characters
    async with session_shop(dialect, {ANY_TERMINAL: MasterKey(TMK)}) as s, await s.terminal() as terminal:
        asks, answers = dukpt_keys(TMK, KSN)
        terminal.send(maced(dialect, asks, sale(dialect, 1, f58=KSN.upper())))
        assert is_maced(dialect, answers, await terminal.receive())
        for text in ("nobody's", KSN.upper()[:-1], KSN.upper()[:-1] + "G"):
            terminal.send(maced(dialect, asks, sale(dialect, 1, f58=text)))
            await refused_a0(terminal)


@pytest.mark.parametrize(
    "serial", ["", "ffff9876543210e00000", "ffff9876543210ffffff", "76543210e00001", KSN + "00" * 3]
)
@on_each_loop
async def test_a_key_serial_number_that_no_message_has_is_answered_a0(serial: str) -> None:
    dialect = dukpt_dialect()
    async with session_shop(dialect, {ANY_TERMINAL: MasterKey(TMK)}) as s, await s.terminal() as terminal:
        message = sale(dialect, 1, f46=serial)
        terminal.send(maced(dialect, TMK, message))
        await refused_a0(terminal)
        del message.fields[46]
        terminal.send(maced(dialect, TMK, message))
        await refused_a0(terminal)
        assert s.listener.counters()["answered_mac_no_key"] == 2
        assert s.requested == []


@on_each_loop
async def test_a_terminals_own_base_key_goes_before_the_one_for_all() -> None:
    dialect = dukpt_dialect()
    keys = {ANY_TERMINAL: MasterKey(TMK), OTHER: MasterKey(OTHER_TMK)}
    async with session_shop(dialect, keys) as s, await s.terminal() as terminal:
        shared, _ = dukpt_keys(TMK, KSN)
        terminal.send(maced(dialect, shared, sale(dialect, 1, f41=OTHER, f46=KSN)))
        await refused_a0(terminal)
        own, _ = dukpt_keys(OTHER_TMK, KSN)
        terminal.send(maced(dialect, own, sale(dialect, 2, f41=OTHER, f46=KSN)))
        assert (await terminal.receive()).fields[39] == "00"


@on_each_loop
async def test_names_that_never_showed_a_right_mac_are_not_kept() -> None:
    dialect = dukpt_dialect()
    async with session_shop(dialect, {ANY_TERMINAL: MasterKey(TMK)}) as s, await s.terminal() as terminal:
        asks, _ = dukpt_keys(TMK, KSN)
        terminal.send(maced(dialect, asks, sale(dialect, 1, f46=KSN)))
        assert (await terminal.receive()).fields[39] == "00"
        for name in (TERMINAL, "X0000001", "X0000002", "        "):
            terminal.send(maced(dialect, OTHER_TMK, sale(dialect, 1, f41=name, f46=KSN)))
            await refused_a0(terminal)
        assert s.sessions.refusals() == {TERMINAL: 1, UNKNOWN_TERMINALS: 3}
        terminal.send(maced(dialect, asks, sale(dialect, 2, f41=" " * 8, f46=KSN)))
        await refused_a0(terminal)  # nobody's message has nobody's key


@on_each_loop
async def test_there_is_no_key_for_all_terminals_but_with_dukpt() -> None:
    dialect = fixed(MacMethod.X9_19)
    async with session_shop(dialect, {ANY_TERMINAL: MasterKey(TMK)}) as s, await s.terminal() as terminal:
        for name in (TERMINAL, ANY_TERMINAL.ljust(8)):
            terminal.send(maced(dialect, TMK, sale(dialect, 1, f41=name)))
            await refused_a0(terminal)
        assert s.requested == []


# --- rules that do not go together -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        (with_rules(UNIONPAY, mac_method=MacMethod.NONE), "mac_method"),
        (with_rules(UNIONPAY, mac_method=MacMethod.AES_CMAC), "fixed"),
        (with_rules(UNIONPAY, mac_exempt=frozenset()), "mac_exempt"),
        (with_rules(UNIONPAY, sign_on_codes=frozenset()), "sign_on_codes"),
        (with_rules(UNIONPAY, sign_on_codes=frozenset({"001", "005"})), "sign_on_codes"),
        (with_rules(UNIONPAY, mac_field=128), "mac_field"),
        (with_rules(UNIONPAY, mac_field=63), "mac_field"),
        (with_rules(ASCII, mac_method=MacMethod.X9_19, mac_keys=MacKeys.SIGN_ON, sign_on_codes={"003"}), "field 62"),
        (dukpt_dialect(MacMethod.X9_9), "x9.9"),
        (dukpt_dialect(field=0), "key_serial_field"),
        (dukpt_dialect(field=11), "key_serial_field"),
    ],
)
def test_rules_that_do_not_go_together_are_refused_before_anything_is_heard(dialect: Dialect, words: str) -> None:
    with pytest.raises(SessionsImpossible, match=words):
        TerminalSessions(dialect, KEYS)


def test_every_mistake_of_the_rules_is_told_at_once() -> None:
    with pytest.raises(SessionsImpossible) as caught:
        TerminalSessions(
            with_rules(UNIONPAY, mac_method=MacMethod.AES_CMAC, mac_exempt=frozenset(), mac_field=63), KEYS
        )
    assert len(caught.value.mistakes) == 3


def test_a_fixed_key_that_the_method_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(MacKeyError):
        TerminalSessions(fixed(MacMethod.X9_19), {TERMINAL: MasterKey(TMK[:8])})


# --- secrecy ---------------------------------------------------------------------------------------------------------


def test_no_key_and_no_mac_is_shown_by_repr() -> None:
    sessions = TerminalSessions(fixed(MacMethod.X9_19), KEYS)
    message = maced(fixed(MacMethod.X9_19), TMK, sale(UNIONPAY, 1))
    admitted = sessions.admit(message, UNIONPAY.codec.encode(message), 0)
    assert isinstance(admitted, Admitted)
    sign_on = TerminalSessions(UNIONPAY, KEYS).admit(sign_on_message("003"), b"", 0)
    assert isinstance(sign_on, Admitted)
    assert sign_on.sign_on is not None
    refused = sessions.admit(sale(UNIONPAY, 1), b"", 0)
    assert isinstance(refused, Refused)
    shown = repr([sessions, admitted, sign_on, refused, KEYS, MasterKey(TMK, TMK)]).lower()
    for secret in (TMK, OTHER_TMK, bytes.fromhex(message.fields[64])):
        assert secret.hex() not in shown
        assert repr(secret).lower() not in shown
    assert PAN not in shown


@on_each_loop
async def test_sessions_that_are_not_there_leave_macs_alone() -> None:
    s = SessionShop(UNIONPAY, KEYS, ListenerSettings())
    s.listener._sessions = None
    s.address = await s.listener.start()
    async with await s.terminal() as terminal:
        terminal.send(Message("0200", sale(UNIONPAY, 1).fields | {64: "00" * 8}, TPDU, HEADER))
        answer = await terminal.receive()
        assert answer.fields[39] == "00"
        assert 64 not in answer.fields
    await s.listener.close()
