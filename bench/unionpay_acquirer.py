"""The simulated acquirer in UnionPay mode: sign-on, MACs both ways, parameters, balances and settlement, by TLS.

It is the host of a gateway that signs on under an id of its own, or of terminals that connect by themselves. A message
with a wrong MAC is answered A0 and changes nothing; 08xx carry none.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.acquirer import Acquirer
from bench.books import Order
from bench.records import LedgerEvent
from bench.unionpay import batch_of, is_exempt, network_code, wanting_sign_on
from bench.unionpay_books import UnionPayBooks
from bench.unionpay_sessions import Sessions, parameters
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from protocol.settlement import Balance, SettlementFieldError, with_result

DIALECT: Final = "unionpay"
BALANCE: Final = "0210156C000000012345"
_ISSUER_TO_CHIP: Final = "910a00112233445566773030"
_NOT_HERE: Final = "97"


class UnionPayAcquirer(Acquirer):
    """The simulated acquirer in UnionPay mode.

    Attributes:
        sessions: who has signed on.
        sign_ons_wanted: the next so many answers ask for a new sign-on in their header.
        wrong_macs: the next so many answers have a MAC that is wrong.
    """

    books: UnionPayBooks

    def __init__(
        self,
        ledger: Path,
        master_keys: Mapping[str, bytes],
        *,
        gateway: str = "",
        books: UnionPayBooks | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        seed: int = 0,
    ) -> None:
        """Not listening yet.

        Args:
            master_keys: of the gateway, or of each terminal, by id.
            gateway: id under which a gateway signs on; empty where terminals connect by themselves, and the acquirer
                gives out their batch numbers.
        """
        books = UnionPayBooks(keeps_batches=not gateway) if books is None else books
        super().__init__(ledger, dialect=DIALECT, port=port, seed=seed, books=books, tls=tls)
        self.sessions = Sessions(load_dialect(DIALECT), master_keys, gateway)
        self.sign_ons_wanted = 0
        self.wrong_macs = 0
        self._gateway = gateway

    @property
    def mac_refused(self) -> int:
        """Messages whose MAC was wrong."""
        return self.counts["mac-refused"]

    def _decided(self, message: Message, frame: bytes, now: float, order: Order) -> LedgerEvent:
        fields = message.fields
        terminal = fields.get(41, "")
        if not order.ignored:
            if not is_exempt(message.mti) and not self.sessions.genuine(terminal, frame):
                return self.books.refuse_mac(message, now, order)
            if _asks_for_keys(message) and not self.sessions.knows(terminal):
                order = Order(code=_NOT_HERE)
        event = super()._decided(message, frame, now, order)
        self.books.note_undone(message, event)
        if event.business == "reversal":
            self.counts[f"reversals for {fields.get(39, 'no reason')}"] += 1
        return event

    def _answer_frame(self, message: Message, mti: str, event: LedgerEvent) -> bytes:
        answer = self._answer(message, mti, event)
        fields, answered = message.fields, answer.fields
        terminal = fields.get(41, "")
        answered[12] = time.strftime("%H%M%S")
        answered[13] = time.strftime("%m%d")
        if event.act == "signed-on" and event.answer == "00":
            answered[62] = self.sessions.sign_on(terminal, network_code(fields)).hex()
            if not self._gateway:
                batch = self.books.current_batch(fields.get(42, ""), terminal)
                answered[60] = f"00{batch}{network_code(fields)}"
        elif event.act == "parameters":
            answered[62] = parameters()
        elif event.act == "inquiry" and event.answer == "00":
            answered[54] = BALANCE
        elif event.business == "settlement" and message.mti == "0500":
            answered[48] = self._compared(message, event)
        elif event.act == "booked" and 55 in fields:
            answered[55] = _ISSUER_TO_CHIP
        if self.sign_ons_wanted and not is_exempt(message.mti):
            self.sign_ons_wanted -= 1
            answer.header = wanting_sign_on(answer.header)
        codec = self.dialect.codec
        frame = codec.encode(answer) if is_exempt(mti) else self.sessions.sealed(terminal, answer)
        if self.wrong_macs and not is_exempt(mti):
            self.wrong_macs -= 1
            frame = frame[:-1] + bytes([frame[-1] ^ 1])
        return self.dialect.framing.wrap(frame)

    @staticmethod
    def _compared(message: Message, event: LedgerEvent) -> str:
        result = {"00": Balance.BALANCED, "95": Balance.OUT_OF_BALANCE}.get(event.answer, Balance.ERROR)
        try:
            return with_result(message.fields.get(48, ""), result)
        except SettlementFieldError:
            return ""

    def unsettled(self) -> list[str]:
        """Batches that something is booked in, and that are not closed."""
        return sorted(key for key, state in self.books.batches.items() if state.bookings and not state.closed)


def _asks_for_keys(message: Message) -> bool:
    return message.mti == "0800" and bool(batch_of(message.fields)) and network_code(message.fields)[:2] == "00"
