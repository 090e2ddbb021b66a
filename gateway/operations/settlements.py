"""Two people settle a damaged record: one asks, the second approves, and one entry tells of it and does it.

the request is asked for         durable; nothing has changed
it is approved                   durable; approved again, where the power went before the entry
the entry, and its effect        one commit (gateway/journal/settled_damage.py)
the request ends                 approved once more before that, it is refused, for the record is settled
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from gateway.core.lifecycle import EntryKind
from gateway.journal.port import JournalError, PutAside
from gateway.journal.settled_damage import SettlementDetail
from gateway.operations.approvals import ApprovalRefused, Approvals, Approving, Asking, Request
from gateway.operations.problems import ProblemError
from gateway.operations.report import iso_utc
from gateway.operations.view import CommandResult

SETTLE_DAMAGED: Final = "settle-damaged"
"""The action of a request that a damaged record be settled; its subject is "damaged record N"."""

LISTED_MAX: Final = 1000
_SUBJECT: Final = re.compile(r"damaged record (0|[1-9][0-9]{0,17})")
_OF_NONE: Final = (
    "damage with id 0 is of no transaction (a counter, a page): there is no sale to book by hand, it keeps no key, and "
    "what is found later would hide behind it; `holdfast audit verify` tells more"
)
_T = TypeVar("_T")


class DamagedRecord(msgspec.Struct, frozen=True):
    """What is in quarantine of one record, for operators; `settled` and `settled_in` are null while it is open."""

    id: int
    damage: list[str]
    since: str
    settled: str | None
    settled_in: int | None


class DamagedPage(msgspec.Struct, frozen=True):
    """A page of the quarantine, by id; `next_after` is null where there is no more."""

    records: list[DamagedRecord]
    next_after: int | None


class JournalOfDamage(Protocol):
    """What this needs of a journal (port.Journal has it)."""

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal."""

    async def put_aside(self, after_id: int, limit: int) -> list[PutAside]:
        """See port.Journal."""


def subject_of(number: int) -> str:
    """What a request names as that which shall be settled."""
    return f"damaged record {number}"


def damaged_page(found: list[PutAside], limit: int) -> DamagedPage:
    """Records as a page of at most `limit`."""
    records = [
        DamagedRecord(
            one.id, one.damage, iso_utc(one.since_ms),
            iso_utc(one.settled_ms) if one.settled_in else None, one.settled_in or None,
        )
        for one in found
    ]  # fmt: skip
    return DamagedPage(records, found[-1].id if len(found) >= limit else None)


class Settlements:
    """Takes requests to settle a damaged record, and has them done. One at a time."""

    def __init__(self, journal: JournalOfDamage, approvals: Approvals, keyring: str) -> None:
        """`keyring` is the name of the gateway's keyring, which requests are made for."""
        self._journal = journal
        self._approvals = approvals
        self._keyring = keyring
        self._lock = asyncio.Lock()

    async def ask(self, request: Request, signature: str) -> CommandResult:
        """Keep a request.

        Raises:
            ApprovalRefused, JournalError: nothing was kept.
        """
        async with self._lock:
            await self._open_record(self._number(request))
            await _on_disk(partial(self._approvals.ask, request, signature))
        return CommandResult(
            True,
            f"request {request.id}: another person approves it within 24 hours with "
            f"`holdfast keys approve {request.id} --who NAME --key FILE`",
        )

    async def approve(self, number: str, who: str, signature: str) -> CommandResult:
        """Have a second person approve a request, and settle the record.

        Raises:
            ApprovalRefused: unknown, too old, about something else, not signed by another approver, or the record is
                not one that can be settled (any more). JournalError: it is not settled; approve it again.
        """
        async with self._lock:
            request = await _on_disk(partial(self._approvals.pending, number))
            record = self._number(request)
            put_aside = await self._open_record(record, number)
            approved = await _on_disk(partial(self._approvals.approve, number, who, signature))
            detail = SettlementDetail(
                transaction=record, damage=put_aside.damage, who=f"{request.who}, {who}", why=request.why,
                evidence=approved.evidence(),
            )  # fmt: skip
            sequence = await self._journal.note(EntryKind.DAMAGE_SETTLED, msgspec.json.encode(detail).decode())
            after = await self._find(record)
            with suppress(ApprovalRefused):  # the entry is durable; a request that stays on the list settles nothing
                await _on_disk(partial(self._approvals.finish, number))
        if after is None or after.settled_in != sequence:
            raise ApprovalRefused(f"record {record} has healed meanwhile: nothing but entry {sequence} came of it")
        return CommandResult(True, f"damaged record {record} is settled, as entry {sequence} tells")

    def _number(self, request: Request) -> int:
        found = _SUBJECT.fullmatch(request.subject)
        if request.action != SETTLE_DAMAGED or found is None:
            raise ApprovalRefused(f"request {request.id} is not to settle damage: {request.action} {request.subject}")
        if request.gateway != self._keyring:
            raise ApprovalRefused(f"the request is for keyring {request.gateway}, this is {self._keyring}")
        return int(found[1])

    async def _find(self, record: int) -> PutAside | None:
        found = await self._journal.put_aside(record - 1, 1)
        return found[0] if found and found[0].id == record else None

    async def _open_record(self, record: int, request: str = "") -> PutAside:
        """The record, where it can be settled; a request for one that is settled already ends."""
        if not record:
            raise ApprovalRefused(_OF_NONE)
        found = await self._find(record)
        if found is None:
            raise ApprovalRefused(f"record {record} is not in quarantine; `holdfast queue damaged` lists what is")
        if found.settled_in:
            if request:
                await _on_disk(partial(self._approvals.finish, request))
            raise ApprovalRefused(f"record {record} is settled already, in entry {found.settled_in}")
        if found.lists_only:
            raise ApprovalRefused(
                f"only a list of record {record} was wrong ({', '.join(found.damage)}); the record itself is whole and "
                f"goes on as it did: there is nothing to book by hand; `holdfast queue show {record}`"
            )
        if found.whole:
            raise ApprovalRefused(
                f"record {record} has healed: it reads whole, and what it owes is in the queue; "
                f"`holdfast queue show {record}`"
            )
        return found

    def routes(
        self, may_read: Callable[[web.Request], None], check_token: Callable[[web.Request], None]
    ) -> list[web.RouteDef]:
        """The routes of the operations listener; both raise ProblemError where a request may not."""

        async def listed(request: web.Request) -> web.Response:
            may_read(request)
            after = request.query.get("after", "-1")
            if not (after == "-1" or (after.isascii() and after.isdigit() and len(after) <= 18)):
                raise ProblemError(HTTPStatus.BAD_REQUEST, "query", "after is an id")
            found = await _answered(self._journal.put_aside(int(after), LISTED_MAX))
            return _json(damaged_page(found, LISTED_MAX))

        async def ask(request: web.Request) -> web.Response:
            check_token(request)
            asked = await _body(request, Asking)
            return _json(await _answered(self.ask(asked.request, asked.signature)))

        async def approve(request: web.Request) -> web.Response:
            check_token(request)
            asked = await _body(request, Approving)
            return _json(await _answered(self.approve(request.match_info["request"], asked.who, asked.signature)))

        return [
            web.get("/v1/damaged", listed),
            web.post("/v1/damaged/requests", ask),
            web.post(r"/v1/damaged/requests/{request:[0-9a-f]{16}}/approve", approve),
        ]


async def _on_disk(work: Callable[[], _T]) -> _T:
    return await asyncio.shield(asyncio.to_thread(work))


async def _body(request: web.Request, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "body", f"the JSON body is wrong: {error}") from None


async def _answered(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except (ApprovalRefused, JournalError) as error:
        raise ProblemError(HTTPStatus.CONFLICT, "not-done", str(error)) from None


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
