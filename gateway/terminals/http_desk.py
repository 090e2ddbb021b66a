"""What the operations over HTTP have in common: who asks, what it says, may it be asked now, and what it is told.

Each step is a plain function, for a sale goes through them without a coroutine of its own. Order: body in time and size
- who is it - what does it say - for whom - may it send now - then the core. What is cheap to refuse is refused first,
and nothing is kept of what is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from gateway.core.events import Lookup
from gateway.core.fingerprint import KeyedHash
from gateway.core.parts import BadRequest
from gateway.core.transaction import Answer, Kind, Request, Stored, Transaction
from gateway.terminals.http_admission import Place, Rates
from gateway.terminals.http_answers import Made
from gateway.terminals.http_identity import Identities, NotProved
from gateway.terminals.http_mapping import request_of, view
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from gateway.terminals.http_signatures import SignatureRefused, Signed
from gateway.terminals.receipts import RECEIPT_RELATION, ReceiptOf
from gateway.tls import TerminalNames
from protocol.http_api import (
    IDEMPOTENCY_KEY,
    MEDIA_TYPE,
    BadBody,
    Mode,
    NewTransaction,
    ProblemKind,
    TransactionType,
    decode,
    idempotency_key,
)
from protocol.iso8583.rules import TerminalRules
from protocol.response_codes import IN_PROGRESS, KEY_REUSED, OUR_FAULT

_T = TypeVar("_T")

Find = Callable[[tuple[str, ...]], Awaitable[list[Stored | Lookup]]]
"""Looks transactions up by key: one result per key, the newest where a key comes again."""

Load = Callable[[int, str], Awaitable[Stored | Lookup]]
"""Reads the transaction of a number, if it has this key."""

Search = Callable[[str, str, int, int], Awaitable[list[Transaction]]]
"""Transactions of a terminal, oldest first: terminal, STAN or "", after this id, at most so many."""

SALES: Final = "/v1/transactions"

# Names of what every sale is compared with: a member of an enumeration costs ten times as much to come by.
_ADVICE: Final = TransactionType.ADVICE
_UNSEEN: Final = Kind.UNSEEN


class Refused(Exception):
    """An answer that is a problem.

    Attributes:
        kind: which.
        detail: what would be right; never a value that the peer sent.
        reason: what is reported beside; from a small fixed set.
        retry_after_ms: when the same request may do better.
    """

    def __init__(self, kind: ProblemKind, detail: str, reason: str = "", *, retry_after_ms: int = 1_000) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reason = reason
        self.retry_after_ms = retry_after_ms


def refused(error: Exception) -> Refused:
    """What an error of an operation is told as; of one that is nobody's but ours, nothing but its type is reported."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, SignatureRefused):
        return Refused(error.kind, error.detail, error.reason)
    if isinstance(error, NotProved):
        return Refused(error.kind, error.detail, "no proof")
    if isinstance(error, BadBody):
        return Refused(error.kind, error.detail)
    return Refused(ProblemKind.INTERNAL, "the gateway's log says more", type(error).__name__)


class Asks(msgspec.Struct, frozen=True, gc=False):
    """What a request that is to be recorded asks for.

    Attributes:
        key: its Idempotency-Key.
        address: of the peer.
        refused_first: whether it is new business; else it tells of something done, or undoes it (D15, D18).
        now_ms: monotonic.
    """

    key: str
    address: str
    refused_first: bool
    now_ms: int


class Told(msgspec.Struct, frozen=True, gc=False):
    """What the core says of a request: the answer, and the row that it is about; None where it does not say."""

    answer: Answer
    recorded: Transaction | None


class Desk(Protocol):
    """The listener, as its operations see it."""

    admitting: bool
    """Whether new requests are taken."""

    def now_ms(self) -> int:
        """Monotonic time."""

    def count(self, count: HttpCount) -> None:
        """Count something."""

    def refusal(self, refused: Refused, peer: str) -> Made:
        """Count and report a refusal; returns the answer."""

    def place(self, terminal: str, asks: Asks | None = None) -> Place:
        """Take one of the places for what is under way; `asks` is None for what only looks.

        Raises: Refused where there is none.
        """

    async def ask(self, request: Request) -> Told:
        """Hand a request to the core and wait for its outcome. Raises: Refused when that takes too long."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Core:
    """What the operations ask of the rest of the gateway."""

    rules: TerminalRules
    always_fit: frozenset[int]
    hashing: KeyedHash
    find: Find
    load: Load
    search: Search
    mode: Callable[[], Mode]
    utc_ms: Callable[[], int]
    receipt_of: ReceiptOf | None = None


class Steps:
    """The steps of the operations."""

    def __init__(self, desk: Desk, settings: HttpListenerSettings, identities: Identities, core: Core) -> None:
        self._desk = desk
        self._settings = settings
        self._identities = identities
        self._core = core
        self._rates = Rates(settings.rate_per_s, settings.burst, settings.terminals_max)

    def proved(
        self,
        certified: TerminalNames | None,
        method: str,
        target: str,
        authorization: str,
        keys: Sequence[str],
        body: bytes,
    ) -> TerminalNames:
        """The terminals that a request may speak for.

        Args:
            certified: what its connection's certificate says.
            keys: its Idempotency-Key headers as they stand there.
        Raises: SignatureRefused, NotProved.
        """
        if not authorization:
            return self._identities.check_unsigned(certified)
        signed = Signed(method=method, target=target, idempotency_key=", ".join(keys), body=body)
        return self._identities.check(certified, authorization, signed, self._desk.now_ms())

    def decoded(self, body: bytes, wanted: type[_T], media_type: str, encoding: str) -> _T:
        """A body of one of the types of protocol.http_api.

        Args:
            media_type, encoding: Content-Type without parameters, and Content-Encoding.
        Raises: Refused, BadBody.
        """
        if encoding.lower() != "identity":
            raise Refused(ProblemKind.MEDIA_TYPE, "send the body without Content-Encoding")
        if media_type != MEDIA_TYPE:
            raise Refused(ProblemKind.MEDIA_TYPE, f"send Content-Type: {MEDIA_TYPE}")
        return decode(body, wanted, self._settings.json_depth_max)

    def admit(self, names: TerminalNames, terminal: str, now_ms: int) -> None:
        """Check that a request may speak for a terminal, and that the terminal does not send too fast.

        `now_ms` is monotonic. Raises: Refused.
        """
        if terminal not in names:
            detail = "speak only for the terminals that the certificate or the signature names"
            raise Refused(ProblemKind.TERMINAL_NOT_ALLOWED, detail, f"{names} speaks for another terminal")
        if wait_ms := self._rates.spend(terminal, now_ms):
            raise Refused(ProblemKind.RATE_LIMITED, "Retry-After tells how long to wait", retry_after_ms=wait_ms)

    def begin(
        self, names: TerminalNames, key: str, body: NewTransaction, address: str, now_ms: int
    ) -> tuple[Request, Place]:
        """Admit a sale and give it a place, which the caller gives back; returns what to hand to the core, and it.

        Args:
            key: its Idempotency-Key.
            address: of the peer.
            now_ms: monotonic.
        Raises: Refused.
        """
        self.admit(names, body.terminal, now_ms)
        new = body.type is not _ADVICE
        place = self._desk.place(body.terminal, Asks(key, address, new, now_ms))
        core = self._core
        try:
            utc_ms, fit = core.utc_ms(), core.always_fit
            return request_of(body, key, core.rules, core.hashing, utc_ms, always_fit=fit), place
        except BadRequest as error:
            place.leave()
            raise Refused(ProblemKind.INVALID_REQUEST, error.reason) from None
        except BaseException:
            place.leave()
            raise

    async def outcome(self, request: Request, told: Told) -> Made:
        """The answer of an operation that the core has decided. Where the core named no row, it is looked for.

        Raises: Refused.
        """
        if told.recorded is not None:
            return self.outcome_of(request, told.answer, told.recorded)
        # Which STAN it was assigned, the core knows: another's transaction may have the first of them.
        key = request.alias if request.assigned else request.key
        (found,) = await self.in_time(self._core.find((key,)), ProblemKind.IN_PROGRESS)
        if found is Lookup.DAMAGED:
            raise damaged()
        return self.outcome_of(request, told.answer, None if isinstance(found, Lookup) else found.transaction)

    def outcome_of(self, request: Request, answer: Answer, recorded: Transaction | None) -> Made:
        """Tell what the core has recorded, or why it has recorded nothing.

        The answer alone does not do: it does not say whether an approval was ours, and when it was given.

        Raises: Refused.
        """
        code = answer.fields.get(39, "")
        approved_codes = self._settings.approved_codes
        if recorded is not None and recorded.kind is not _UNSEEN and recorded.fingerprint != request.fingerprint:
            recorded = None  # a STAN used again
        if recorded is None or code != recorded.response:
            if code == KEY_REUSED:
                raise Refused(ProblemKind.KEY_REUSED, "use a new Idempotency-Key and STAN for each new transaction")
            if code == IN_PROGRESS or (code == OUR_FAULT and recorded is not None):
                raise Refused(ProblemKind.IN_PROGRESS, "send the same request again, with the same Idempotency-Key")
            if recorded is None:
                if code in approved_codes:  # cannot be; "nothing was sent" would be a lie
                    raise Refused(ProblemKind.INTERNAL, "look for the transaction by terminal and stan", "no record")
                detail = "nothing was recorded or sent; the same request may be sent again"
                raise Refused(ProblemKind.NOT_RECORDED, detail, f"code {code}")
        told = view(recorded, answer, approved_codes, code)
        if not self._settings.receipts:
            return made(told)
        return made(told, (("Link", f'<{SALES}/{told.id}/receipt>; rel="{RECEIPT_RELATION}"'),))

    async def in_time(self, asked: Awaitable[_T], late: ProblemKind = ProblemKind.OVERLOADED) -> _T:
        """Wait for the journal; `late` is IN_PROGRESS where something may have been recorded. Raises: Refused."""
        try:
            async with asyncio.timeout(self._settings.reply_wait_ms / 1000):
                return await asked
        except TimeoutError:
            detail = "the journal does not answer; send the same request again"
            raise Refused(late, detail, "look-up timed out") from None


def key_from(keys: Sequence[str]) -> str:
    """The Idempotency-Key of a request by its headers of that name. Raises: Refused."""
    if not keys:
        raise Refused(ProblemKind.KEY_MISSING, f"send an {IDEMPOTENCY_KEY}, and the same one with each retry")
    if len(keys) > 1:
        raise Refused(ProblemKind.KEY_INVALID, f"send one {IDEMPOTENCY_KEY}")
    try:
        return idempotency_key(keys[0])
    except ValueError as error:
        raise Refused(ProblemKind.KEY_INVALID, str(error)) from None


def damaged() -> Refused:
    """What is told of a record that is damaged."""
    return Refused(ProblemKind.RECORD_DAMAGED, "call the operator: whether it was paid must be looked up", "damaged")


_encode = msgspec.json.Encoder().encode


def made(value: msgspec.Struct, headers: tuple[tuple[str, str], ...] = ()) -> Made:
    """An answer that is not a problem. `headers` as of Made."""
    return Made(_encode(value), headers=headers)
