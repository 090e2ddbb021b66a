"""Terminals that MAC what they send, and a listener that has their keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.core.fingerprint import KeyedHash
from gateway.terminals.iso8583 import Iso8583Listener
from gateway.terminals.limits import ListenerSettings
from gateway.terminals.session_keys import MasterKey
from gateway.terminals.sessions import TerminalSessions
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.rules import MacKeys
from protocol.mac import compute_mac
from protocol.mac_method import MacMethod
from protocol.work_keys import WorkKeys, open_work_keys
from tests.terminals.terminal import HEADER, TPDU, Shop, Terminal, since_long

UNIONPAY = load_dialect("unionpay")
TERMINAL, OTHER = "T0000001", "T0000002"  # the first is the one of `sale`
TMK = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
OTHER_TMK = bytes.fromhex("FEDCBA98765432100123456789ABCDEF")
KEYS = {TERMINAL: MasterKey(TMK), OTHER: MasterKey(OTHER_TMK)}
DAY_MS = 86_400_000
WIRE_BYTES = {"unionpay": (11, 8), "iso87-ascii": (0, 16), "iso87-binary": (0, 8)}
"""By dialect: bytes in front of the MTI, bytes of the MAC."""


def with_rules(dialect: Dialect, **rules: Any) -> Dialect:
    """The dialect with other habits of its terminals."""
    return replace(dialect, terminal=replace(dialect.terminal, **rules))


def fixed(method: MacMethod, dialect: Dialect = UNIONPAY, **rules: Any) -> Dialect:
    """The dialect with MACs of this method under keys that never change."""
    return with_rules(dialect, mac_method=method, mac_keys=MacKeys.FIXED, **rules)


def covered(dialect: Dialect, frame: bytes) -> bytes:
    """What the MAC of a frame covers."""
    prefix, mac = WIRE_BYTES[dialect.name]
    return frame[prefix:-mac]


def maced(dialect: Dialect, key: bytes, message: Message) -> Message:
    """The message as a terminal with this MAC key sends it."""
    rules = dialect.terminal
    drawn = Message(message.mti, message.fields | {rules.mac_field: "00" * 8}, message.tpdu, message.header)
    mac = compute_mac(rules.mac_method, key, covered(dialect, dialect.codec.encode(drawn)))
    drawn.fields[rules.mac_field] = mac.hex()
    return drawn


def is_maced(dialect: Dialect, key: bytes, answer: Message) -> bool:
    """Whether an answer carries the right MAC; what is decoded encodes to the bytes that came."""
    frame = dialect.codec.encode(answer)
    mac = compute_mac(dialect.terminal.mac_method, key, covered(dialect, frame))
    return answer.fields.get(dialect.terminal.mac_field) == mac.hex()


def sign_on_message(code: str, terminal: str = TERMINAL) -> Message:
    """A UnionPay sign-on."""
    fields = {11: "000001", 41: terminal, 42: "M00000000000001", 60: f"00000001{code}", 63: "303120"}
    return Message("0800", fields, TPDU, HEADER)


async def signed_on(terminal: Terminal, code: str = "003", name: str = TERMINAL) -> WorkKeys:
    """Sign on, and open the keys that the answer brings."""
    terminal.send(sign_on_message(code, name))
    answer = await terminal.receive()
    assert (answer.mti, answer.fields[39]) == ("0810", "00")
    return open_work_keys(KEYS[name].key, bytes.fromhex(answer.fields[62]))


class SessionShop(Shop):
    """A listener with sessions. No report may hold a key or a MAC."""

    def __init__(self, dialect: Dialect, keys: Mapping[str, MasterKey], settings: ListenerSettings) -> None:
        super().__init__(dialect, settings)
        self.sessions = TerminalSessions(dialect, keys)
        self.listener = Iso8583Listener(
            settings, dialect, KeyedHash(bytes(32)), self._submit, lambda: self.utc_ms, self._report,
            sessions=self.sessions, asked=since_long(),
        )  # fmt: skip


@asynccontextmanager
async def session_shop(
    dialect: Dialect = UNIONPAY, keys: Mapping[str, MasterKey] | None = None, **settings: int
) -> AsyncIterator[SessionShop]:
    """A started listener with the keys of two terminals, or with `keys`."""
    limits = replace(ListenerSettings(sweep_interval_ms=20), **settings)  # type: ignore[arg-type]
    made = SessionShop(dialect, KEYS if keys is None else keys, limits)
    made.address = await made.listener.start()
    try:
        yield made
    finally:
        await made.listener.close()
        assert made.listener.gauges()["connections"] == 0
