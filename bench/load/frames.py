"""Frames for load: made by patching a few bytes in place, read by slicing; the real codec says where and checks.

Encoding and decoding each message in full would make the generator the limit of what it measures. A frame of a terminal
differs from its last one in STAN, amount and time, so only those bytes are written. An answer is recognised by its
length and everything up to its bitmap; where STAN, terminal and code stand in them is found once with the codec.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bench.till import CURRENCY, TEST_CARDS
from protocol.framing import PREFIX_BYTES, LengthPrefix
from protocol.iso8583.codec import Codec
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import LengthEncoding
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import Period

MERCHANT: Final = "HOLDFASTLOAD001"
STAN_MAX: Final = 999_999
DECLINED_CENTS: Final = 51
"""A sale whose amount ends in these digits is declined by the simulated hosts."""
VERIFIED_EVERY: Final = 100
_TPDU: Final = bytes.fromhex("6000030000")
_UNIONPAY_HEADER: Final = bytes.fromhex("603100310100")
_PAN, _AMOUNT, _STAN, _CODE, _TERMINAL = 2, 4, 11, 39, 41


class FrameWrong(Exception):
    """What was patched or sliced is not what the codec says: a mistake of the bench, never of the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """The amount of a sale, as its STAN says it, so that whoever sees the sale can tell whether it was changed."""

    base: int = 10_000
    step: int = 100
    count: int = 300

    def minor(self, stan: int) -> int:
        """In minor units; never one that is declined, unless `base` and `step` make it so."""
        return self.base + self.step * (stan % self.count)


class Now:
    """The local time as it stands in frames. Call `refresh` once a second."""

    __slots__ = ("date", "time")

    def __init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Look at the clock."""
        now = time.localtime()
        self.time = f"{now.tm_hour:02}{now.tm_min:02}{now.tm_sec:02}"
        self.date = f"{now.tm_mon:02}{now.tm_mday:02}"


def terminal_name(index: int) -> str:
    """Field 41 of a terminal of the load."""
    return f"L{index:07}"


class Spans:
    """Where fields stand in messages of a dialect. Fields up to 64, with a primary bitmap alone."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        layout = codec.layout
        self._layout = layout
        self._head = layout.bitmap_offset + layout.bitmap_bytes
        self._blank = Message("0200", {}, bytes(layout.tpdu_bytes), bytes(layout.header_bytes))

    def size(self, number: int, value: str) -> int:
        """Bytes of a field on the wire."""
        blank = self._blank
        alone = Message(blank.mti, {number: value}, blank.tpdu, blank.header)
        return len(self._codec.encode(alone)) - self._head

    def of(self, fields: Fields, number: int) -> tuple[int, int]:
        """Where a field of a message begins and ends, without the length in front of the frame."""
        start = self._head + sum(self.size(n, fields[n]) for n in sorted(fields) if n < number)
        return start, start + self.size(number, fields[number])

    def regular(self, fields: Fields) -> bool:
        """Whether messages alike up to their bitmap, in the length of field 2 and as a whole, have the same spans."""
        known = self._layout.fields
        variable = [n for n in fields if n != _PAN and n <= _TERMINAL and known[n].prefix_digits]
        return max(fields, default=0) <= 64 and not variable

    def head_bytes(self) -> int:
        """Bytes that tell the shape of a message: all up to the bitmap, and the length of field 2."""
        spec = self._layout.fields[_PAN]
        packed = spec.length_encoding is not LengthEncoding.ASCII
        return self._head + ((spec.prefix_digits + 1) // 2 if packed else spec.prefix_digits)


def _front(dialect: Dialect, message: Message) -> Message:
    message.tpdu = _TPDU if dialect.tpdu else b""
    message.header = _UNIONPAY_HEADER.ljust(dialect.header_bytes, b"\0")[: dialect.header_bytes]
    return message


def sale_message(dialect: Dialect, terminal: str, card: str, stan: int, amount_minor: int, now: Now) -> Message:
    """A sale as the terminals of the load send it."""
    fields: Fields = {
        2: card,
        3: "000000",
        4: f"{amount_minor:012}",
        11: f"{stan:06}",
        12: now.time,
        13: now.date,
        14: "3012",
        22: "022",
        25: "00",
        41: f"{terminal:<8}",
        42: MERCHANT,
        49: CURRENCY,
    }
    if 7 in dialect.fields:
        fields[7] = now.date + now.time
    if dialect.terminal.period is Period.BATCH:
        fields[60] = "22000001000500"
    return _front(dialect, Message("0200", fields))


class SaleFrames:
    """The sales of one terminal, each the last one with a few bytes patched."""

    __slots__ = ("_amounts", "_at", "_buffer", "_encoded", "_packed", "_shown", "card", "dialect", "now", "terminal")

    def __init__(self, dialect: Dialect, index: int, now: Now, amounts: Amounts) -> None:
        """Find the offsets and prove them.

        Raises:
            FrameWrong: a patched frame is not what the codec makes.
        """
        self.dialect = dialect
        self.terminal = terminal_name(index)
        self.card = TEST_CARDS[index % len(TEST_CARDS)]
        self.now = now
        self._amounts = amounts
        first = sale_message(dialect, self.terminal, self.card, 1, amounts.minor(1), now)
        encoded = dialect.codec.encode(first)
        self._buffer = bytearray(dialect.framing.wrap(encoded))
        spans = Spans(dialect.codec)
        prefix = len(self._buffer) - len(encoded)
        self._at = {n: prefix + spans.of(first.fields, n)[0] for n in (4, 7, 11, 12, 13) if n in first.fields}
        stan_at, stan_end = spans.of(first.fields, _STAN)
        self._packed = stan_end - stan_at == 3
        self._shown = ""
        self._encoded = [self._wire(f"{amounts.minor(stan):012}") for stan in range(amounts.count)]
        self._verify()

    def _verify(self) -> None:
        for stan in (1, 987_654):
            message = sale_message(self.dialect, self.terminal, self.card, stan, self._amounts.minor(stan), self.now)
            if self.frame(stan) != self.dialect.framing.wrap(self.dialect.codec.encode(message)):
                raise FrameWrong("a patched sale is not what the codec makes of it")

    def _wire(self, digits: str) -> bytes:
        return bytes.fromhex(digits) if self._packed else digits.encode()

    def wire_stan(self, stan: int) -> bytes:
        """Field 11 as it stands in frames of this dialect."""
        return self._wire(f"{stan:06}")

    def frame(self, stan: int, *, declined: bool = False) -> bytes:
        """A sale with the length in front: of this STAN, the amount that follows from it, and the present time.

        Args:
            declined: with an amount that the simulated hosts decline.
        """
        buffer, at = self._buffer, self._at
        start = at[11]
        if self._packed:
            buffer[start : start + 3] = bytes.fromhex(f"{stan:06}")
        else:
            buffer[start : start + 6] = b"%06d" % stan
        start = at[4]
        amount = self._encoded[stan % self._amounts.count]
        if declined:
            amount = self._wire(f"{self._amounts.minor(stan) + DECLINED_CENTS:012}")
        buffer[start : start + len(amount)] = amount
        if self.now.time != self._shown:
            self._patch_time()
        return bytes(buffer)

    def _patch_time(self) -> None:
        now = self.now
        texts = {7: now.date + now.time, 12: now.time, 13: now.date}
        for number, text in texts.items():
            if number in self._at:
                wire = self._wire(text)
                self._buffer[self._at[number] : self._at[number] + len(wire)] = wire
        self._shown = now.time


@dataclass(frozen=True, slots=True)
class Shape:
    """Where answers alike have what is looked at: offsets in the frame with its length in front."""

    stan: slice
    terminal: slice
    code: slice


class Answer:
    """What is looked at of an answer, as bytes of the wire. `code` is empty where there is no field 39."""

    __slots__ = ("code", "stan", "terminal")

    def __init__(self, stan: bytes, terminal: bytes, code: bytes) -> None:
        self.stan = stan
        self.terminal = terminal
        self.code = code


class AnswerReader:
    """Reads answers by shape; every hundredth, and every one of an unknown shape, by the codec.

    Attributes:
        decoded: read by the codec; `verified` of them to check what was sliced.
        echo: requests come back as they were sent, without field 39.
    """

    def __init__(self, dialect: Dialect, *, echo: bool = False) -> None:
        if dialect.framing.length is not LengthPrefix.BINARY_2:
            raise ValueError("load is made for dialects whose frames begin with a binary length of two bytes")
        self._dialect = dialect
        self._spans = Spans(dialect.codec)
        self._prefix = PREFIX_BYTES[dialect.framing.length]
        self._head = slice(0, self._prefix + self._spans.head_bytes())
        self._shapes: dict[bytes, Shape | None] = {}
        self._until_verified = 1
        self._echo = echo
        self.decoded = 0
        self.verified = 0

    def read(self, frame: bytes) -> Answer:
        """What an answer says; `frame` has its length in front.

        Raises:
            CodecError: the codec cannot read it.
            FrameWrong: what was sliced is not what the codec reads.
        """
        head = frame[self._head]
        shape = self._shapes.get(head)
        if shape is None:
            return self._decode(frame, head)
        answer = Answer(frame[shape.stan], frame[shape.terminal], frame[shape.code])
        self._until_verified -= 1
        if not self._until_verified:
            self._until_verified = VERIFIED_EVERY
            self._verify(frame, answer)
        return answer

    def _decode(self, frame: bytes, head: bytes) -> Answer:
        self.decoded += 1
        message = self._dialect.codec.decode(frame[self._prefix :])
        fields = message.fields
        if head not in self._shapes:
            self._shapes[head] = self._shape(fields)
        stan = fields.get(_STAN, "")
        wire = bytes.fromhex(stan) if self._spans.size(_STAN, "000001") == 3 else stan.encode()
        return Answer(wire, fields.get(_TERMINAL, "").encode("latin-1"), fields.get(_CODE, "").encode())

    def _shape(self, fields: Fields) -> Shape | None:
        needed: Iterable[int] = (_STAN, _TERMINAL) if self._echo else (_STAN, _TERMINAL, _CODE)
        if not self._spans.regular(fields) or any(number not in fields for number in needed):
            return None
        code = slice(0, 0) if self._echo else self._slice(fields, _CODE)
        return Shape(self._slice(fields, _STAN), self._slice(fields, _TERMINAL), code)

    def _slice(self, fields: Fields, number: int) -> slice:
        start, end = self._spans.of(fields, number)
        return slice(self._prefix + start, self._prefix + end)

    def _verify(self, frame: bytes, answer: Answer) -> None:
        self.verified += 1
        fields = self._dialect.codec.decode(frame[self._prefix :]).fields
        stan = answer.stan.hex() if len(answer.stan) == 3 else answer.stan.decode()
        told = (stan, answer.terminal.decode("latin-1"), answer.code.decode())
        if told != (fields.get(_STAN), fields.get(_TERMINAL), "" if self._echo else fields.get(_CODE)):
            raise FrameWrong("an answer that was read by slices is not what the codec reads")


def cut(data: bytes, frames: list[bytes]) -> bytes:
    """Cut frames with a binary length of two bytes, lengths included, and return what is left over."""
    at, size = 0, len(data)
    while size - at >= 2:
        end = at + 2 + (data[at] << 8 | data[at + 1])
        if end > size:
            break
        if end > at + 2:  # an empty frame keeps the connection alive
            frames.append(data[at:end])
        at = end
    return data[at:] if at else data
