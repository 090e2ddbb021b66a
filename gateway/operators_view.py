"""What operators see of a running gateway and may ask of it, put together from its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.acquirers.port import EndpointState, Link
from gateway.asking import Asking
from gateway.clock import Clock
from gateway.conductor import Conductor
from gateway.config import Address, Config
from gateway.core.events import Commanded, Lookup, OperatorAct
from gateway.core.lifecycle import EntryKind, named
from gateway.core.link import LinkState
from gateway.core.transaction import Stored, Transaction
from gateway.journal.port import Journal, JournalError, JournalFull, Listing
from gateway.notary.notary import Notary, NotDone
from gateway.operations.keys import Keys
from gateway.operations.maintenance import MaintenanceMark
from gateway.operations.release import version
from gateway.operations.view import (
    AcquirerStatus,
    CommandResult,
    EndpointStatus,
    Explanation,
    GatewayStatus,
    LogHead,
    Mode,
    TerminalsStatus,
)
from gateway.terminals.sessions import TerminalSessions

_MODES: Final = {LinkState.UP: Mode.ONLINE, LinkState.DEGRADED: Mode.ONLINE, LinkState.MAINTENANCE: Mode.MAINTENANCE}
_MAINTENANCE: Final = frozenset({OperatorAct.MAINTENANCE_ON, OperatorAct.MAINTENANCE_OFF})
_STANDING_IN: Final = Mode.STANDING_IN  # every answer over HTTP tells the mode


class Counting(Protocol):
    """A listener for terminals, by its numbers."""

    def counters(self) -> dict[str, int]:
        """Totals since the start, by stable name."""

    def gauges(self) -> dict[str, int]:
        """Present sizes, by stable name: `connections` and `in_flight` among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Of the gateway, what is looked at.

    Attributes:
        listeners: one for each section of the configuration, in its order.
        sessions: of the listeners whose terminals sign their messages, by the configured address.
        failed: whether the journal is in doubt.
        stopping: set once the gateway is told to stop.
        clock_steps: how often the wall clock was set since the start.
    """

    config: Config
    clock: Clock
    journal: Journal
    conductor: Conductor
    link: Link
    listeners: Sequence[Counting]
    sessions: dict[Address, TerminalSessions]
    notary: Notary
    keys: Keys
    asking: Asking
    maintenance: MaintenanceMark
    failed: Callable[[], bool]
    stopping: asyncio.Event
    clock_steps: Callable[[], int] = lambda: 0


class OperatorsView:
    """See operations.view.GatewayView, whose contract this keeps."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started_ms = parts.clock.mono_ms()
        self._bound: tuple[Address, ...] = ()
        self._maintaining = asyncio.Lock()

    def opened(self, addresses: tuple[Address, ...]) -> None:
        """The gateway is open for business: its time is counted from now on.

        Args:
            addresses: that the listeners have got, in the order of the configuration.
        """
        self._bound = addresses
        self._started_ms = self._parts.clock.mono_ms()

    def ready(self) -> tuple[bool, tuple[str, ...]]:
        """Storing while the acquirer is away is ready; a failing or full journal is not."""
        parts = self._parts
        reasons = []
        if parts.failed():
            reasons.append("the journal is in doubt; the gateway stops and recovers at the next start")
        elif refusal := parts.journal.refusal():
            reasons.append(f"the journal takes no new transactions: {refusal}")
        if parts.stopping.is_set():
            reasons.append("the gateway is stopping")
        return not reasons, (*reasons, *parts.notary.remarks())

    def mode(self) -> Mode:
        """What a new sale meets."""
        engine = self._parts.conductor.engine
        return _STANDING_IN if engine.on_trial else _MODES.get(engine.link, _STANDING_IN)

    async def status(self) -> GatewayStatus:
        """Everything that status and metrics tell."""
        parts = self._parts
        engine = parts.conductor.engine.status()
        now_mono_ms, now_utc_ms = parts.clock.mono_ms(), parts.clock.utc_ms()
        counters = {f"core.{name}": count for name, count in engine.counts.items()}
        counters |= {f"acquirer.{name}": count for name, count in parts.link.counters().items()}
        counters["clock.stepped"] = parts.clock_steps()
        for listener in parts.listeners:
            for name, count in listener.counters().items():
                counters[f"terminal.{name}"] = counters.get(f"terminal.{name}", 0) + count
        endpoints = parts.link.endpoints()
        return GatewayStatus(
            name=parts.config.gateway.name,
            version=version(),
            mode=self.mode(),
            taken_ms=now_utc_ms,
            uptime_ms=now_mono_ms - self._started_ms,
            acquirer=AcquirerStatus(
                name=parts.config.acquirer.name,
                link=engine.link,
                since_ms=now_utc_ms - (now_mono_ms - engine.link_since_ms),
                endpoints=tuple(
                    EndpointStatus(address=e.name, connected=e.state is EndpointState.CONNECTED, silent=e.silent)
                    for e in endpoints
                ),
                in_flight=sum(e.in_flight for e in endpoints),
                outages=engine.outages,
            ),
            terminals=self._terminals(),
            journal=await parts.journal.health(),
            lanes_owing=engine.lanes_owing,
            requests_waiting=engine.waiting,
            counters=counters,
            log=parts.notary.status(),
            keys=parts.keys.status(),
        )

    def _terminals(self) -> tuple[TerminalsStatus, ...]:
        parts = self._parts
        if not self._bound:  # operators are heard a moment before terminals
            return ()
        return tuple(
            TerminalsStatus(
                listen=str(bound),
                macs_refused=sessions.refusals() if (sessions := parts.sessions.get(section.listen)) else {},
                **_gauges(listener),
            )
            for listener, bound, section in zip(parts.listeners, self._bound, parts.config.terminals, strict=True)
        )

    async def queue(self, listing: Listing) -> list[Transaction]:
        """Rows for operators."""
        return await self._parts.journal.listing(listing)

    async def show(self, id: int) -> Stored | Lookup:  # noqa: A002 - the journal's word
        """One transaction with its messages."""
        return await self._parts.asking.load(self._parts.journal, id)

    async def explain(self, id: int) -> Explanation | Lookup:  # noqa: A002 - the journal's word
        """What blocks a transaction, by which rule, and when it is tried next."""
        found = await self.show(id)
        if isinstance(found, Lookup):
            return found
        transaction = found.transaction
        explained = self._parts.conductor.engine.explain(transaction)
        wait_ms = explained.next_try_in_ms
        text = f"Transaction {id} is {named(transaction.state)}. "
        text += f"It waits for: {explained.blocked_by}." if explained.blocked_by else "Nothing blocks it."
        return Explanation(
            id=id,
            state=transaction.state,
            blocked_by=explained.blocked_by,
            rule=explained.rule,
            next_try_ms=None if wait_ms is None else self._parts.clock.utc_ms() + wait_ms,
            text=text,
        )

    async def command(self, act: OperatorAct, id: int, who: str, why: str) -> CommandResult:  # noqa: A002
        """Have an operator's act decided and made durable."""
        if act in _MAINTENANCE:
            async with self._maintaining:
                return await self._maintain(act, who, why)
        token, outcome = self._parts.asking.command()
        self._parts.conductor.submit(Commanded(token, act, id, who, why))
        return await outcome

    async def _maintain(self, act: OperatorAct, who: str, why: str) -> CommandResult:
        """Close or open the link once an entry tells who does it and why; a full disk alone does not keep it so."""
        untold = ""
        try:
            await self._parts.journal.note(EntryKind.MAINTENANCE, f"{act.value} by {who}: {why}")
        except JournalFull:
            untold = "; the journal's disk is full, so no entry tells of it"
        except JournalError as error:
            return CommandResult(done=False, text=str(error))
        untold += self._outlives_a_restart(act, who, why)
        token, outcome = self._parts.asking.command()
        self._parts.conductor.submit(Commanded(token, act, 0, who, why))
        result = await outcome
        return CommandResult(done=result.done, text=result.text + untold)

    def _outlives_a_restart(self, act: OperatorAct, who: str, why: str) -> str:
        """Keep it over a restart; what cannot be kept, in words. The entry tells of the act already: it is done."""
        mark, closing = self._parts.maintenance, act is OperatorAct.MAINTENANCE_ON
        try:
            mark.remember(who, why) if closing else mark.forget()
        except OSError as error:
            if closing is (mark.remembered() is not None):
                return ""  # by an earlier mark, or all but the sync of its folder was done
            ends = "a restart opens it" if closing else "a restart closes it again"
            what = "written" if closing else "removed"
            return f"; until a restart only: {mark.path} cannot be {what} ({error.strerror}), and {ends}"
        return ""

    async def sign_head(self) -> LogHead | str:
        """Have the auditor's log signed as it stands."""
        try:
            signed = await self._parts.notary.checkpoint()
        except NotDone as error:
            return str(error)
        return LogHead(origin=signed.checkpoint.origin, size=signed.size, root=signed.root, note=signed.note.decode())

    async def continue_log(self, who: str, why: str) -> CommandResult:
        """Have the auditor's log signed again from here on, over a break."""
        try:
            signed = await self._parts.notary.continue_over(who, why)
        except (NotDone, JournalError) as error:
            return CommandResult(done=False, text=str(error))
        return CommandResult(done=True, text=f"the log goes on: a head of {signed.size} entries is signed")


def _gauges(listener: Counting) -> dict[str, int]:
    gauges = listener.gauges()
    return {"connections": gauges["connections"], "in_flight": gauges["in_flight"]}
