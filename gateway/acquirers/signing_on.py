"""When the gateway signs on to a host, and over which connection: one sign-on at a time, for all endpoints of a link.

Plain code without IO of its own. What a link does about its keys:

    keys    | a connection opens       | the host asks for a new sign-on     | the last connection goes
    --------+--------------------------+-------------------------------------+---------------------------------------
    none    | it signs on, or waits    | (nothing was sent that it could     |
            | for the one under way    | answer so)                          |
    present | admitted at once         | sign on over a live connection; all | none any more: the host may have lost
            |                          | else goes on under the present key  | them with the session

A connection is admitted, and counts as connected, only when there are keys: nothing but the sign-on leaves before. A
sign-on without which there are no keys ends its connection when it fails, and the endpoint's growing pauses follow;
the next connection that waits has its turn. One over a live connection that fails leaves connection and keys as they
are, and is tried again after `sign_on_interval_ms`; but where the host refuses it that has refused our messages as
well, nothing that is sent could succeed: the connections end, so that sales stand in until a sign-on succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gateway.acquirers.endpoint import Endpoint
from gateway.acquirers.session import HostSession, MacCheck, Session, SignOnFailed
from protocol.iso8583.message import Message

_STAN_MAX: Final = 999_999
_BY_THE_HOST: Final = frozenset({"refused", "unusable answer", "wrong keys"})
_STANS_TRIED: Final = 8
"""STANs that may be in flight by chance; where all of them are, the next sweep tries others."""


class Carrier(Protocol):
    """The link, as its signing-on sees it."""

    def carry(self, endpoint: Endpoint, message: Message, timeout_ms: int) -> bool:
        """Write a message of the gateway's own; False, and nothing was written, where its match key is in flight."""

    def admit(self, endpoint: Endpoint) -> None:
        """Let messages go over a connection."""

    def signed_on(self, endpoint: Endpoint) -> None:
        """New keys have come."""

    def sign_on_failed(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """No keys have come. Neither text holds a key; reasons come from a small fixed set."""


class SigningOn:
    """Decides and remembers; the link carries out. All calls are made on the event loop's thread."""

    def __init__(
        self,
        settings: HostSession,
        session: Session,
        endpoints: Sequence[Endpoint],
        carrier: Carrier,
        mono_ms: Callable[[], int],
        first_stan: int,
    ) -> None:
        self._settings = settings
        self._session = session
        self._endpoints = endpoints
        self._carrier = carrier
        self._mono_ms = mono_ms
        self._stan = first_stan - 1
        self._under_way = False
        self._wanted = False  # by the host, while there are keys
        self._disowned = False  # the host has refused a message of ours, or we an answer of its
        self._sent_ms = 0

    def opened(self, endpoint: Endpoint) -> None:
        """A connection is there and not yet admitted."""
        if self._session.keyed:
            self._carrier.admit(endpoint)
        else:
            self.proceed()

    def gone(self) -> None:
        """A connection has ended, and what was in flight on it is not settled yet."""
        if not any(endpoint.connected for endpoint in self._endpoints):
            self._session.forget(self._mono_ms())

    def judge(self, answer: Message, mac: MacCheck, sent_ms: int) -> None:
        """Sign on again, now or as soon as the interval allows, where an answer shows that it is time.

        That is where the host asks for it, and where its MAC is wrong: the host may have another key than we, and
        would be disbelieved for ever. One that makes no MACs at all would not begin to after a sign-on.

        Args:
            sent_ms: when the message was sent. What went under an earlier key says nothing of the present one.
        """
        if not self._session.signs_on or sent_ms < self._session.keyed_since_ms:
            return
        if mac is MacCheck.WRONG or self._session.asks_for_sign_on(answer):
            self._wanted = True
            self._disowned |= mac is MacCheck.WRONG or self._session.refuses(answer)
            self.proceed()

    def answered(self, endpoint: Endpoint, answer: Message) -> None:
        """The host has answered the sign-on that went over `endpoint`."""
        try:
            self._session.take_keys(answer.fields, self._mono_ms())
        except SignOnFailed as failed:
            self._failed(endpoint, failed.reason, failed.detail)
            return
        self._under_way = self._wanted = self._disowned = False
        self._carrier.signed_on(endpoint)
        for waiting in self._endpoints:
            if waiting.awaits_admission:
                self._carrier.admit(waiting)

    def unanswered(self, endpoint: Endpoint) -> None:
        """No answer came in time, or its connection is gone."""
        if endpoint.live:
            self._failed(endpoint, "no answer", f"within {self._settings.sign_on_timeout_ms} ms")
        else:
            self._failed(endpoint, "connection lost", "before the host has answered")

    def proceed(self) -> None:
        """Sign on where that is due. Called again from a sweep, for what had to wait for the interval."""
        if self._under_way:
            return
        endpoint: Endpoint | None = None
        if not self._session.keyed:
            endpoint = next((e for e in self._endpoints if e.awaits_admission), None)
        elif self._wanted and self._mono_ms() - self._sent_ms >= self._settings.sign_on_interval_ms:
            endpoint = next((e for e in self._endpoints if e.has_room), None)
        if endpoint is None:
            return
        for _ in range(_STANS_TRIED):
            self._stan = self._stan % _STAN_MAX + 1
            if self._carrier.carry(endpoint, self._session.sign_on(self._stan), self._settings.sign_on_timeout_ms):
                self._under_way = True
                self._sent_ms = self._mono_ms()
                return

    def _failed(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        self._under_way = False
        self._carrier.sign_on_failed(endpoint, reason, detail)
        if endpoint.awaits_admission:
            endpoint.abort(f"sign-on failed: {reason}")
        elif self._disowned and reason in _BY_THE_HOST:
            self._disowned = self._wanted = False
            for connected in self._endpoints:
                connected.abort(f"sign-on failed: {reason}")
        self.proceed()
