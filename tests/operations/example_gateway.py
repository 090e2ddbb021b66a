"""An in-memory gateway for the operations tests: it answers as the real one does, from plain lists."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from msgspec import structs

from gateway.core.events import Lookup, OperatorAct
from gateway.core.lifecycle import State
from gateway.core.link import LinkState
from gateway.core.transaction import Answer, Kind, Stored, StoredMessage, Transaction
from gateway.journal.port import JournalHealth, Listing
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

CARD = "4761739001010010"  # a published test card
NOW_MS = 1_800_000_000_000


def transaction(number: int, state: State = State.STORED, **changes: object) -> Transaction:
    """A stored sale of 12.50."""
    row = Transaction(
        key=f"M|T|{number:06d}",
        kind=Kind.SALE,
        state=state,
        lane="848290045820000/10016919",
        terminal="10016919",
        merchant="848290045820000",
        stan=f"{number:06d}",
        fingerprint=b"f" * 16,
        card=b"c" * 16,
        card_mask="476173******0010",
        amount_minor=1250,
        currency="156",
        accepted_ms=NOW_MS - 60_000,
        changed_ms=NOW_MS - 59_000,
        id=number,
        response="00",
    )
    return structs.replace(row, **changes)


def health(**changes: object) -> JournalHealth:
    """A journal in good health with two stored sales and one parked."""
    sound = JournalHealth(
        writable=True,
        reason="",
        entries=7,
        bytes_on_disk=4096,
        bytes_free=10**9,
        counts={State.STORED: 2, State.PARKED: 1, State.APPROVED: 4},
        oldest_owed_ms=NOW_MS - 60_000,
        quarantined=0,
        commits=5,
        writes=10,
        queued=0,
    )
    return replace(sound, **changes)  # type: ignore[arg-type]


@dataclass
class ExampleGateway:
    """A gateway that stands in, with what was asked of it in `acts`."""

    rows: list[Transaction] = field(default_factory=lambda: [transaction(1), transaction(2)])
    reasons: tuple[str, ...] = ()
    journal: JournalHealth = field(default_factory=health)
    acts: list[tuple[OperatorAct, int, str, str]] = field(default_factory=list)
    failing: Exception | None = None
    room: asyncio.Event | None = None

    def ready(self) -> tuple[bool, tuple[str, ...]]:
        return not self.reasons, self.reasons

    async def status(self) -> GatewayStatus:
        if self.failing is not None:
            raise self.failing
        return GatewayStatus(
            name="shop-7",
            version="1.2.3",
            mode=Mode.STANDING_IN,
            taken_ms=NOW_MS,
            uptime_ms=90_000,
            acquirer=AcquirerStatus(
                name="bank",
                link=LinkState.DOWN,
                since_ms=NOW_MS - 30_000,
                endpoints=(EndpointStatus(address="192.0.2.1:9583", connected=False, silent=True),),
                in_flight=0,
                outages=1,
            ),
            terminals=(TerminalsStatus(listen="127.0.0.1:8583", connections=3, in_flight=1),),
            journal=self.journal,
            lanes_owing=1,
            requests_waiting=0,
            counters={"standin.approved": 2},
        )

    async def queue(self, listing: Listing) -> list[Transaction]:
        chosen = [
            row
            for row in self.rows
            if row.state in listing.states
            and row.id > listing.after_id
            and listing.lane in ("", row.lane)
            and listing.terminal in ("", row.terminal)
        ]
        return chosen[: listing.limit]

    async def show(self, id: int) -> Stored | Lookup:  # noqa: A002
        if id == 666:
            return Lookup.DAMAGED
        row = next((row for row in self.rows if row.id == id), None)
        if row is None:
            return Lookup.ABSENT
        request = StoredMessage("0200", {2: CARD, 3: "000000", 4: "000000001250", 48: f"card={CARD}", 49: "156"})
        return Stored(row, request, {35: f"{CARD}D2512101"}, Answer("0210", {39: "00"}))

    async def explain(self, id: int) -> Explanation | Lookup:  # noqa: A002
        if id != 2:
            return Lookup.DAMAGED if id == 666 else Lookup.ABSENT
        return Explanation(
            id=2,
            state=State.STORED,
            blocked_by="transaction 1",
            rule="D14",
            next_try_ms=NOW_MS + 5000,
            text="Transaction 1 of the same lane goes first.",
        )

    async def command(self, act: OperatorAct, id: int, who: str, why: str) -> CommandResult:  # noqa: A002
        self.acts.append((act, id, who, why))
        if self.room is not None:
            await self.room.wait()
        if id == 2:
            return CommandResult(False, "transaction 2 is not parked")
        return CommandResult(True, f"{act.value}: done")

    async def sign_head(self) -> LogHead | str:
        return "nothing is signed here"

    async def continue_log(self, who: str, why: str) -> CommandResult:
        return CommandResult(False, "nothing is broken")
