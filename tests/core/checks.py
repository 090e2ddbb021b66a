"""What is checked of a world at every send and every reply, and once everything has healed (INV-1 to INV-6)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.acceptance import with_assigned_stan
from gateway.core.effects import Purpose, Send
from gateway.core.engine import Engine
from gateway.core.lifecycle import Obligation, State
from gateway.core.settling import closing_key
from gateway.core.transaction import Answer, Kind, Request, Transaction
from protocol.iso8583.rules import HostRules
from tests.core.acquirer import Acquirer, HostKey, Mood, host_key
from tests.core.journal import Broken, MemoryJournal

TRANSIENT_CODES = frozenset({"09", "94", "96"})
"""Told without an outcome: in progress, refused as reused, our own fault."""


def key_of(request: Request) -> str:
    """The key that its transaction is found by: which of the STANs it has been assigned, only its row says."""
    return request.alias if request.assigned else request.key


@dataclass(slots=True)
class Flight:
    """A message upstream that the gateway still waits for, or whose answer may come late."""

    send: Send
    lane: str
    deadline_ms: int
    mood: Mood
    over: bool = False


@dataclass(slots=True)
class Told:
    """What one terminal token asked and was told; `asked_at` is how much of the journal was reported then."""

    request: Request
    answer: Answer | None = None
    lost: bool = False
    asked_at: int = 0


def stands_beside(row: Transaction) -> bool:
    """A key that a reversal of unknown class bars: it owes nothing and is never sent."""
    return row.kind is Kind.UNSEEN and row.state is State.CANCELLED


class Checks:
    """The checks; what they look at is the world's."""

    journal: MemoryJournal
    acquirer: Acquirer
    engine: Engine
    host: HostRules
    flights: dict[int, Flight]
    told: dict[int, Told]
    outcomes: dict[str, str]
    exempt: set[int]
    overdue: set[HostKey]

    def row_of(self, send: Send) -> Transaction:
        """The row that a message upstream belongs to: of the batch that it names, or the newest of its STAN.

        Where a key comes again beyond its horizon, that of its amount comes first.
        """
        lane, stan = host_key(send.purpose, send.message)
        rows = [self.journal.rows[found].transaction for found in self.journal.by_stan.get((lane, stan), ())]
        rows = [row for row in reversed(rows) if not stands_beside(row)]
        batch = send.message.fields.get(60, "")[2:8]
        row = next((row for row in rows if len(batch) == 6 and row.key.startswith(f"B{batch}|")), None)
        if len(rows) > 1:
            row = row or next((row for row in rows if f"{row.amount_minor:012}" == send.message.fields.get(4)), None)
        row = row or next(iter(rows), None)
        if row is None:
            raise Broken("D5", f"{send.purpose.name} {stan} of {lane} is sent, and nothing is recorded")
        return row

    def _settling_row(self, lane: str, batch: str) -> Transaction:
        """The closed batch that a lane owes, and that a message is about; damaged, perhaps, since it was read."""
        owed = (self.journal.rows[number].transaction for number in self.journal.owed.get(lane, ()))
        return next(row for row in owed if row.kind is Kind.SETTLEMENT and row.key.startswith(f"B{batch}|"))

    def _check_send(self, send: Send, lane: str) -> None:
        for flight in self.flights.values():
            if flight.lane == lane and not flight.over and flight.send.purpose is not Purpose.INQUIRY:
                raise Broken("INV-4", f"two messages of lane {lane} in flight")
        if send.purpose is Purpose.SETTLEMENT:
            row = self._settling_row(lane, send.message.fields[60][2:8])
        else:
            row = self.row_of(send)
        place = row.position or row.id
        for owed in self.journal.owed_rows(lane):
            other = owed.transaction
            if (other.position or other.id) < place and other.id not in self.journal.operated:
                raise Broken("INV-4", f"{row.id} is sent before {other.id} (D14)")
        amount = send.message.fields.get(4)
        if send.purpose is Purpose.REQUEST:
            if row.state not in {State.ASKING, State.ASKING_CANCELLED}:
                raise Broken("D5", f"a request is sent that is {row.state.name}")
        else:
            owes = Obligation.REVERSAL if send.purpose is Purpose.REVERSAL else Obligation.ADVICE
            if row.obligation is not owes:
                raise Broken("D5", f"{send.purpose.name} is sent of {row.id}, which is {row.state.name}")
            if row.attempts < 1:
                raise Broken("D9", f"{row.id} is sent before that is recorded")
        if send.purpose in {Purpose.REQUEST, Purpose.ADVICE} and amount != f"{row.amount_minor:012}":
            raise Broken("INV-5", f"{row.id} has another amount upstream")

    def _check_reply(self, told: Told) -> None:
        request, answer = told.request, told.answer
        assert answer is not None
        code = answer.fields[39]
        if request.kind in {Kind.NETWORK, Kind.INQUIRY} or code in TRANSIENT_CODES:
            return
        journal = self.journal
        key = key_of(request)
        if request.batch and key not in journal.by_key:  # its batch is closed: nothing is kept
            if request.kind is Kind.SETTLEMENT and code == "95":  # one of too many, no longer recorded
                return
            if code != "77" and not (code == "00" and request.kind is Kind.SETTLEMENT):
                raise Broken("INV-1", f"{request.key} is told {code}, and nothing is kept")
            if closing_key(request.batch) not in journal.by_key:
                raise Broken("INV-1", f"{request.batch} is told closed, and is not")
            return
        key = self._key_kept(request, key)
        if key not in journal.by_key:
            raise Broken("INV-1", f"{key} is told {code}, and nothing is kept")
        stored = journal.stored(key)
        if request.alias in journal.by_key and journal.stored(request.alias).transaction.key == key:
            stored = journal.stored(request.alias)  # of those whose key came again, the one that it asked for
        row = stored.transaction
        undone = row.state in {State.CANCELLED, State.STORED_CANCELLED, State.REVERSING, State.REVERSED}
        if code == "77" and row.kind is Kind.UNSEEN:
            return
        if code == "12" and (undone or row.kind is Kind.UNSEEN or row.resume is not None):
            return
        if stored.answer is None:
            raise Broken("INV-1", f"{row.id} is told {code} while it is {row.state.name}")
        if with_assigned_stan(stored.answer, row) != answer:
            raise Broken("INV-1", f"{row.id} is told {code}, and what is kept is {stored.answer.fields[39]}")
        if row.state in {State.STORED, State.APPROVED, State.DECLINED} and (
            (code in self.host.approved_codes) is (row.state is State.DECLINED)
        ):
            raise Broken("INV-3", f"{row.id} is told {code}, and is {row.state.name}")
        before = self.outcomes.setdefault(f"{row.id}", code)
        if before != code:
            raise Broken("INV-6", f"{row.id} is told {before}, then {code}")

    def _key_kept(self, request: Request, key: str) -> str:
        by_key = self.journal.by_key
        if request.batch_unknown:  # the key is that of the batch that its terminal was in
            end = f"|{request.lane}|4|{request.stan}"
            return next((known for known in reversed(by_key) if known.endswith(end)), key)
        if request.kind is Kind.REVERSAL or key in by_key:
            return key
        return next((before for before in request.keys_beside if before in by_key), key)  # a repeat behind midnight

    def check_settled(self) -> None:
        """Everything has healed: nothing owed, nothing in doubt, one effect at most, and what was told is true."""
        for row in (stored.transaction for stored in self.journal.rows.values()):
            if row.id in self.journal.damaged:
                continue
            if row.obligation not in {Obligation.NONE, Obligation.PERSON}:
                raise Broken("INV-3", f"{row.id} is still {row.state.name} ({row.reason})")
            beside = stands_beside(row) or row.kind in {Kind.REVERSAL, Kind.SETTLEMENT, Kind.UPLOAD}
            if row.state is not State.PARKED and not beside and row.id not in self.exempt:
                self._check_effect(row)
        if overtaken := self.acquirer.overtaken - self.overdue:
            raise Broken("D13", f"reversals overtook their originals: {sorted(overtaken)}")
        if not all(told.lost or told.answer is not None for told in self.told.values()):
            raise Broken("liveness", "a terminal is unanswered")
        status = self.engine.status()
        if not self.engine.quiet or status.lanes_in_memory or status.waiting:
            raise Broken("liveness", f"{status.lanes_in_memory} lanes in memory, {status.waiting} waiting")
        self.journal.check_counters()

    def _check_effect(self, row: Transaction) -> None:
        key: HostKey = (row.lane, row.sent_stan)
        net = self.acquirer.net(key)
        if net != int(row.state is State.APPROVED):
            raise Broken("INV-2", f"{row.id} is {row.state.name} ({row.reason}), and booked {net} times")
        if net and self.acquirer.booked[key] != row.amount_minor:
            raise Broken("INV-5", f"{row.id} is booked with another amount")
