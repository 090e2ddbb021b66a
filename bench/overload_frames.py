"""Sales as bytes, made ready beforehand, and answers read no further than the crowd needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from bench.overload_records import Outcome, amount_minor
from bench.till import CURRENCY, MERCHANT, TEST_CARDS, Till
from protocol.iso8583.dialect import load_dialect

CARD: Final = TEST_CARDS[0]
_STAN_MARK: Final = "987654"
_AMOUNT_MARK: Final = 876_543_210
_TERMINAL_MARK: Final = "T7654321"
_TAIL: Final = re.compile(rb"(..)T([0-9]{7})HOLDFASTBENCH01", re.DOTALL)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def terminal_id(number: int) -> str:
    """Field 41 of a terminal."""
    return f"T{number:07d}"


class Frames:
    """A UnionPay sale as its terminal would send it, with amount, STAN and terminal put in."""

    def __init__(self) -> None:
        dialect = load_dialect("unionpay")
        frame = Till(dialect, _TERMINAL_MARK).sale(_AMOUNT_MARK, CARD, stan=_STAN_MARK).frame
        marks = [bytes.fromhex(f"{_AMOUNT_MARK:012d}"), bytes.fromhex(_STAN_MARK), _TERMINAL_MARK.encode()]
        places = [frame.index(mark) for mark in marks]
        assert places == sorted(places)
        assert all(frame.count(mark) == 1 for mark in marks)
        ends = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
        self._parts = (frame[: places[0]], frame[ends[0] : places[1]], frame[ends[1] : places[2]], frame[ends[2] :])

    def sale(self, terminal: int, stan: int) -> bytes:
        """The frame, its length in front."""
        head, before_stan, before_terminal, tail = self._parts
        amount = bytes.fromhex(f"{amount_minor(terminal, stan):012d}")
        return b"".join(
            (head, amount, before_stan, bytes.fromhex(f"{stan:06d}"), before_terminal, b"T%07d" % terminal, tail)
        )


class IsoAnswers:
    """Cuts a stream of answers, and reads terminal, STAN and code of each.

    Field 39 stands right before 41 and 42 in what the gateway answers; the STAN is where the bitmap says it is when
    fields 2, 3 and 4 are there, as they are in every answer to these sales.
    """

    _STAN_AT: Final = 2 + 5 + 6 + 2 + 8 + 1 + len(CARD) // 2 + 3 + 6

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, received: bytes) -> Iterator[tuple[int, int, str]]:
        """Terminal, STAN and code of every answer that is complete. Raises: ValueError for what is no such answer."""
        held = self._kept + received if self._kept else received
        at, end = 0, len(held)
        while end - at >= 2:
            until = at + 2 + (held[at] << 8 | held[at + 1])
            if until > end:
                break
            found = _TAIL.search(held, at, until)
            if found is None:
                raise ValueError("an answer without terminal and merchant")
            stan = held[at + self._STAN_AT : at + self._STAN_AT + 3].hex()
            yield int(found[2]), int(stan), found[1].decode("ascii")
            at = until
        self._kept = held[at:]


class HttpSales:
    """A till's sales over HTTP."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal

    def sale(self, stan: int) -> bytes:
        """The request; the same bytes for the same STAN, so that a repeat is one."""
        name = terminal_id(self._terminal)
        body = msgspec.json.encode(
            {
                "type": "sale",
                "merchant": MERCHANT,
                "terminal": name,
                "stan": f"{stan:06d}",
                "batch": "000001",
                "amount_minor": amount_minor(self._terminal, stan),
                "currency": CURRENCY,
                "card": {"pan": CARD, "expiry": "3012"},
            }
        )
        head = (
            f"POST /v1/transactions HTTP/1.1\r\nHost: till\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {name}-{stan}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _View(msgspec.Struct):
    response_code: str = ""


class HttpAnswers:
    """Cuts a stream of HTTP answers. A refusal must be problem details that say when to come again.

    409 is one only as "in progress": other conflicts are none.
    """

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, received: bytes) -> Iterator[tuple[Outcome, str]]:
        """Outcome and code of every answer that is complete."""
        self._kept += received
        while (head_end := self._kept.find(b"\r\n\r\n")) >= 0:
            head = self._kept[: head_end + 2]
            length = _LENGTH.search(head)
            until = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._kept) < until:
                return
            body, self._kept = self._kept[head_end + 4 : until], self._kept[until:]
            yield _judged(head, body)


def _judged(head: bytes, body: bytes) -> tuple[Outcome, str]:
    status = head[9:12].decode("ascii", "replace")
    if status == "200":
        code = msgspec.json.decode(body, type=_View).response_code
        return Outcome.of_code(code), code
    lower = head.lower()
    refused = status in ("429", "503") or (status == "409" and b'"urn:holdfast:problem:in-progress"' in body)
    if refused and b"\r\nretry-after:" in lower and b"application/problem+json" in lower:
        return Outcome.REFUSED, f"http {status}"
    return Outcome.OTHER, f"http {status}"
