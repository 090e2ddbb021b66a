"""HMAC request signatures: how a terminal without a certificate proves each request (item 6, INV-9).

    Authorization: Holdfast-HMAC terminal="T0000001", timestamp="1795000000", nonce="...", signature="..."

The signature is the lower-case hex of HMAC-SHA256, under the terminal's secret, over these lines joined by LF:

    HOLDFAST-HMAC-1
    method                          such as POST
    request target                  path and query as they stand in the request
    terminal
    timestamp                       seconds since 1970-01-01T00:00:00Z
    nonce                           8 to 64 letters, digits, "-" or "_"; new for each request, also for a retry
    Idempotency-Key                 the header as it stands in the request; empty where there is none
    lower-case hex of the SHA-256 of the body

The Idempotency-Key is signed because it can be the whole identity of a transaction (D1): whoever could change it on the
way could make one sale two. Nonces live in memory: after a restart a request of the last minutes could be sent again,
which the Idempotency-Key, being signed, turns into a retry.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from protocol.http_api import ProblemKind

SCHEME: Final = "Holdfast-HMAC"
_VERSION: Final = "HOLDFAST-HMAC-1"
_PARAMETER: Final = re.compile(r'\s*([a-z]{1,16})=(?:"([ -!#-~]{0,128})"|([^\s",]{0,128}))\s*(?:,|$)')
_NAMES: Final = frozenset({"terminal", "timestamp", "nonce", "signature"})
_NONCE: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_NOBODYS_SECRET: Final = bytes(32)

SecretOf = Callable[[str], bytes | None]
"""The secret of a terminal, at least 16 bytes, or None where there is no such terminal."""


class SignatureRefused(Exception):
    """A request is not proved.

    Attributes:
        kind: UNAUTHENTICATED, SIGNATURE_EXPIRED, NONCE_REUSED or OVERLOADED.
        detail: what would be right; tells an attacker nothing.
        reason: for our own report.
    """

    def __init__(self, kind: ProblemKind, detail: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.detail = detail
        self.reason = reason


class Signed(NamedTuple):
    """What a signature covers, beside terminal, time and nonce."""

    method: str
    target: str
    idempotency_key: str
    body: bytes


def signature(secret: bytes, signed: Signed, terminal: str, timestamp: str, nonce: str) -> str:
    """The signature of a request, for whoever makes requests and whoever checks them."""
    body = hashlib.sha256(signed.body).hexdigest()
    lines = (_VERSION, signed.method, signed.target, terminal, timestamp, nonce, signed.idempotency_key, body)
    return hmac.digest(secret, "\n".join(lines).encode("utf-8", "surrogateescape"), "sha256").hex()


def authorization(secret: bytes, signed: Signed, terminal: str, utc_s: int, nonce: str) -> str:
    """The value of the Authorization header of a request."""
    made = signature(secret, signed, terminal, str(utc_s), nonce)
    return f'{SCHEME} terminal="{terminal}", timestamp="{utc_s}", nonce="{nonce}", signature="{made}"'


class SignatureCheck:
    """Checks signatures, and remembers nonces for as long as their signatures could count.

    Signature first, then time, then nonce: nothing is said about, or kept of, a request that is not proved.
    """

    def __init__(
        self,
        secret_of: SecretOf,
        utc_ms: Callable[[], int],
        *,
        window_ms: int,
        nonces_max: int,
        nonces_per_terminal_max: int,
    ) -> None:
        self._secret_of = secret_of
        self._utc_ms = utc_ms
        self._window_ms = window_ms
        self._nonces = _Nonces(2 * window_ms, nonces_max, nonces_per_terminal_max)

    def check(self, header: str, signed: Signed, now_ms: int) -> str:
        """The terminal that a request is proved to come from.

        Args:
            header: the Authorization header.
            now_ms: monotonic.
        Raises:
            SignatureRefused: it is not proved.
        """
        given = _parameters(header)
        terminal, timestamp, nonce = given["terminal"], given["timestamp"], given["nonce"]
        secret = self._secret_of(terminal)
        right = signature(secret or _NOBODYS_SECRET, signed, terminal, timestamp, nonce)
        same = hmac.compare_digest(right.encode(), given["signature"].encode())
        if not same or secret is None:
            raise _refused("unknown terminal" if secret is None else "wrong signature")
        if abs(int(timestamp) * 1000 - self._utc_ms()) > self._window_ms:
            raise SignatureRefused(
                ProblemKind.SIGNATURE_EXPIRED,
                f"the timestamp must be within {self._window_ms // 1000} s of ours, which the Date header tells",
                "timestamp outside the window",
            )
        self._nonces.use(terminal, nonce, now_ms)
        return terminal

    @property
    def remembered(self) -> int:
        """Nonces in memory."""
        return len(self._nonces)


class _Nonces:
    """Nonces that have been used. Each is kept for the same time, so that the oldest is always the next to go."""

    def __init__(self, kept_ms: int, nonces_max: int, per_terminal_max: int) -> None:
        self._kept_ms = kept_ms
        self._nonces_max = nonces_max
        self._per_terminal_max = per_terminal_max
        self._until_ms: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def use(self, terminal: str, nonce: str, now_ms: int) -> None:
        while self._until_ms:
            (owner, used), until_ms = next(iter(self._until_ms.items()))
            if until_ms > now_ms:
                break
            del self._until_ms[owner, used]
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]
        if (terminal, nonce) in self._until_ms:
            raise SignatureRefused(ProblemKind.NONCE_REUSED, "sign each request with a new nonce", "nonce used before")
        if len(self._until_ms) >= self._nonces_max or self._counts[terminal] >= self._per_terminal_max:
            raise SignatureRefused(ProblemKind.RATE_LIMITED, "too many signed requests; wait", "nonce table full")
        self._until_ms[terminal, nonce] = now_ms + self._kept_ms
        self._counts[terminal] += 1

    def __len__(self) -> int:
        return len(self._until_ms)


def _refused(reason: str) -> SignatureRefused:
    # One detail for all of them: whether a terminal is known is nobody's business.
    return SignatureRefused(ProblemKind.UNAUTHENTICATED, "the signature is not right for this request", reason)


def _parameters(header: str) -> dict[str, str]:
    """The parameters of an Authorization header, each there once and of its form."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != SCHEME.lower():
        raise _refused("no signature")
    given: dict[str, str] = {}
    at = 0
    while at < len(rest):
        found = _PARAMETER.match(rest, at)
        if found is None or found[1] in given or len(given) == len(_NAMES):
            raise _refused("malformed Authorization header")
        given[found[1]] = found[2] if found[2] is not None else found[3]
        at = found.end()
    if given.keys() != _NAMES or not _NONCE.fullmatch(given["nonce"]) or not _TIMESTAMP.fullmatch(given["timestamp"]):
        raise _refused("malformed Authorization header")
    if not given["signature"].isascii():
        raise _refused("malformed Authorization header")
    return given
