"""Whatever bit of a message with a MAC is turned over, it is refused and nothing comes of it (A0)."""

from __future__ import annotations

import asyncio

import pytest

from gateway.terminals.connection import TerminalConnection
from gateway.terminals.limits import Count, ListenerSettings
from gateway.terminals.session_keys import MasterKey, work_key
from protocol.dukpt import KeyUse, initial_key, transaction_key, working_key
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.rules import MacKeys
from protocol.mac_method import MacMethod
from tests.terminals.session_shop import (
    DAY_MS,
    KEYS,
    OTHER,
    TERMINAL,
    TMK,
    UNIONPAY,
    SessionShop,
    fixed,
    maced,
    with_rules,
)
from tests.terminals.terminal import sale

KEY_8, KEY_16 = TMK[:8], TMK
KSN = "ffff9876543210e00001"
METHODS = [
    pytest.param(fixed(MacMethod.UNIONPAY_ECB), KEY_8, id="unionpay-ecb single"),
    pytest.param(fixed(MacMethod.UNIONPAY_ECB), KEY_16, id="unionpay-ecb double"),
    pytest.param(fixed(MacMethod.X9_9), KEY_8, id="x9.9"),
    pytest.param(fixed(MacMethod.X9_19), KEY_16, id="x9.19"),
    pytest.param(fixed(MacMethod.AES_CMAC), KEY_16, id="aes-cmac"),
]


def sale_frame(dialect: Dialect, key: bytes) -> bytes:
    """A sale by chip with an online PIN: fields of every format that the dialect has."""
    message = sale(
        dialect, 1, f26="12", f35="4111111111111111=2512101123456789", f52="1122334455667788", f53="2600000000000000",
        f55="9f2608112233445566778882027c00", f62="001122", f63="303120",
    )  # fmt: skip
    return dialect.codec.encode(maced(dialect, key, message))


def refused(s: SessionShop) -> int:
    """Messages that were answered A0 or 30, or hung up on."""
    counters = s.listener.counters()
    return sum(
        counters[count]
        for count in (
            Count.MAC_WRONG, Count.MAC_MISSING, Count.MAC_UNKNOWN_TERMINAL, Count.MAC_NO_KEY, Count.BAD_MESSAGE,
            Count.BAD_MESSAGE_CLOSED, Count.BAD_MTI_CLOSED,
        )
    )  # fmt: skip


async def flip_every_bit(s: SessionShop, frame: bytes) -> None:
    """Hand in the frame with each bit from MTI to MAC turned over, and then as it was."""
    await s.listener.start()
    connection = TerminalConnection(
        s.listener, ListenerSettings(), s.dialect.framing, asyncio.get_running_loop(), ("192.0.2.7", "192.0.2.7:40312")
    )
    try:
        first = 8 * s.dialect.codec.layout.mti_offset
        for bit in range(first, 8 * len(frame)):
            flipped = bytearray(frame)
            flipped[bit // 8] ^= 0x80 >> bit % 8
            before = refused(s)
            s.listener.take(connection, bytes(flipped))
            assert s.requested == [], f"bit {bit % 8} of byte {bit // 8} was turned over, and the message was taken"
            assert refused(s) > before
        assert s.listener.gauges()["in_flight"] == 0
        assert s.listener.counters()["requests"] == 0
        s.listener.take(connection, frame)
        assert len(s.requested) == 1  # it was the flips that were refused
    finally:
        await s.listener.close()


@pytest.mark.parametrize(("dialect", "key"), METHODS)
def test_no_message_with_a_bit_turned_over_is_submitted(dialect: Dialect, key: bytes) -> None:
    keys = {TERMINAL: MasterKey(key), OTHER: MasterKey(key[::-1])}
    asyncio.run(flip_every_bit(SessionShop(dialect, keys, ListenerSettings()), sale_frame(dialect, key)))


@pytest.mark.parametrize("method", [MacMethod.UNIONPAY_ECB, MacMethod.X9_9, MacMethod.X9_19])
def test_nor_under_work_keys(method: MacMethod) -> None:
    dialect = with_rules(UNIONPAY, mac_method=method)
    s = SessionShop(dialect, KEYS, ListenerSettings())
    key = session_mac_key(s, 8 if method is MacMethod.X9_9 else 16)
    asyncio.run(flip_every_bit(s, sale_frame(dialect, key)))


def session_mac_key(s: SessionShop, size: int) -> bytes:
    return work_key(TMK, "mac", TERMINAL, s.utc_ms // DAY_MS, size)


@pytest.mark.parametrize("method", [MacMethod.UNIONPAY_ECB, MacMethod.X9_19])
def test_nor_with_a_key_for_each_message(method: MacMethod) -> None:
    dialect = with_rules(UNIONPAY, mac_method=method, mac_keys=MacKeys.DUKPT, key_serial_field=46)
    serial = bytes.fromhex(KSN)
    key = working_key(transaction_key(initial_key(TMK, serial), serial), KeyUse.MAC_REQUEST)
    frame = dialect.codec.encode(maced(dialect, key, sale(dialect, 1, f46=KSN)))
    asyncio.run(flip_every_bit(SessionShop(dialect, KEYS, ListenerSettings()), frame))
