"""What a simulated terminal sends: sales, reversals and sign-ons in its dialect, with published test cards."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bench.records import Business, card_hash, card_mask, transaction_key
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import answer_mti
from protocol.iso8583.rules import OriginalForm, Period

TEST_CARDS: Final = (
    "4111111111111111",
    "4012888888881881",
    "5555555555554444",
    "5105105105105100",
    "6212345678900000003",
    "6212345678900000094",
    "378282246310005",
    "371449635398431",
    "3530111333300000",
)
MERCHANT: Final = "HOLDFASTBENCH01"
CURRENCY: Final = "156"
_TPDU: Final = bytes.fromhex("6000030000")
_UNIONPAY_HEADER: Final = bytes.fromhex("603100310100")
_STAN_MAX: Final = 999_999


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A message ready to be sent, and sent again: the same bytes each time.

    Attributes:
        frame: with its length in front.
        original: for a reversal: key of what it undoes.
        attempts: sends so far.
    """

    business: Business
    message: Message
    frame: bytes
    answer_mti: str
    stan: str
    key: str
    original: str = ""
    amount_minor: int = 0
    card: str = ""
    card_hash: str = ""
    attempts: int = field(default=0, compare=False)


class Till:
    """Composes the messages of one terminal; counts STANs."""

    def __init__(
        self, dialect: Dialect, terminal: str, *, merchant: str = MERCHANT, batch: int = 1, first_stan: int = 1
    ) -> None:
        self.dialect = dialect
        self.terminal = f"{terminal:<8}"
        self.merchant = f"{merchant:<15}"
        self.batch = batch
        self._stans = itertools.count(first_stan)

    def _stan(self) -> str:
        return f"{(next(self._stans) - 1) % _STAN_MAX + 1:06d}"

    def sale(self, amount_minor: int, pan: str, *, mti: str = "0200", stan: str = "") -> Prepared:
        """A sale (0200) or authorisation (0100). `stan` is given only to use one again, as a faulty terminal would."""
        now = datetime.now().astimezone()
        fields: Fields = {
            2: pan,
            3: "000000",
            4: f"{amount_minor:012d}",
            11: stan or self._stan(),
            12: now.strftime("%H%M%S"),
            13: now.strftime("%m%d"),
            14: "3012",
            22: "022",
            25: "00",
            41: self.terminal,
            42: self.merchant,
            49: CURRENCY,
        }
        if 7 in self.dialect.fields:
            fields[7] = now.strftime("%m%d%H%M%S")
        if self.dialect.terminal.period is Period.BATCH:
            fields[60] = f"22{self.batch:06d}000"
        return self._prepared("sale", Message(mti, fields))

    def reversal(self, sale: Prepared) -> Prepared:
        """The terminal's own reversal of `sale`, in the dialect's form (D12)."""
        rules = self.dialect
        source = sale.message.fields
        fields: Fields = {n: source[n] for n in (2, 3, 4, 7, 12, 13, 14, 22, 25, 41, 42, 49, 60) if n in source}
        if rules.terminal.original is OriginalForm.SAME_STAN:
            fields[11] = sale.stan
        else:
            fields[11] = self._stan()
            fields[90] = f"{sale.message.mti}{sale.stan}{source.get(7, ''):0>10}{'':0>22}"
        if rules.host.reason_field:
            fields[rules.host.reason_field] = "98"
        return self._prepared("reversal", Message(rules.host.reversal_mti, fields), original=sale.key)

    def sign_on(self) -> Prepared:
        """0800: sign on, or an echo test where the dialect knows no other."""
        fields: Fields = {11: self._stan(), 41: self.terminal, 42: self.merchant}
        if self.dialect.terminal.period is Period.BATCH:
            fields[60] = f"00{self.batch:06d}001"
        else:
            fields[7] = datetime.now().astimezone().strftime("%m%d%H%M%S")
            fields[70] = "001"
        return self._prepared("network", Message("0800", fields))

    def _prepared(self, business: Business, message: Message, original: str = "") -> Prepared:
        dialect, fields = self.dialect, message.fields
        message.tpdu = _TPDU if dialect.tpdu else b""
        message.header = _UNIONPAY_HEADER.ljust(dialect.header_bytes, b"\0")[: dialect.header_bytes]
        pan = fields.get(2, "")
        return Prepared(
            business=business,
            message=message,
            frame=dialect.framing.wrap(dialect.codec.encode(message)),
            answer_mti=answer_mti(message.mti),
            stan=fields[11],
            key=transaction_key(self.merchant, self.terminal, fields[11]),
            original=original,
            amount_minor=int(fields.get(4, "0")),
            card=card_mask(pan),
            card_hash=card_hash(pan),
        )
