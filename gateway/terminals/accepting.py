"""Accepting connections: the limits stand before the TLS handshake, and running out of descriptors is survived."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from gateway.terminals.limits import Count, ListenerSettings
from gateway.tls import refusal_of

_ACCEPTS_PER_TURN = 4
"""So that a flood of connections does not keep those that are there from being served.

A sale takes several turns of the loop, and every turn has room for as many new connections: with 128, a thousand that
came at once kept the loop for up to 20 ms in a turn; with 4, for less than 5 ms.
"""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Accepted(asyncio.Protocol):
    """A protocol that tells whether it got its transport."""

    made = False


class Acceptor:
    """Accepts connections for a listener, and holds a place for each until `release`.

    asyncio's own server would accept first and ask never; here the numbers are checked between `accept` and the
    first byte.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        factory: Callable[[str, str], Accepted],
        count: Callable[[Count], None],
        refused: Callable[[Count, str, str], None],
    ) -> None:
        """Nothing is accepted before `start`.

        Args:
            factory: is given the peer's address and its name "address:port".
            refused: is given what to count, the peer's name, and why in words; for what an operator must hear of.
        """
        self._settings = settings
        self._factory = factory
        self._count = count
        self._refused = refused
        self._socket: socket.socket | None = None
        self._reading = False
        self._places: dict[str, int] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address that was bound.

        Raises:
            OSError: the address cannot be resolved or bound.
        """
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        found = await self._loop.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        listening = socket.create_server((str(address[0]), settings.port), family=family, backlog=settings.backlog)
        listening.setblocking(False)
        # Those that are accepted inherit both. What is not read stays with whoever sends it (INV-9).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.receive_buffer_bytes)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.write_buffer_limit_bytes)
        self._socket = listening
        self.resume()
        host, port = listening.getsockname()[:2]
        return str(host), int(port)

    def resume(self) -> None:
        """Accept (again)."""
        if self._socket is not None and not self._reading:
            self._loop.add_reader(self._socket, self._accept)
            self._reading = True

    def stop(self) -> None:
        """Stop listening; what has been accepted stays."""
        if self._socket is not None:
            self._pause()
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """Stop listening and give up the handshakes that are under way."""
        self.stop()
        for task in self._opening:
            task.cancel()
        if self._opening:
            await asyncio.wait(self._opening)

    def release(self, address: str) -> None:
        """A connection from `address` is gone."""
        self.connections -= 1
        left = self._places[address] - 1
        if left:
            self._places[address] = left
        else:
            del self._places[address]

    def _pause(self) -> None:
        if self._socket is not None and self._reading:
            self._loop.remove_reader(self._socket)
            self._reading = False

    def _accept(self) -> None:
        if self._socket is None:
            return
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                # The connection stays in the backlog; polling for it would only burn the processor.
                self._count(Count.ACCEPT_FAILED)
                self._pause()
                return
            self._admit(accepted, str(peer[0]), f"{peer[0]}:{peer[1]}")

    def _admit(self, accepted: socket.socket, address: str, name: str) -> None:
        """Close the connection at once where a limit is reached, else open it."""
        if self.connections >= self._settings.connections_max:
            self._count(Count.REFUSED_TOTAL)
            accepted.close()
            return
        places = self._places.get(address, 0)
        if places >= self._settings.connections_per_address_max:
            self._count(Count.REFUSED_ADDRESS)
            accepted.close()
            return
        if self._settings.tls is not None and len(self._opening) >= self._settings.tls_handshakes_max:
            self._refused(Count.REFUSED_HANDSHAKES, name, "too many handshakes are under way")
            accepted.close()
            return
        self.connections += 1
        self._places[address] = places + 1
        self._count(Count.ACCEPTED)
        task = self._loop.create_task(self._open(accepted, address, name))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, address: str, name: str) -> None:
        """Make the protocol, with TLS where configured. The place is released here only if no protocol came to be."""
        settings = self._settings
        protocol = self._factory(address, name)
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:  # reset already
            accepted.close()
            self._count(Count.HANDSHAKE_FAILED)
            self.release(address)
            return
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=settings.tls,
                ssl_handshake_timeout=settings.tls_handshake_timeout_ms / 1000 if settings.tls else None,
                ssl_shutdown_timeout=settings.close_timeout_ms / 1000 if settings.tls else None,
            )  # from here on the transport closes the socket
        except OSError as error:  # also ssl.SSLError and a handshake that took too long
            self._count(Count.HANDSHAKE_FAILED)
            if settings.tls is not None:
                refusal = refusal_of(error)
                self._refused(Count(f"handshake_{refusal.value}"), name, f"{refusal.text} ({error})")
        finally:
            if not protocol.made:  # nor will connection_lost be called, which releases the place otherwise
                self.release(address)
