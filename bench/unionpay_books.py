"""The acquirer's books in UnionPay mode: transactions in batches, voids and completions of what is booked, settlement.

Each booking has a direction: debit (sale, completion), credit (void, refund) or none (pre-authorisation). A batch is
balanced when the totals in DE 48 of its settlement are those of the bookings that are not reversed. One that is not is
answered 95; its details are then taken, and the end message closes it, whatever they are: `compared` tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from bench.books import NORMALLY, Books, Order, Position, ledger_event
from bench.records import Business, LedgerAct, LedgerEvent, batch_key, card_hash, secret_hash
from bench.unionpay import (
    BATCH_MISMATCH,
    MAC_FAILED,
    OUT_OF_BALANCE,
    SIGN_OFF_CODE,
    SIGN_ON_CODES,
    UPLOAD_END_CODES,
    batch_of,
    direction_of,
    kind_of,
    network_code,
)
from protocol.iso8583.message import Message
from protocol.iso8583.mti import first_mti, is_advice
from protocol.settlement import SettlementFieldError, Totals, parse_details, parse_totals

_BUSINESS: Final[dict[str, Business]] = {
    "1": "sale",
    "2": "sale",
    "3": "settlement",
    "4": "reversal",
    "5": "settlement",
    "8": "network",
}
_UNDOES: Final = frozenset({"void", "void of pre-authorisation", "void of completion"})
_REFERS: Final = _UNDOES | {"completion"}
_UNKNOWN: Final = "25"
_NO_MESSAGE: Final = "30"


@dataclass(slots=True)
class BatchState:
    """A batch: what is booked in it by key of transaction, and how far its settlement is.

    Attributes:
        late: messages that moved money in it after it was closed.
    """

    bookings: dict[str, LedgerEvent] = field(default_factory=dict)
    uploads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: bool = False
    closed: bool = False
    uploaded: bool = False
    late: int = 0

    @property
    def totals(self) -> Totals:
        """Of what is booked and not reversed."""
        sums = {"debit": (0, 0), "credit": (0, 0)}
        for booking in self.bookings.values():
            if booking.direction in sums:
                amount, count = sums[booking.direction]
                sums[booking.direction] = amount + booking.amount_minor, count + 1
        return Totals(*sums["debit"], *sums["credit"])

    @property
    def compared(self) -> bool:
        """Whether the details of the upload are what is booked."""
        booked = [f"{b.stan}:{b.amount_minor}:{b.card_hash}" for b in self.bookings.values() if b.direction != "none"]
        return sorted(booked) == sorted(detail for part in self.uploads.values() for detail in part)


class UnionPayBooks(Books):
    """Books whose keys have the batch.

    Attributes:
        doubts: terminals whose first batch is answered 95 although it balances, until it is uploaded.
    """

    def __init__(self, *, keeps_batches: bool = False, doubts: frozenset[str] = frozenset()) -> None:
        """Empty books.

        Args:
            keeps_batches: the acquirer gives out batch numbers itself, and answers 77 to any other.
        """
        super().__init__()
        self.doubts = set(doubts)
        self.batches: dict[str, BatchState] = {}
        self._keeps_batches = keeps_batches
        self._current: dict[str, int] = {}
        self._undone: dict[str, str] = {}

    def current_batch(self, merchant: str, terminal: str) -> str:
        """The batch that a terminal is to be in, where the acquirer says so."""
        number = self._current.setdefault(f"{merchant.strip()}/{terminal.strip()}", 1)
        return f"{number:06d}"

    def decide(self, message: Message, at: float, order: Order = NORMALLY) -> LedgerEvent:
        """Decide about a message and change the books accordingly; the result is the ledger's line.

        Raises:
            ValueError: not a message that an acquirer takes.
        """
        mti = first_mti(message.mti)
        fields = message.fields
        business: Business = _BUSINESS.get(mti[1], "other")
        if business == "sale":
            if fields.get(3, "").startswith("31"):
                business = "inquiry"
            elif is_advice(mti):
                business = "advice"
        batch = batch_key(fields.get(42, ""), fields.get(41, ""), batch_of(fields))
        key = f"{batch}/{fields.get(11, '')}"
        original = key if business == "reversal" else ""
        decided = self._act(business, message, key, order)
        event = ledger_event(message, at, order, business=business, key=key, original=original, decided=decided)
        event = msgspec.structs.replace(
            event,
            batch=batch_of(fields),
            kind=kind_of(fields),
            direction=direction_of(mti, fields),
            pin_hash=secret_hash(fields.get(52, "")),
            chip_hash=secret_hash(fields.get(55, "")),
            totals=fields.get(48, "") if mti == "0500" else "",
            details=_details(message) if decided[0] == "details" else (),
        )
        self.apply(event)
        return event

    def refuse_mac(self, message: Message, at: float, order: Order) -> LedgerEvent:
        """The ledger's line of a message with a wrong MAC: nothing else happened."""
        key = f"{batch_key(message.fields.get(42, ''), message.fields.get(41, ''), batch_of(message.fields))}/?"
        return ledger_event(
            message, at, order, business="other", key=key, original="", decided=("mac-refused", MAC_FAILED, "")
        )

    # --- deciding --------------------------------------------------------------------------------------------------

    def _act(self, business: Business, message: Message, key: str, order: Order) -> tuple[LedgerAct, str, str]:
        if order.ignored:
            return "ignored", "", ""
        if business == "network":
            return _network_act(message), order.code or "00", ""
        if order.code and not order.booking and business in ("inquiry", "settlement"):
            return "refused", order.code, ""
        fields = message.fields
        if self._keeps_batches and business not in ("reversal", "other"):
            batch = self.current_batch(fields.get(42, ""), fields.get(41, ""))
            # What closes a batch may be asked again when the next one has begun.
            if batch_of(fields) != batch and business != "settlement":
                return "refused", BATCH_MISMATCH, ""
        if business == "inquiry":
            return "inquiry", "00", ""
        if business == "settlement":
            return self._settlement_act(message, key.rpartition("/")[0])
        return super()._act(business, message, key, order)

    def _sale(
        self, business: Business, message: Message, key: str, position: Position | None
    ) -> tuple[LedgerAct, str, str]:
        # An advice tells of what has happened, whatever the books know of its original.
        if position is None and business == "sale" and kind_of(message.fields) in _REFERS:
            original = _original(message)
            undone = self._undone.get(original, "")
            if not self.net(original) or (undone and self.net(undone)):
                return "declined", _UNKNOWN, ""
        return super()._sale(business, message, key, position)

    def _settlement_act(self, message: Message, batch: str) -> tuple[LedgerAct, str, str]:
        state = self.batches.setdefault(batch, BatchState())
        fields = message.fields
        try:
            if message.mti.startswith("03"):
                if network_code(fields) in UPLOAD_END_CODES:
                    return ("uploaded" if state.asked and not state.closed else "duplicate"), "00", ""
                parse_details(fields.get(48, ""))
                return ("duplicate" if fields.get(11, "") in state.uploads else "details"), "00", ""
            domestic, foreign = parse_totals(fields.get(48, ""))
        except SettlementFieldError:
            return "refused", _NO_MESSAGE, ""
        if state.closed:
            return "duplicate", "00", ""
        if domestic + foreign == state.totals and fields.get(41, "").strip() not in self.doubts:
            return "balanced", "00", ""
        return "out-of-balance", OUT_OF_BALANCE, ""

    # --- the books -------------------------------------------------------------------------------------------------

    def apply(self, event: LedgerEvent) -> None:
        """Change the books as a line of the ledger says."""
        super().apply(event)
        key = event.original or event.key
        batch = key.rpartition("/")[0]
        if event.act in ("booked", "reversed"):
            state = self.batches.setdefault(batch, BatchState())
            state.late += state.closed
            if event.act == "booked":
                state.bookings[key] = event
            else:
                state.bookings.pop(key, None)
        elif event.business == "settlement":
            self._apply_settlement(event, self.batches.setdefault(batch, BatchState()))

    def note_undone(self, message: Message, event: LedgerEvent) -> None:
        """Remember what a void undoes, so that a second void of it is declined. Not rebuilt from a ledger."""
        if event.act == "booked" and event.kind in _UNDOES:
            self._undone[_original(message)] = event.key

    def _apply_settlement(self, event: LedgerEvent, state: BatchState) -> None:
        if event.act == "out-of-balance":
            state.asked = True
        elif event.act == "details":
            state.uploads[event.stan] = event.details
        elif event.act in ("balanced", "uploaded") and not state.closed:
            state.closed = True
            state.uploaded = event.act == "uploaded"
            self.doubts.discard(event.terminal)
            owner = f"{event.merchant}/{event.terminal}"
            self._current[owner] = self._current.get(owner, 1) + 1


def _network_act(message: Message) -> LedgerAct:
    code = network_code(message.fields)
    if message.mti == "0800":
        return "signed-on" if code in SIGN_ON_CODES else "parameters"
    return "signed-off" if code == SIGN_OFF_CODE else "echo"


def _original(message: Message) -> str:
    """The key of what DE 61 names: original batch, original STAN."""
    fields = message.fields
    named = fields.get(61, "")
    return f"{batch_key(fields.get(42, ''), fields.get(41, ''), named[:6])}/{named[6:12]}"


def _details(message: Message) -> tuple[str, ...]:
    return tuple(
        f"{one.stan}:{one.amount_minor}:{card_hash(one.pan)}" for one in parse_details(message.fields.get(48, ""))
    )
