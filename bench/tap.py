"""A tap on a TCP line: hands every byte on as it is, and searches both directions for card numbers.

A card number is looked for as text, as packed digits beginning in either half of a byte, as hexadecimal text of that
text (of packed digits it is the text itself), and as base64 of text and of packed digits at each of the three places
that base64 can begin at.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Final, cast

from bench.listening import close_port

_SEARCH_AT_BYTES: Final = 64 * 1024
_BUFFER_BYTES_MAX: Final = 1 << 20


def patterns(pan: str) -> frozenset[bytes]:
    """Every form in which a card number is looked for."""
    text = pan.encode()
    even = len(pan) // 2 * 2
    packed = {bytes.fromhex(pan[:even])}
    # From the second half of a byte on: what lies between whole bytes.
    packed.add(bytes.fromhex(pan[1 : 1 + (len(pan) - 1) // 2 * 2]))
    found = {text, text.hex().encode(), *packed}
    for raw in (text, *packed):
        found |= _base64_forms(raw)
    return frozenset(found)


def _base64_forms(raw: bytes) -> set[bytes]:
    """What is certain of `raw` in base64, wherever it begins; in the usual alphabet and in that of URLs."""
    forms = set()
    for before in range(3):
        behind = -(before + len(raw)) % 3
        whole = base64.b64encode(bytes(before) + raw + bytes(behind))
        # The characters at the edges have bits of what stands before and behind.
        start = (0, 2, 3)[before]
        end = len(whole) - (0, 2, 3)[behind]
        sure = whole[start:end]
        forms |= {sure, sure.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms


@dataclass(slots=True)
class Watch:
    """The card numbers that are looked for, and what was found.

    Attributes:
        found: how often each number of the list was met; numbers by their place, so that this can be printed.
        tapped_bytes: that were looked through.
    """

    pans: tuple[str, ...]
    found: dict[int, int] = field(default_factory=dict)
    tapped_bytes: int = 0
    _patterns: list[tuple[bytes, int]] = field(default_factory=list)
    _streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._patterns = [(form, place) for place, pan in enumerate(self.pans) for form in sorted(patterns(pan))]

    @property
    def overlap_bytes(self) -> int:
        """What must be kept of one search for the next one, so that nothing falls between them."""
        return max((len(form) for form, _ in self._patterns), default=1) - 1

    @property
    def pans_on_wire(self) -> int:
        """Occurrences of any card number."""
        return sum(self.found.values())

    def stream(self) -> Stream:
        """One direction of one connection."""
        stream = Stream(self)
        self._streams.append(stream)
        return stream

    def finish(self) -> int:
        """Search what is left; the occurrences of any card number."""
        for stream in self._streams:
            stream.search()
        return self.pans_on_wire

    def search(self, text: bytes, known_bytes: int) -> None:
        """Look through a piece of a stream; what lies wholly within its first `known_bytes` was counted before."""
        for form, place in self._patterns:
            at = text.find(form)
            while at >= 0:
                if at + len(form) > known_bytes:
                    self.found[place] = self.found.get(place, 0) + 1
                at = text.find(form, at + 1)


class Stream:
    """One direction of one connection, searched piece by piece."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._kept = bytearray()
        self._known = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._watch.tapped_bytes += len(chunk)
        self._kept += chunk
        if len(self._kept) >= _SEARCH_AT_BYTES:
            self.search()

    def search(self) -> None:
        """Look through what was not looked through."""
        self._watch.search(bytes(self._kept), self._known)
        del self._kept[: max(0, len(self._kept) - self._watch.overlap_bytes)]
        self._known = len(self._kept)


class Tap:
    """A listener that hands every connection on to one address. All calls are made on the event loop's thread."""

    def __init__(self, watch: Watch, target: tuple[str, int], *, port: int = 0, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port
        self.connections = 0
        self._watch = watch
        self._target = target
        self._server: asyncio.Server | None = None
        self._sides: set[_Side] = set()

    async def start(self) -> None:
        """Listen; a port of 0 becomes the real one.

        Raises:
            OSError: the address is taken.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), self.host, self.port, backlog=1024)
        self.port = cast("int", self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Listen no more, and cut every connection. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            await close_port(server)
        for side in tuple(self._sides):
            side.abort()
        await asyncio.sleep(0)

    async def dial(self, near: _Near) -> None:
        """Connect the other side of a connection."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Far(self, near), *self._target)
        except OSError:
            near.abort()  # whoever dialled learns that nobody is there, if a little late

    def stream(self) -> Stream:
        """One direction of a connection, watched."""
        return self._watch.stream()

    def opened(self, side: _Side) -> bool:
        """A side of a connection is there. Whether it may stay: not where the port was closed meanwhile."""
        self._sides.add(side)
        if self._server is None:
            side.abort()
        return self._server is not None

    def closed(self, side: _Side) -> None:
        """It is gone."""
        self._sides.discard(side)


class _Side(asyncio.Protocol):
    """One side of a tapped connection: what it hears goes to the other one."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._stream = tap.stream()
        self._transport: asyncio.Transport | None = None
        self._early = bytearray()
        self._ended = False
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._tap.opened(self):
            self.stays()

    def stays(self) -> None:
        """The connection is there, and so is its other side or will be."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended = True
        self._tap.closed(self)
        if self.other is not None:
            if exc is None:
                self.other.close()
            else:
                self.other.abort()

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)
        if self.other is None:
            self._early += data
            if len(self._early) > _BUFFER_BYTES_MAX:
                self.abort()
        else:
            self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.read(more=False)

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.read(more=True)

    def join(self, other: _Side) -> None:
        """Hand what was heard so far, and everything from now on, to the other side."""
        self.other, other.other = other, self
        other.write(bytes(self._early))
        self._early.clear()
        if self._ended:
            other.close()

    def read(self, *, more: bool) -> None:
        """Read on, or wait because the other side does not take what was read."""
        if self._transport is None or self._transport.is_closing():
            return
        if more:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Send, if the connection is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close when everything was sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()


class _Near(_Side):
    """The side that dialled."""

    def stays(self) -> None:
        self._tap.connections += 1
        self._dialling = asyncio.get_running_loop().create_task(self._tap.dial(self))


class _Far(_Side):
    """The side that was dialled for it."""

    def __init__(self, tap: Tap, near: _Near) -> None:
        super().__init__(tap)
        self._near = near

    def stays(self) -> None:
        self._near.join(self)
