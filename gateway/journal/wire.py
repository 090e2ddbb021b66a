"""What a gateway and the process of its journal say to each other: orders one way, what came of them the other.

Each frame is four bytes of length, big-endian, and a MessagePack array of orders or of tidings. Both ends are of one
release and on one machine: nothing here is a format for others, and nothing of it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import ClassVar, Final, Generic, TypeVar

import msgspec

from gateway.core.effects import Create, FetchBatch, FetchHeads, Find, FindNewest, Load, Update, Write
from gateway.core.events import BatchRead, Committed, Damaged, Existing, Found, Heads, OverLimit, WriteRefused
from gateway.core.lifecycle import EntryKind
from gateway.journal.keyring import Keyring
from gateway.journal.port import Listing

_LENGTH_BYTES: Final = 4
_T = TypeVar("_T")


class Open(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Open the journal, with these keys. The first order; `path` and the rest are SqliteJournalSettings.

    It shows itself without the keys.
    """

    call: int
    path: str
    min_free_bytes: int
    limit_bytes: int
    cache_mib: int
    commit_delay_ms: int
    keyring: Keyring


class AskNote(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.note."""

    call: int
    kind: EntryKind
    detail: str


class AskAdoptKeys(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.adopt_keys. It shows itself without the keys."""

    call: int
    keyring: Keyring


class AskKeyNeeds(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.key_needs."""

    call: int


class AskPutAside(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.put_aside."""

    call: int
    after_id: int
    limit: int


class AskOwingLanes(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.owing_lanes."""

    call: int


class AskInDoubt(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.in_doubt."""

    call: int
    limit: int


class AskListing(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.listing."""

    call: int
    listing: Listing


class AskHealth(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.health."""

    call: int


class AskRefusal(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.refusal, which also tries whether there is room again. What is new is told by a Standing."""


class AskClose(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """port.Journal.close. The last order."""

    call: int


class Result(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A call has come to its end; `value` is what it gives, of the call's own type."""

    call: int
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A call has ended with an error: the name of its class and its text."""

    call: int
    error: str
    text: str


class Standing(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How the journal stands after what was told before it: why it refuses, and the head of its log."""

    refusal: str
    size: int
    root: bytes


class Said(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line for the gateway's log: name of the logger, level as in `logging`, text."""

    name: str
    level: int
    text: str


class Stopped(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The journal has stopped, and tells nothing more: the name of the error's class and its text."""

    error: str
    text: str


class PackedCreate(Create, frozen=True, gc=False, array_like=True, tag="Create"):
    """A Create as the journal's end reads it: message and answer are sealed as they came, nobody there looks into them.

    To take them apart costs more than to read all the rest of a write, and they would be packed again as they were.
    """

    VEILED: ClassVar[frozenset[str]] = frozenset({"request", "sensitive", "answer"})

    request: msgspec.Raw  # type: ignore[assignment]  # rows.pack_account takes both
    answer: msgspec.Raw  # type: ignore[assignment]


class PackedWrite(Write, frozen=True, gc=False, array_like=True, tag="Write"):
    """A Write as the journal's end reads it."""

    changes: tuple[PackedCreate | Update, ...]


Call = (
    Open | AskNote | AskAdoptKeys | AskKeyNeeds | AskPutAside | AskOwingLanes | AskInDoubt | AskListing | AskHealth
    | AskClose
)  # fmt: skip
_Question = Find | FindNewest | FetchHeads | FetchBatch | Load | AskRefusal | Call
Order = Write | _Question
_Event = Committed | Existing | OverLimit | WriteRefused | Found | Heads | BatchRead | Damaged
Tiding = _Event | Result | Failure | Standing | Said | Stopped

_encode = msgspec.msgpack.Encoder().encode


def packed(value: object) -> msgspec.Raw:
    """A value as it stands in a Result."""
    return msgspec.Raw(_encode(value))


def frame(messages: Sequence[Order] | Sequence[Tiding]) -> bytes:
    """Orders or tidings as one frame."""
    body = _encode(messages)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def send_now(transport: asyncio.WriteTransport, octets: bytes) -> None:
    """Send a frame: at once where the socket takes it, for the loop would wait until all else of its turn is done."""
    if transport.get_write_buffer_size() == 0:
        with contextlib.suppress(OSError):  # the loop meets it again, and tells
            octets = octets[os.write(transport.get_extra_info("socket").fileno(), octets) :]
    if octets:
        transport.write(octets)


class FrameReader(Generic[_T]):
    """Cuts what one end reads into messages."""

    def __init__(self, kind: object) -> None:
        """`kind` is what each message may be."""
        self._decode = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]
        self._buffer = bytearray()

    def feed(self, octets: bytes) -> list[_T]:
        """The messages that are whole now, in order.

        Raises:
            msgspec.DecodeError: the other end speaks something else, which is a defect of ours.
        """
        buffer = self._buffer
        buffer += octets
        messages: list[_T] = []
        start = 0
        while len(buffer) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(buffer[start:body], "big")
            if len(buffer) < end:
                break
            messages += self._decode(bytes(buffer[body:end]))
            start = end
        if start:
            del buffer[:start]
        return messages


def orders() -> FrameReader[Order]:
    """What the journal's end reads."""
    return FrameReader(PackedWrite | _Question)


def tidings() -> FrameReader[Tiding]:
    """What the gateway's end reads."""
    return FrameReader(Tiding)
