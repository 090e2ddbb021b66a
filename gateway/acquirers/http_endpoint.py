"""One endpoint of an HTTP host: whether it can be reached, and one request and its reply at a time over its session.

HTTP has no lasting connection, so being connected means: a connection could be made, and no exchange has broken since.
To hear of an outage without asking, one connection on which nothing is asked is kept open: the *watch*. A host hangs up
on it after a while; it is made again at once, and only where that fails is the endpoint down.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from gateway.acquirers.http_connector import Connector, Gate, WithdrawnError, through_gate
from gateway.acquirers.http_credential import authorization
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.http_watch import EndpointDownError, Watch, open_watch, reason_of
from gateway.acquirers.mapping import HttpReply, HttpRequest
from gateway.acquirers.port import EndpointState, EndpointStatus
from gateway.acquirers.settings import EndpointSettings
from gateway.acquirers.silence import Hearing


class NotConnectedError(Exception):
    """No connection could be made: no byte of the request has left. `reason` is out of a small set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ExchangeBrokenError(Exception):
    """The connection broke, or what came over it is no reply. In doubt.

    Attributes:
        reason: out of a small set.
        connection: whether the connection is to blame, and not what came over it.
    """

    def __init__(self, reason: str, *, connection: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.connection = connection


class EndpointOwner(Protocol):
    """The link, as its endpoints see it. Every call is made on the event loop's thread."""

    def opened(self, endpoint: HttpEndpoint) -> None:
        """The endpoint can be reached."""

    def lost(self, endpoint: HttpEndpoint, reason: str) -> None:
        """The endpoint cannot be reached any more, or an exchange with it has broken."""

    def connect_failed(self, endpoint: HttpEndpoint, reason: str) -> None:
        """An attempt to connect has failed."""

    def stray(self, endpoint: HttpEndpoint, *, behind_late: bool) -> None:
        """Something came behind a response; `behind_late` tells whether that one was late itself."""


class HttpEndpoint(Hearing):
    """Keeps a watch, from `start` until `close`, and exchanges requests for replies.

    Attributes:
        in_flight, in_flight_bytes, sent, answered, timed_out: kept by the owner.
    """

    def __init__(
        self,
        index: int,
        settings: EndpointSettings,
        link: HttpLinkSettings,
        *,
        reuse: bool,
        key_header: str,
        owner: EndpointOwner,
        mono_ms: Callable[[], int],
        utc_ms: Callable[[], int],
    ) -> None:
        super().__init__()
        self.index = index
        self.name = settings.name
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.sent = 0
        self.answered = 0
        self.timed_out = 0
        self._settings = settings
        self._link = link
        self._reuse_idle_ms = link.reuse_idle_ms if reuse else 0
        self._key_header = key_header
        self._owner = owner
        self._mono_ms = mono_ms
        self._utc_ms = utc_ms
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._base = f"{'http' if settings.tls is None else 'https'}://{host}:{settings.port}"
        self._state = EndpointState.WAITING
        self._since_ms = mono_ms()
        self._last_error = ""
        self._broken = asyncio.Event()
        self._watch: Watch | None = None
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the endpoint can be reached, as far as known."""
        return self._state is EndpointState.CONNECTED

    def has_room(self, size_bytes: int) -> bool:
        """Whether a request of this size may be sent now."""
        return (
            self.connected
            and self.in_flight < self._link.in_flight_max
            and self.in_flight_bytes + size_bytes <= self._link.in_flight_bytes_max
        )

    def start(self) -> None:
        """Begin to connect."""
        link = self._link
        self._connector = Connector(
            lambda late: self._owner.stray(self, behind_late=late), reuse_idle_ms=self._reuse_idle_ms
        )
        connect_s = link.connect_timeout_ms / 1000
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            auto_decompress=False,
            max_line_size=link.head_field_max_bytes,
            max_field_size=link.head_field_max_bytes,
            max_headers=link.head_fields_max,
        )
        self._upkeep = asyncio.get_running_loop().create_task(self._keep_up(), name=f"watch of {self.name}")
        self._upkeep.add_done_callback(self._upkeep_ended)

    async def ask(self, request: HttpRequest, may_write: Callable[[], bool], is_late: Callable[[], bool]) -> HttpReply:
        """Send a request once and read the reply.

        Args:
            may_write: asked when a connection is there; from a True on the request may have left.
            is_late: asked when the reply has been read: whether nobody waits for it any more.
        Raises:
            NotConnectedError: no byte has left.
            ExchangeBrokenError: in doubt.
        Cancellation: the connection is closed; whether a byte has left is what `may_write` was last asked.
        """
        gate = Gate(may_write, is_late)
        through_gate(gate)
        tls = self._settings.tls
        try:
            async with self._session.request(
                request.method,
                self._base + request.path,
                data=request.body,
                headers=self._headers(request),
                allow_redirects=False,
                ssl=tls if tls is not None else True,
                server_hostname=self._settings.server_hostname if tls is not None else None,
            ) as response:
                body = await self._body(response)
                return HttpReply(status=response.status, content_type=response.content_type.lower(), body=body)
        except (aiohttp.ClientError, OSError) as error:  # also every TimeoutError
            if isinstance(error, WithdrawnError) and not gate.passed:
                raise ExchangeBrokenError("withdrawn", connection=False) from error
            if not gate.passed:
                raise NotConnectedError(reason_of(error)) from error
            connection = isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError)
            raise ExchangeBrokenError(reason_of(error), connection=connection) from error

    def broke(self, reason: str) -> None:
        """An exchange has broken: the endpoint is down until a new connection could be made."""
        if self._state is EndpointState.CONNECTED:
            self._down(reason)
        self._broken.set()

    def went_unheard(self, *, echo: bool = False) -> bool:
        """Count that; True where the endpoint has fallen silent with it. It stays connected: others go first."""
        silent_before = self.silent
        if not self.unheard(self._link.unheard_max, echo=echo) or silent_before:
            return False
        self._last_error = "silent: no answer to as many messages as may go unheard"
        return True

    def sweep(self) -> None:
        """Look for what came over idle connections."""
        self._connector.sweep()

    def status(self) -> EndpointStatus:
        """Numbers for status pages."""
        return EndpointStatus(
            name=self.name,
            state=self._state,
            since_ms=self._since_ms,
            silent=self.silent,
            last_error=self._last_error,
            in_flight=self.in_flight,
            sent=self.sent,
            answered=self.answered,
            timed_out=self.timed_out,
        )

    async def close(self) -> None:
        """Hang up, at most `close_timeout_ms` long."""
        upkeep = self._upkeep
        if upkeep is not None:
            upkeep.cancel()
            await asyncio.wait([upkeep])
        self._enter(EndpointState.CLOSED)
        if upkeep is None:
            return
        closing: list[asyncio.Task[Any]] = [asyncio.create_task(self._session.close())]
        if self._watch is not None:
            self._watch.close()
            closing.append(asyncio.create_task(self._watch.gone.wait()))
        _, left = await asyncio.wait(closing, timeout=self._link.close_timeout_ms / 1000)
        for one in left:
            one.cancel()
        if self._watch is not None:
            self._watch.abort()

    # --- one exchange ----------------------------------------------------------------------------------------------

    def _headers(self, request: HttpRequest) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "holdfast"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.key:
            headers[self._key_header] = request.key
        credential = self._link.credential
        if credential is not None:
            headers["Authorization"] = authorization(credential, request, self._utc_ms() // 1000, secrets.token_hex(12))
        return headers

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._link.body_max_bytes
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            response.close()
            raise ExchangeBrokenError("body is compressed", connection=False)
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                response.close()
                raise ExchangeBrokenError("body too large", connection=False)
        return bytes(body)

    # --- upkeep ----------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Watch for ever: pauses grow while attempts fail, and start anew after a watch that lasted."""
        link = self._link
        pause = wait_exponential(multiplier=link.reconnect_initial_ms / 1000, max=link.reconnect_max_ms / 1000)
        jitter = wait_random(0, link.reconnect_jitter_ms / 1000)
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(EndpointDownError), wait=pause + jitter, before_sleep=self._before_pause
            ):
                with attempt:
                    await self._one_watch()

    async def _one_watch(self) -> None:
        """Connect, and stay until the host hangs up or an exchange breaks.

        Raises:
            EndpointDownError: it could not be made, or did not last for `reconnect_stable_ms`.
        """
        if self._state is not EndpointState.CONNECTED:
            self._enter(EndpointState.CONNECTING)
        watch = self._watch = await open_watch(self._settings, self._link)
        self._broken.clear()  # what broke before is answered by this connection
        since_ms = self._mono_ms()
        try:
            if self._state is not EndpointState.CONNECTED:
                self._enter(EndpointState.CONNECTED)
                self._owner.opened(self)
            await self._gone_or_broken(watch)
        finally:
            watch.close()
        if self._mono_ms() - since_ms < self._link.reconnect_stable_ms:
            raise EndpointDownError("did not last")

    async def _gone_or_broken(self, watch: Watch) -> None:
        waiting = [asyncio.create_task(watch.gone.wait()), asyncio.create_task(self._broken.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    def _before_pause(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        reason = error.reason if isinstance(error, EndpointDownError) else ""
        if self._state is EndpointState.CONNECTED:
            self._down(reason)
        self._enter(EndpointState.WAITING)
        if reason != "did not last":
            self._last_error = reason
            self._owner.connect_failed(self, reason)

    def _upkeep_ended(self, upkeep: asyncio.Task[None]) -> None:
        # Supervision boundary: only a defect of ours ends the upkeep by itself, and it must not pass unseen.
        if not upkeep.cancelled() and (error := upkeep.exception()) is not None:
            self._last_error = f"defect: {type(error).__name__}"
            upkeep.get_loop().call_exception_handler({"message": f"watch of {self.name} ended", "exception": error})

    def _down(self, reason: str) -> None:
        self._last_error = reason
        self._enter(EndpointState.WAITING)
        self._owner.lost(self, reason)

    def _enter(self, state: EndpointState) -> None:
        if state is not self._state:
            self._state = state
            self._since_ms = self._mono_ms()
