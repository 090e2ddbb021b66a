"""What a UnionPay terminal sends: every kind of business of its day, composed with published test cards."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from bench.records import Business, Direction, batch_key, card_hash, card_mask, secret_hash
from bench.till import CURRENCY
from bench.unionpay import SETTLEMENT_CODE, SIGN_OFF_CODE, direction_of, kind_of
from bench.unionpay_memory import Counted, Memory
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import answer_mti, is_advice
from protocol.settlement import details_text, totals_text
from protocol.tdes import ecb_encrypt

PARAMETERS_CODE: Final = "360"
_TPDU: Final = bytes.fromhex("6000030000")
_HEADER: Final = bytes.fromhex("603100310100")
_EXPIRY: Final = "3012"
_OPERATOR: Final = b"01 ".hex()
_UPLOAD_END_CODE: Final = "202"


class Entry(StrEnum):
    """How the card is read."""

    KEYED = "01"
    STRIPE = "02"
    CHIP = "05"


@dataclass(slots=True, kw_only=True)
class Draft:
    """A message before its MAC; sent again it is the same, but for a MAC under newer keys."""

    business: Business
    kind: str
    direction: Direction
    message: Message
    answer_mti: str
    stan: str
    batch: str
    key: str
    original: str = ""
    amount_minor: int = 0
    pan: str = field(default="", repr=False)
    card: str = ""
    card_hash: str = ""
    pin_hash: str = ""
    chip_hash: str = ""
    attempts: int = field(default=0, compare=False)

    @property
    def counted(self) -> Counted:
        """What the journal keeps of it, once approved."""
        return Counted(self.stan, self.amount_minor, self.direction, self.pan)


@dataclass(frozen=True, slots=True)
class Approved:
    """An approved transaction that a later one may refer to."""

    draft: Draft
    rrn: str
    approval: str


class UnionPayTill:
    """Composes the messages of one terminal."""

    def __init__(self, memory: Memory, dice: random.Random) -> None:
        self.memory = memory
        self.pin_key = b""
        self._dice = dice

    # --- sales and what belongs to them ----------------------------------------------------------------------------

    def sale(self, amount_minor: int, pan: str, entry: Entry = Entry.STRIPE, *, pin: bool = False) -> Draft:
        """消费, asked online."""
        return self._draft("0200", {**self._card(pan, entry, amount_minor, pin=pin), 3: "000000", 25: "00"}, "22")

    def offline_sale(self, amount_minor: int, pan: str) -> Draft:
        """离线消费上送: approved by terminal and chip, told afterwards."""
        fields = {**self._card(pan, Entry.CHIP, amount_minor), 3: "000000", 25: "00"}
        return self._draft("0220", fields, "36")

    def void(self, sale: Approved) -> Draft:
        """消费撤销 of a sale of this batch."""
        return self._draft("0200", {**self._referring(sale), 3: "200000", 25: "00"}, "23")

    def refund(self, amount_minor: int, sale: Approved) -> Draft:
        """退货: 0220, and yet it asks."""
        fields = {**self._referring(sale), 3: "200000", 4: f"{amount_minor:012d}", 25: "00"}
        return self._draft("0220", fields, "25")

    def pre_authorisation(
        self, amount_minor: int, pan: str, entry: Entry = Entry.STRIPE, *, pin: bool = False
    ) -> Draft:
        """预授权."""
        return self._draft("0100", {**self._card(pan, entry, amount_minor, pin=pin), 3: "030000", 25: "06"}, "10")

    def void_pre_authorisation(self, held: Approved) -> Draft:
        """预授权撤销."""
        return self._draft("0100", {**self._referring(held), 3: "200000", 25: "06"}, "11")

    def completion(self, amount_minor: int, held: Approved, *, advice: bool = False) -> Draft:
        """预授权完成, asked (请求) or told (通知)."""
        fields = {**self._referring(held), 3: "000000", 4: f"{amount_minor:012d}", 25: "06"}
        return self._draft("0220" if advice else "0200", fields, "24" if advice else "20")

    def balance(self, pan: str) -> Draft:
        """余额查询: moves no money."""
        fields = self._card(pan, Entry.STRIPE, 0, pin=True)
        del fields[4]
        return self._draft("0200", {**fields, 3: "310000", 25: "00"}, "01", business="inquiry")

    def reversal(self, undone: Draft, reason: str) -> Draft:
        """冲正: the STAN and the batch of its original, the reason in field 39 (D12)."""
        source = undone.message.fields
        fields: Fields = {n: source[n] for n in (2, 3, 4, 11, 14, 22, 23, 25, 41, 42, 49, 60, 61) if n in source}
        fields[39] = reason
        return self._made("0400", fields, business="reversal", original=undone.key)

    def _card(self, pan: str, entry: Entry, amount_minor: int, *, pin: bool = False) -> Fields:
        fields: Fields = {
            2: pan,
            4: f"{amount_minor:012d}",
            14: _EXPIRY,
            22: f"{entry}{1 if pin else 2}",
            49: CURRENCY,
        }
        if entry is Entry.STRIPE:
            fields[35] = f"{pan}={_EXPIRY}10112345"
        elif entry is Entry.CHIP:
            fields[23] = "001"
            fields[55] = self._chip(amount_minor)
        if pin:
            fields[26] = "12"
            fields[52] = self._pin_block(pan)
            fields[53] = "2600000000000000"
        return fields

    def _referring(self, original: Approved) -> Fields:
        """What names an earlier transaction: DE 37 and 38 as they were told, DE 61."""
        source = original.draft.message.fields
        fields: Fields = {n: source[n] for n in (2, 4, 14, 49) if n in source}
        fields[22] = f"{Entry.KEYED}2"
        if original.rrn:
            fields[37] = original.rrn
        if original.approval:
            fields[38] = original.approval
        fields[61] = f"{original.draft.batch}{original.draft.stan}{source.get(13) or _now('%m%d')}"
        return fields

    def _chip(self, amount_minor: int) -> str:
        cryptogram, unpredictable = self._dice.randbytes(8).hex(), self._dice.randbytes(4).hex()
        return (
            f"9f2608{cryptogram}9f2701809f3704{unpredictable}9f360200{self._dice.randrange(256):02x}9505008004e000"
            f"9a03{_now('%y%m%d')}9c01009f0206{amount_minor:012d}5f2a02015682027c00"
        )

    def _pin_block(self, pan: str) -> str:
        """ISO 9564 format 0 of a random PIN under the PIN key; random bytes before the first sign-on."""
        if not self.pin_key:
            return self._dice.randbytes(8).hex()
        pin = f"{self._dice.randrange(10_000):04d}"
        block = int(f"04{pin}ffffffffff", 16) ^ int(f"0000{pan[-13:-1]}", 16)
        return ecb_encrypt(self.pin_key, block.to_bytes(8)).hex()

    # --- sessions and settlement -----------------------------------------------------------------------------------

    def sign_on(self, code: str) -> Draft:
        """签到: 001 for single-length keys, 003 for double-length ones, 004 with a track key."""
        return self._draft("0800", {63: _OPERATOR}, "00", code, business="network")

    def parameters(self) -> Draft:
        """Download of parameters."""
        return self._draft("0800", {}, "00", PARAMETERS_CODE, business="network")

    def sign_off(self) -> Draft:
        """签退."""
        return self._draft("0820", {}, "00", SIGN_OFF_CODE, business="network")

    def settlement(self) -> Draft:
        """批结算: the totals record of the batch, right or wrong."""
        fields = {48: totals_text(self.memory.batch.totals), 49: CURRENCY, 63: _OPERATOR}
        return self._draft("0500", fields, "00", SETTLEMENT_CODE, business="settlement")

    def upload(self, counted: list[Counted]) -> Draft:
        """批上送: up to eight transactions of the batch."""
        fields = {48: details_text([one.detail for one in counted])}
        return self._draft("0320", fields, "00", SETTLEMENT_CODE, business="settlement")

    def upload_end(self) -> Draft:
        """批上送结束."""
        return self._draft("0320", {}, "00", _UPLOAD_END_CODE, business="settlement")

    # --- composing -------------------------------------------------------------------------------------------------

    def _draft(
        self, mti: str, fields: Fields, kind: str, code: str = "000", *, business: Business | None = None
    ) -> Draft:
        fields = {**fields, 11: self.memory.take_stan(), 60: f"{kind}{self.memory.batch.number}{code}"}
        if business is None:
            fields[12], fields[13] = _now("%H%M%S"), _now("%m%d")
            fields[60] += "50"
            business = "advice" if is_advice(mti) else "sale"
        return self._made(mti, fields, business=business)

    def _made(self, mti: str, fields: Fields, *, business: Business, original: str = "") -> Draft:
        memory = self.memory
        fields[41], fields[42] = memory.terminal, memory.merchant
        pan, batch = fields.get(2, ""), fields[60][2:8]
        return Draft(
            business=business,
            kind=kind_of(fields) if business != "reversal" else "reversal",
            direction=direction_of(mti, fields),
            message=Message(mti, fields, _TPDU, _HEADER),
            answer_mti=answer_mti(mti),
            stan=fields[11],
            batch=batch,
            key=f"{batch_key(memory.merchant, memory.terminal, batch)}/{fields[11]}",
            original=original,
            amount_minor=int(fields.get(4, "0")),
            pan=pan,
            card=card_mask(pan),
            card_hash=card_hash(pan),
            pin_hash=secret_hash(fields.get(52, "")),
            chip_hash=secret_hash(fields.get(55, "")),
        )


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
