"""The second person's approval of a disclosure, and the entry that tells of it; gateway/audit makes what is shown.

    the request is approved          durable; nothing was shown
    an entry tells of it             durable, with both signatures; told again if it is approved again
    the record's key leaves          by the command that asked for the approval, which then ends the request

So a key never leaves without an entry; an entry without a disclosure can be, where the command was interrupted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

import msgspec
from aiohttp import web

from gateway.clock import SystemClock
from gateway.config.models import Config
from gateway.core.lifecycle import EntryKind
from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.port import JournalError
from gateway.operations.approvals import ApprovalRefused, Approvals, Approving, Request
from gateway.operations.keys_offline import configured_approvals, held_offline
from gateway.operations.problems import ProblemError

DISCLOSE: Final = "disclose"
"""The action of a request; its subject is made by `subject_of`."""

_SUBJECT: Final = re.compile(r"(account|sensitive) part of entry ([1-9][0-9]{0,18}), transaction ([1-9][0-9]{0,18})")


def subject_of(part: str, sequence: int, transaction: int) -> str:
    """What a request names as that which shall be shown."""
    return f"{part} part of entry {sequence}, transaction {transaction}"


def shown_by(request: Request) -> tuple[str, int, int]:
    """Part, sequence and transaction that a request is about.

    Raises:
        ApprovalRefused: it is about something else.
    """
    found = _SUBJECT.fullmatch(request.subject)
    if request.action != DISCLOSE or found is None:
        raise ApprovalRefused(
            f"request {request.id} is not about a disclosure, but: {request.action} {request.subject}"
        )
    return found[1], int(found[2]), int(found[3])


class Told(msgspec.Struct, frozen=True):
    """The entry that tells of a disclosure."""

    sequence: int


class JournalOfDisclosures(Protocol):
    """What this needs of a journal (port.Journal has it)."""

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal."""


class Disclosures:
    """Approves disclosures, and has the journal tell of them."""

    def __init__(self, journal: JournalOfDisclosures, approvals: Approvals, keyring: str) -> None:
        """`keyring` is the name of the gateway's keyring, which requests are made for."""
        self._keyring = keyring
        self._journal = journal
        self._approvals = approvals
        self._lock = asyncio.Lock()

    async def approve(self, number: str, who: str, signature: str) -> Told:
        """Have a second person approve a request; the entry that tells of it is durable when this returns.

        Raises:
            ApprovalRefused: unknown, too old, about something else or another gateway, not signed by another approver.
            JournalError: nothing may be shown; approve it again.
        """
        async with self._lock:
            request = await asyncio.to_thread(self._approvals.pending, number)
            part, sequence, transaction = shown_by(request)
            if request.gateway != self._keyring:
                raise ApprovalRefused(f"the request is for keyring {request.gateway}, this is {self._keyring}")
            approve = partial(self._approvals.approve, number, who, signature)
            approved = await asyncio.shield(asyncio.to_thread(approve))
            detail = {
                "what": "disclosed", "part": part, "entry": sequence, "transaction": transaction,
                "who": f"{approved.request.who}, {who}", "why": approved.request.why, "evidence": approved.evidence(),
            }  # fmt: skip
            return Told(await self._journal.note(EntryKind.DISCLOSED, msgspec.json.encode(detail).decode()))

    def routes(self, check_token: Callable[[web.Request], None]) -> list[web.RouteDef]:
        """The route of the operations listener; `check_token` raises ProblemError where a request may not."""

        async def approve(request: web.Request) -> web.Response:
            check_token(request)
            try:
                body = msgspec.json.decode(await request.read(), type=Approving)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "body", f"who and signature: {error}") from None
            return await _answered(self.approve(request.match_info["request"], body.who, body.signature))

        return [web.post(r"/v1/audit/disclosures/{request:[0-9a-f]{16}}/approve", approve)]


async def _answered(told: Awaitable[Told]) -> web.Response:
    try:
        return web.Response(body=msgspec.json.encode(await told), content_type="application/json")
    except (ApprovalRefused, JournalError) as error:
        raise ProblemError(HTTPStatus.CONFLICT, "not-done", str(error)) from None


@asynccontextmanager
async def disclosures_offline(config: Config) -> AsyncIterator[Disclosures]:
    """Hold the journal as a gateway does, while none runs. Who may approve is told in it before anything else.

    Raises:
        ApprovalRefused: that could not be told.
        JournalError: a gateway runs all the same, the keys do not fit, or the journal cannot be opened.
    """
    async with held_offline(config) as (keys, journal):
        try:
            await keys.settle(must=True)
        except (KeyChangeRefused, OSError) as error:
            raise ApprovalRefused(f"nothing is shown before the log tells who may approve it: {error}") from error
        yield Disclosures(journal, configured_approvals(config, SystemClock().utc_ms), keys.keyring.name)
