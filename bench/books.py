"""What the simulated acquirer decides about a message: its books, without sockets and files.

A transaction is booked once per key, whichever message brings it first: request or advice. A reversal nets it to
zero, named by DE 90 or by its own STAN. A reversal of something unknown is answered 25 and remembered: its original,
should it come later, is refused, because the shop was told that it is void.

The state is rebuilt from the ledger by applying the recorded acts in order, so that what was written is what is known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from bench.records import Business, LedgerAct, LedgerEvent, card_hash, card_mask, transaction_key
from protocol.iso8583.message import Message
from protocol.iso8583.mti import first_mti, is_advice, is_repeat

DECLINE_CENTS: Final = 51
"""A request whose amount ends in these two digits is declined with 51: the simulated customer has no money."""

_VOLATILE: Final = frozenset({7, 64, 128})
_BUSINESS: Final[dict[str, Business]] = {"1": "sale", "2": "sale", "4": "reversal", "8": "network"}


@dataclass(slots=True)
class Position:
    """What the books say about one key."""

    booked: bool = False
    reversed: bool = False
    code: str = ""
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """How a message is to be treated otherwise than normally.

    Attributes:
        code: DE 39 of the answer; empty for what the books say.
        booking: with a code: whether the message has its effect all the same.
        ignored: the message is read and thrown away.
        answered: whether an answer is sent.
    """

    code: str = ""
    booking: bool = True
    ignored: bool = False
    answered: bool = True


NORMALLY: Final = Order()


class Books:
    """Positions by key. Grows with the number of transactions, as a ledger does."""

    def __init__(self, *, duplicate_advice_code: str = "00") -> None:
        self._positions: dict[str, Position] = {}
        self._duplicate_advice_code = duplicate_advice_code
        self.booked = 0
        self.reversed = 0

    def __len__(self) -> int:
        return len(self._positions)

    def net(self, key: str) -> int:
        """1 where the key is booked and not reversed, else 0."""
        position = self._positions.get(key)
        return int(position is not None and position.booked and not position.reversed)

    def decide(self, message: Message, at: float, order: Order = NORMALLY) -> LedgerEvent:
        """Decide about a message and change the books accordingly; the result is the ledger's line.

        Raises:
            ValueError: not a message that an acquirer takes.
        """
        mti = first_mti(message.mti)
        business: Business = _BUSINESS.get(mti[1], "other")
        if business == "sale" and is_advice(mti):
            business = "advice"
        fields = message.fields
        merchant, terminal, stan = fields.get(42, ""), fields.get(41, ""), fields.get(11, "")
        key = transaction_key(merchant, terminal, stan)
        original = ""
        if business == "reversal":
            original = transaction_key(merchant, terminal, _original_stan(fields))
        decided = self._act(business, message, original or key, order)
        event = ledger_event(message, at, order, business=business, key=key, original=original, decided=decided)
        self.apply(event)
        return event

    def _act(self, business: Business, message: Message, key: str, order: Order) -> tuple[LedgerAct, str, str]:
        if order.ignored:
            return "ignored", "", ""
        if business in ("network", "other"):
            return ("echo" if business == "network" else "other"), order.code or "00", ""
        position = self._positions.get(key)
        if order.code and not order.booking:
            # a refused request is over; an advice or a reversal will come again
            return ("declined" if business == "sale" and position is None else "refused"), order.code, ""
        if business == "reversal":
            act, code, approval = self._reversal(position)
        else:
            act, code, approval = self._sale(business, message, key, position)
        return act, order.code or code, approval

    def _reversal(self, position: Position | None) -> tuple[LedgerAct, str, str]:
        if position is None:
            return "reversal-unknown", "25", ""
        if position.reversed:
            return "reversal-duplicate", "00" if position.code else "25", ""
        return ("reversed" if position.booked else "reversal-of-declined"), "00", ""

    def _sale(
        self, business: Business, message: Message, key: str, position: Position | None
    ) -> tuple[LedgerAct, str, str]:
        if position is None:
            if business == "sale" and int(message.fields.get(4, "0")) % 100 == DECLINE_CENTS:
                return "declined", "51", ""
            return "booked", "00", approval_code(key)
        if position.reversed and not position.booked:
            return "refused-late", "12", ""
        if business == "advice":
            if position.booked:
                return "duplicate", self._duplicate_advice_code, position.approval
            return "booked", "00", approval_code(key)
        if is_repeat(message.mti):
            return "duplicate", position.code, position.approval
        return "duplicate", "94", ""

    def apply(self, event: LedgerEvent) -> None:
        """Change the books as a line of the ledger says."""
        key = event.original or event.key
        if event.act == "booked":
            self.booked += 1
            position = self._positions.setdefault(key, Position())
            position.booked = True
            position.code, position.approval = event.answer, event.approval
        elif event.act == "declined":
            self._positions[key] = Position(code=event.answer)
        elif event.act in ("reversed", "reversal-unknown", "reversal-of-declined"):
            self.reversed += event.act == "reversed"
            self._positions.setdefault(key, Position()).reversed = True


def ledger_event(
    message: Message,
    at: float,
    order: Order,
    *,
    business: Business,
    key: str,
    original: str,
    decided: tuple[LedgerAct, str, str],
) -> LedgerEvent:
    """The ledger's line of a message: what it says, and the act, the code and the approval that were decided."""
    fields = message.fields
    pan = fields.get(2, "")
    act, code, approval = decided
    return LedgerEvent(
        at=at,
        act=act,
        business=business,
        mti=message.mti,
        terminal=fields.get(41, "").strip(),
        merchant=fields.get(42, "").strip(),
        stan=fields.get(11, ""),
        key=key,
        original=original,
        amount_minor=int(fields.get(4, "0")),
        currency=fields.get(49, ""),
        card=card_mask(pan),
        card_hash=card_hash(pan),
        answer=code,
        answered=order.answered,
        approval=approval,
        digest=_digest(fields) if business != "network" else "",
    )


def approval_code(key: str) -> str:
    """DE 38 for a booking: six digits that follow from the key."""
    return f"{int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), 'big') % 1_000_000:06d}"


def _original_stan(fields: dict[int, str]) -> str:
    """The STAN that a reversal names: digits 5 to 10 of DE 90, else its own (D12)."""
    named = fields.get(90, "")[4:10]
    return named if named.strip("0") else fields.get(11, "")


def _digest(fields: dict[int, str]) -> str:
    stable = "\x1f".join([f"{number}={fields[number]}" for number in sorted(fields) if number not in _VOLATILE])
    return hashlib.blake2b(stable.encode(), digest_size=8).hexdigest()
