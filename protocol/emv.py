"""BER-TLV as EMV uses it (EMV Book 3, annex B): field 55 of a chip transaction, without loss.

The tree is not unfolded by itself: a constructed value stays bytes until `children` is asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

TAG_BYTES_MAX: Final = 4
LENGTH_BYTES_MAX: Final = 4


class TlvError(ValueError):
    """Bytes that are no TLV.

    Attributes:
        offset: bytes from the start of what was parsed.
        reason: what is wrong; never a value.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"TLV at offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Tlv:
    """One tag with its value.

    Attributes:
        tag: upper-case hex, e.g. "9F26".
        value: as it stood.
        length_bytes: how many bytes the length took; 0 where the shortest form is meant. Kept because some cards
            write a short length in the long form, and what is given back must be the same.
    """

    tag: str
    value: bytes
    length_bytes: int = 0

    @property
    def is_constructed(self) -> bool:
        """Whether the value is itself made of TLVs (bit 6 of the tag)."""
        return bool(int(self.tag[:2], 16) & 0x20)

    def children(self) -> list[Tlv]:
        """The TLVs inside a constructed one; none inside a primitive one.

        Raises:
            TlvError: with an offset that counts from the start of the value.
        """
        return parse_tlv(self.value) if self.is_constructed else []


def parse_tlv(data: bytes) -> list[Tlv]:
    """Read a row of TLVs; `build_tlv` gives the same bytes back.

    Raises:
        TlvError: a tag, length or value is cut short; an indefinite length; a tag or length of more than four bytes.
    """
    found = []
    at = 0
    while at < len(data):
        tag_end = _tag_end(data, at)
        value_start, size, length_bytes = _read_length(data, tag_end)
        end = value_start + size
        if end > len(data):
            raise TlvError(tag_end, f"a value of {size} bytes is promised, {len(data) - value_start} are there")
        minimal = len(_length(size))
        found.append(
            Tlv(
                data[at:tag_end].hex().upper(),
                bytes(data[value_start:end]),
                0 if length_bytes == minimal else length_bytes,
            )
        )
        at = end
    return found


def build_tlv(row: Iterable[Tlv]) -> bytes:
    """Write a row of TLVs.

    Raises:
        TlvError: a tag that is none, or a value too long for its length; the offset is that of the TLV.
    """
    out = bytearray()
    for entry in row:
        try:
            tag = bytes.fromhex(entry.tag)
        except ValueError:
            raise TlvError(len(out), "the tag is not hex") from None
        if not tag or _tag_end(tag, 0) != len(tag):
            raise TlvError(len(out), "the tag is not one tag")
        size = len(entry.value)
        length = _length(size)
        if entry.length_bytes > len(length):
            rest = entry.length_bytes - 1
            if rest > LENGTH_BYTES_MAX:
                raise TlvError(len(out), "a length of more than four bytes")
            length = bytes([0x80 | rest]) + size.to_bytes(rest, "big")
        out += tag + length + entry.value
    return bytes(out)


def _tag_end(data: bytes, at: int) -> int:
    start = at
    first = data[at]
    at += 1
    if first & 0x1F != 0x1F:
        return at
    while at < len(data):
        if at - start == TAG_BYTES_MAX:
            raise TlvError(start, "a tag of more than four bytes")
        at += 1
        if not data[at - 1] & 0x80:
            return at
    raise TlvError(start, "the tag is cut short")


def _read_length(data: bytes, at: int) -> tuple[int, int, int]:
    """Offset behind the length, the length, and the bytes that it took."""
    if at >= len(data):
        raise TlvError(at, "the length is missing")
    first = data[at]
    if first < 0x80:
        return at + 1, first, 1
    more = first & 0x7F
    if more == 0:
        raise TlvError(at, "an indefinite length")
    if more > LENGTH_BYTES_MAX:
        raise TlvError(at, "a length of more than four bytes")
    end = at + 1 + more
    if end > len(data):
        raise TlvError(at, "the length is cut short")
    return end, int.from_bytes(data[at + 1 : end], "big"), 1 + more


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    rest = (size.bit_length() + 7) // 8
    if rest > LENGTH_BYTES_MAX:
        raise TlvError(0, "a value too long for four bytes of length")
    return bytes([0x80 | rest]) + size.to_bytes(rest, "big")


TAG_NAMES: Final[dict[str, str]] = {
    "4F": "Application identifier (card)",
    "50": "Application label",
    "56": "Track 1 data",
    "57": "Track 2 equivalent data",
    "5A": "Application PAN",
    "5F20": "Cardholder name",
    "5F24": "Application expiration date",
    "5F2A": "Transaction currency code",
    "5F34": "PAN sequence number",
    "71": "Issuer script template 1",
    "72": "Issuer script template 2",
    "82": "Application interchange profile",
    "84": "Dedicated file name",
    "8A": "Authorization response code",
    "91": "Issuer authentication data",
    "95": "Terminal verification results",
    "9A": "Transaction date",
    "9B": "Transaction status information",
    "9C": "Transaction type",
    "9F02": "Amount, authorized",
    "9F03": "Amount, other",
    "9F06": "Application identifier (terminal)",
    "9F09": "Application version number (terminal)",
    "9F10": "Issuer application data",
    "9F1A": "Terminal country code",
    "9F1E": "Interface device serial number",
    "9F1F": "Track 1 discretionary data",
    "9F20": "Track 2 discretionary data",
    "9F26": "Application cryptogram",
    "9F27": "Cryptogram information data",
    "9F33": "Terminal capabilities",
    "9F34": "Cardholder verification method results",
    "9F35": "Terminal type",
    "9F36": "Application transaction counter",
    "9F37": "Unpredictable number",
    "9F41": "Transaction sequence counter",
    "9F53": "Transaction category code",
    "9F63": "Card product identification",
    "9F6B": "Track 2 data (contactless)",
    "9F6E": "Form factor indicator",
    "9F74": "Electronic cash issuer authorization code",
    "DF31": "Issuer script result",
}
"""English names of the tags that payment messages carry (EMV Book 3, annex A; UnionPay for 9F53, 9F63, 9F74, DF31)."""
