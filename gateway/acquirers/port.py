"""The link's port: what any link to an acquirer must do, and what it must not. One conformance suite runs on each.

A link MUST
- answer every Send with exactly one of Answered, TimedOut and NotSent of the same token, through `deliver`, on the
  event loop's thread, never from within `send` itself, and not later than `timeout_ms` after the call (and what the
  timer of a busy loop adds);
- report NotSent only when no byte of the message was given to an operating system or a library that may write it, and
  try every endpoint of the acquirer that has room before it does (D6);
- report TimedOut when a byte may have left and the answer did not come, was not readable, or its connection broke:
  never try another endpoint then (D6);
- match answers by the host's match fields and the answer's MTI, never by their order;
- refuse (NotSent) a Send whose match key equals one in flight, and one that could be taken for another transaction
  whose answer may still come;
- after TimedOut, deliver a late answer as LateAnswered at most once, and to no other Send (D16);
- deliver Connected(True) when the first endpoint connects and Connected(False) when none is connected any more, the
  latter before the TimedOut of what was in flight there, so that nothing new is sent in between; where the host wants a
  session, an endpoint counts as connected only once the gateway has keys to send under;
- where messages carry MACs, make them at the moment of sending (D10), deliver an answer whose MAC is wrong or missing
  with `verified` False, and ignore a late one;
- reconnect by itself, with growing and jittered pauses, for as long as it is started;
- have a limit on everything it holds (INV-9).
A link MUST NOT
- repeat, reorder or change a message: what it is given is sent once, or not at all (D7, D8);
- send probes of its own: when to ask the host is the core's decision; its own sign-on is no probe;
- put a key, or a value of a field, into a report, a counter's name or an exception; but for the response code by which
  the host refuses the gateway's own sign-on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.core.effects import Send
from gateway.core.events import LinkEvent

Deliver = Callable[[LinkEvent], None]
"""Called on the event loop's thread, once per event. Must not raise."""


class EndpointState(StrEnum):
    """Where one endpoint of an acquirer stands."""

    CONNECTING = "connecting"
    SIGNING_ON = "signing-on"  # connected, and nothing may be sent before the host has given keys
    CONNECTED = "connected"
    WAITING = "waiting"  # for the next attempt to connect
    CLOSED = "closed"


@dataclass(slots=True, frozen=True, kw_only=True)
class EndpointStatus:
    """What status pages are told of one endpoint.

    Attributes:
        name: "host:port".
        since_ms: monotonic time at which `state` was entered.
        silent: it has left too many messages in a row without an answer, and others go first until it is heard.
        last_error: why the last attempt or connection ended; empty while there was none.
        in_flight: sent there and not settled.
        sent, answered, timed_out: since the start; late answers are not among `answered`.
    """

    name: str
    state: EndpointState
    since_ms: int
    silent: bool
    last_error: str
    in_flight: int
    sent: int
    answered: int
    timed_out: int


class Link(Protocol):
    """A way to one acquirer. All calls are made on the event loop's thread."""

    @property
    def connected(self) -> bool:
        """Whether at least one endpoint is connected."""

    room: int
    """How many messages the endpoints that are connected may have in flight together."""

    async def start(self) -> None:
        """Begin to connect, and return without waiting for a connection."""

    def send(self, send: Send) -> None:
        """Send a message once. See the contract above for what is delivered."""

    def counters(self) -> dict[str, int]:
        """Totals since the start, by stable name."""

    def gauges(self) -> dict[str, int]:
        """Present sizes, by stable name."""

    def endpoints(self) -> Sequence[EndpointStatus]:
        """One status per endpoint, in configured order."""

    async def close(self) -> None:
        """Disconnect. Everything in flight is settled through `deliver` before this returns. Safe to call twice.

        Cancellation: everything has been settled all the same; sockets may close a little later.
        """
