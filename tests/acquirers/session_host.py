"""A host with sessions: gives work keys at a sign-on, checks every MAC and makes its own, all by another library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import psec.des
import psec.mac

from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message
from protocol.mac_method import MacMethod
from tests.acquirers.host import Exchange, Host

MASTER_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
TERMINAL, MERCHANT = "GATEWAY1", "M00000000000009"
_ENTRIES = {24: (8, 8), 40: (16, 16), 60: (16, 16, 16)}


def oracle_mac(method: MacMethod, key: bytes, data: bytes) -> bytes:
    """The MAC as the standards tell it, on psec's DES."""
    if method is MacMethod.X9_9:
        return psec.mac.generate_cbc_mac(key, data, padding=1)
    if method is MacMethod.X9_19:
        return psec.mac.generate_retail_mac(key[:8], key[8:], data, padding=1)
    folded = bytearray(8)
    for place, byte in enumerate(data):
        folded[place % 8] ^= byte
    text = folded.hex().upper().encode()
    first = psec.des.encrypt_tdes_ecb(key, text[:8])
    second = psec.des.encrypt_tdes_ecb(key, bytes(a ^ b for a, b in zip(first, text[8:], strict=True)))
    return second.hex().upper()[:8].encode()


class Bank:
    """What all machines of one host know: the master key, and the work keys that they have given."""

    def __init__(self, method: MacMethod = MacMethod.UNIONPAY_ECB, layout: int = 40, mac_key_bytes: int = 16) -> None:
        self.method = method
        self.layout = layout
        self.mac_key_bytes = mac_key_bytes
        self.given: list[bytes] = []  # MAC keys, newest last
        self.secrets = [MASTER_KEY]

    def work_keys(self) -> bytes:
        """Field 62 with new keys."""
        field_62 = b""
        for place, size in enumerate(_ENTRIES[self.layout]):
            key = hashlib.sha256(b"%d %d" % (len(self.given), place)).digest()[:size]
            if place == 1:
                key = key[: self.mac_key_bytes]
                mac_key = key
            self.secrets.append(key)
            sealed = psec.des.encrypt_tdes_ecb(MASTER_KEY, key)
            self.secrets.append(sealed)
            field_62 += sealed.ljust(size, b"\0") + psec.des.generate_kcv(key, 4)
        self.given.append(mac_key)
        return field_62


class SessionHost(Host):
    """Answers sign-ons at once unless told otherwise; what it received is seen without MACs.

    Attributes:
        sign_ons: as they came.
        on_sign_on: what is done about one.
        mac_faults: messages whose MAC was no given key's.
        received_under: which of the given keys made the MAC of each message; None for none.
        reply_under: which of the given keys makes the MACs of answers; None leaves them out.
        spoils_macs: whether its MACs are wrong.
    """

    def __init__(self, dialect: Dialect, bank: Bank) -> None:
        super().__init__(dialect)
        self.bank = bank
        self.sign_ons: list[Exchange] = []
        self.on_sign_on: Callable[[Exchange], None] = self.give_keys
        self.mac_faults: list[str] = []
        self.received_under: list[int | None] = []
        self.reply_under: int | None = -1
        self.spoils_macs = False

    def give_keys(self, exchange: Exchange) -> None:
        """Answer a sign-on as it should be."""
        exchange.answer(f62=self.bank.work_keys().hex())

    def takes(self, exchange: Exchange) -> bool:
        """Sign-ons stay here."""
        message = exchange.message
        if message.mti == self.dialect.host.sign_on_mti and message.fields.get(41) == TERMINAL:
            self.sign_ons.append(exchange)
            self.on_sign_on(exchange)
            return True
        exempt = message.mti.startswith("08")
        mac = None if exempt else message.fields.pop(self.dialect.host.mac_field, None)
        under = [
            number
            for number, key in enumerate(self.bank.given)
            if mac is not None and oracle_mac(self.bank.method, key, self._covered(exchange.frame)).hex() == mac
        ]
        self.received_under.append(under[0] if under else None)
        if not under and not exempt:
            self.mac_faults.append(message.mti)
        return False

    def framed(self, message: Message) -> bytes:
        """With a MAC, but for network management."""
        if message.mti.startswith("08") or self.reply_under is None or not self.bank.given:
            return super().framed(message)
        place = self.dialect.host.mac_field
        whole = {**message.fields, place: "00" * 8}
        codec = self.dialect.codec
        frame = codec.encode(Message(message.mti, whole, message.tpdu, message.header))
        mac = oracle_mac(self.bank.method, self.bank.given[self.reply_under], self._covered(frame))
        if self.spoils_macs:
            mac = bytes([mac[0] ^ 1]) + mac[1:]
        whole[place] = mac.hex()
        return self.dialect.framing.wrap(codec.encode(Message(message.mti, whole, message.tpdu, message.header)))

    def _covered(self, frame: bytes) -> bytes:
        prefix_bytes = 11 if self.dialect.tpdu else 0
        return frame[prefix_bytes : -16 if self.dialect.name.endswith("ascii") else -8]
