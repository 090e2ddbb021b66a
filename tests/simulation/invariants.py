"""What is checked beyond the world's own checks: repeats, closed batches, what was told against what became of it.

A check that fails raises `Broken` with the promise that does not hold.
"""

from __future__ import annotations

from typing import Final

from gateway.core.acceptance import with_assigned_stan
from gateway.core.effects import Change, Purpose, Send, Update
from gateway.core.events import Event, NotSent
from gateway.core.lifecycle import EntryKind, State
from gateway.core.reversals import undoes
from gateway.core.settling import closing_key
from gateway.core.transaction import Kind, Request, Transaction
from protocol.iso8583.message import Message
from protocol.iso8583.mti import first_mti, is_repeat
from protocol.response_codes import may_decline
from tests.core.acquirer import HostKey, host_key
from tests.core.checks import Flight, Told, key_of
from tests.core.journal import Broken, MemoryJournal
from tests.core.world import World

_BEGINS_IN_BATCH: Final = frozenset({Kind.SALE, Kind.AUTHORISATION, Kind.UPLOAD})
_MONEY: Final = frozenset({Kind.SALE, Kind.AUTHORISATION, Kind.ADVICE})
_UNDONE: Final = frozenset({State.CANCELLED, State.STORED_CANCELLED, State.REVERSING, State.REVERSED})
_UNDER_WAY: Final = frozenset({State.ASKING, State.ASKING_CANCELLED})

KNOWN: Final[dict[str, str]] = {}
"""Defects of the core that are known and not mended: seeds pass over them; scripts/NAME.txt shows each."""


class WatchedJournal(MemoryJournal):
    """A journal that notes who undid what, and that a closed batch takes nothing new."""

    def __init__(self) -> None:
        super().__init__()
        self.undone_at: dict[int, int] = {}
        """When, by sequence, a transaction was undone."""
        self.taken_back: set[int] = set()
        """Transactions that a terminal or an operator has acted on."""
        self.by_hand: set[int] = set()
        """Parked ones of which an operator said, perhaps wrongly, that they were never booked, or nothing is left."""
        self.reversed_at: dict[int, int] = {}
        """When, by sequence, a terminal's reversal of something settled was taken: its place in the lane (D14)."""
        self.heard_late: set[HostKey] = set()
        """Originals whose late answer is recorded."""
        self.heard_booked: set[HostKey] = set()
        """Originals that the acquirer said that it booked, by a record of that."""
        self.heard_denied: set[HostKey] = set()
        """Originals that a person has to reverse, by a record of that."""
        self.begun_anew: dict[int, str] = {}
        """Reversals that had been sent and are sent once more: which known defect they met."""

    def crash(self) -> None:
        """The process that wrote has died; what was committed stays."""

    def _check_batch(self, row: Transaction) -> None:
        """A batch is closed once, and takes nothing new afterwards (UnionPay session)."""
        batch = row.key.rsplit("|", 2)[0]
        closes = row.kind is Kind.SETTLEMENT and row.state is not State.DECLINED
        if closing_key(batch) not in self.by_key:
            return
        if closes:
            raise Broken("closed batch", f"{batch} is closed twice")
        if row.kind in _BEGINS_IN_BATCH:
            raise Broken("closed batch", f"{row.key} begins in a batch that is closed")

    def _apply(self, change: Change, first_id: int, utc_ms: int) -> int:
        row = change.transaction
        before: Transaction | None = None
        if isinstance(change, Update):
            before = self.rows[row.id].transaction
        elif row.key.startswith("B"):
            self._check_batch(row)
        number = super()._apply(change, first_id, utc_ms)
        if before is not None and isinstance(change, Update):
            self._watch_change(change, before)
            self._watch_said(change, before)
        return number

    def _watch_change(self, change: Update, before: Transaction) -> None:
        """Who undid what."""
        row, number = change.transaction, change.transaction.id
        if row.state in _UNDONE and before.state not in _UNDONE:
            self.undone_at[number] = len(self.log)
        if change.kind is EntryKind.OPERATOR or row.reason.startswith("terminal.reversal"):
            self.taken_back.add(number)
        if change.kind is EntryKind.OPERATOR and before.state is State.PARKED:
            refused = before.resume is State.REVERSING and before.reason.startswith("answer.code-")
            if row.state is State.CANCELLED or refused:
                self.by_hand.add(number)
        repeats = before.resume is State.REVERSING  # a reversal that was sent before it was parked keeps its place
        if change.kind is EntryKind.TAKEN and row.state is State.REVERSING and not repeats:
            self.reversed_at[number] = len(self.log)
        if before.state is State.PARKED and before.resume is State.REVERSING and row.state is State.REVERSING:
            if change.kind is EntryKind.TAKEN:
                self.begun_anew[number] = "parked-reversal-taken"
                self.operated.add(number)  # out of a person's hands: what is being sent by then goes on first
            elif row.reason == "operator.void":
                self.begun_anew.setdefault(number, "parked-reversal-voided")

    def _watch_said(self, change: Update, before: Transaction) -> None:
        """What the acquirer has said, by a record of that."""
        row, kind = change.transaction, change.kind
        key = row.lane, row.sent_stan
        if kind is EntryKind.PARKED and before.state is State.REVERSING:
            self.heard_denied.add(key)
        if kind is EntryKind.ANSWERED and row.state is State.APPROVED:
            self.heard_booked.add(key)
        if kind is EntryKind.LATE_ANSWER:
            self.heard_late.add(key)
            if change.detail == "answered 00 after its time":
                self.heard_booked.add(key)
            if before.state is State.REVERSED and row.state is State.REVERSING:
                self.begun_anew.setdefault(row.id, "late-approval-again")


class Watched(World):
    """A world with more checks."""

    journal: WatchedJournal
    excused: frozenset[str]

    def _watch(self) -> None:
        """To be called before anything happens."""
        self.first_sent: dict[tuple[HostKey, Purpose], Message] = {}
        self.may_have_left: dict[HostKey, set[int]] = {}
        self.wire: dict[HostKey, int] = {}
        """How many messages of each original have left and not arrived."""
        self.overdue: set[HostKey] = set()
        """Originals of which a request was under way for longer than anything should be."""
        self.strays: set[HostKey] = set()
        """Those of which nobody can know any more, because the process died that would have heard of them."""

    # Upstream

    def _check_send(self, send: Send, lane: str) -> None:
        super()._check_send(send, lane)
        if send.purpose is Purpose.SETTLEMENT:
            return
        message, key = send.message, host_key(send.purpose, send.message)
        row = self.row_of(send)
        self._check_kept(row, message)
        first = self.first_sent.setdefault((key, send.purpose), message)
        if first is not message and self.journal.begun_anew.get(row.id) not in self.excused:
            if row.kind is Kind.UNSEEN and self._damaged_under(key):
                self.first_sent[key, send.purpose] = message  # what was sent first cannot be read any more
            else:
                self._check_repeat(send, row, first)
        if send.purpose is Purpose.REQUEST:
            self.may_have_left.setdefault(key, set()).add(send.token)
        elif send.purpose is Purpose.ADVICE and self.may_have_left.get(key):
            raise Broken("D6", f"{row.id} goes as an advice, and may have gone as a request")
        elif send.purpose is Purpose.REVERSAL and row.state is State.REVERSING and row.kind is not Kind.UNSEEN:
            self._check_overtaking(row, key)
            self._check_place(row)

    def _damaged_under(self, key: HostKey) -> bool:
        return not self.journal.damaged.isdisjoint(self.journal.by_stan.get(key, ()))

    def _check_kept(self, row: Transaction, message: Message) -> None:
        request = self.journal.rows[row.id].request.fields
        for number in (2, 3, 41, 42, 49):
            if number in message.fields and number in request and message.fields[number] != request[number]:
                raise Broken("INV-5", f"field {number} of {row.id} is another upstream")
        if 4 in message.fields and row.kind is not Kind.UNSEEN and int(message.fields[4]) != row.amount_minor:
            raise Broken("INV-5", f"{row.id} has another amount upstream")

    def _check_repeat(self, send: Send, row: Transaction, first: Message) -> None:
        """What was sent before is sent as a repeat, and equal but for its MTI (D8, D9)."""
        host, message = self.host, send.message
        marked = {
            Purpose.REQUEST: True,
            Purpose.ADVICE: host.repeat_advice,
            Purpose.REVERSAL: host.repeat_reversal,
        }.get(send.purpose, False)
        if marked and not is_repeat(message.mti):
            raise Broken("INV-2", f"{row.id} is sent again as {message.mti}, not as a repeat (D9)")
        if first_mti(message.mti) != first_mti(first.mti):
            raise Broken("D8", f"{row.id} is sent as {message.mti}, and was sent as {first.mti}")
        differ = [
            number
            for number in sorted(message.fields.keys() | first.fields.keys())
            if message.fields.get(number) != first.fields.get(number) and number not in host.repeat_refresh
        ]
        if differ:
            raise Broken("D8", f"the repeat of {row.id} differs from its first sending in fields {differ}")

    def _check_place(self, row: Transaction) -> None:
        """A terminal's reversal leaves behind everything that was accepted before it (D14)."""
        taken_at = self.journal.reversed_at.get(row.id, 0)
        if not taken_at or row.id in self.journal.operated:
            return
        for owed in self.journal.owed_rows(row.lane):
            other = owed.transaction
            place = other.position or other.id
            if other.id != row.id and place < taken_at and other.id not in self.journal.operated:
                raise Broken("INV-4", f"the reversal of {row.id} overtakes {other.id}, accepted before it (D14)")

    def _check_overtaking(self, row: Transaction, key: HostKey) -> None:
        """Nothing of the original is still on the wire when its reversal leaves, unless it is booked already (D13)."""
        repeated = "repeat-answered" in self.excused and len(self.may_have_left.get(key, ())) > 1
        if self.wire.get(key) and key not in self.acquirer.booked and not repeated:
            raise Broken("D13", f"the reversal of {row.id} leaves while its original is on its way")

    def _end(self, flight: Flight, event: Event) -> None:
        super()._end(flight, event)
        if isinstance(event, NotSent) and flight.send.purpose is Purpose.REQUEST:
            key = host_key(flight.send.purpose, flight.send.message)
            self.may_have_left.get(key, set()).discard(flight.send.token)

    # Downstream

    def _check_reply(self, told: Told) -> None:
        super()._check_reply(told)
        request, answer = told.request, told.answer
        assert answer is not None
        code = answer.fields[39]
        key = key_of(request)
        if request.kind not in _MONEY or key not in self.journal.by_key:
            return
        stored = self.journal.stored(key)
        row = stored.transaction
        if code in self.host.approved_codes and row.kind in _MONEY:
            undone = (row.resume or row.state) in _UNDONE
            if undone and self.journal.undone_at.get(row.id, 0) <= told.asked_at:
                raise Broken("D15", f"{row.id} is {row.state.name}, and told approved to who asks after that")
            if row.fingerprint != request.fingerprint:
                raise Broken("D2", f"another card or amount under the key of {row.id} is told {code}")
            if stored.answer is not None and with_assigned_stan(stored.answer, row) != answer:
                raise Broken("INV-6", f"{row.id} is told otherwise than what is kept")

    def _check_effect(self, row: Transaction) -> None:
        if (row.lane, row.sent_stan) in self.strays:
            return
        known = "unknown-code-cancels" in self.excused and row.state is State.CANCELLED
        if not (known and row.reason.startswith("answer.code-") and not may_decline(row.reason[12:])):
            super()._check_effect(row)

    def check_told(self) -> None:
        """What terminals were told is what became of it (INV-1, INV-3)."""
        journal = self.journal
        for text, code in self.outcomes.items():
            row = journal.rows[int(text)].transaction
            if row.id in journal.damaged or row.kind not in _MONEY or row.state is State.PARKED:
                continue
            approved = code in self.host.approved_codes
            if approved and row.state is not State.APPROVED and row.id not in journal.taken_back:
                raise Broken("INV-1", f"{row.id} was told {code}, and became {row.state.name} by nobody's will")
            if not approved and row.state is State.APPROVED:
                raise Broken("D11", f"{row.id} was told {code}, and became APPROVED")
        for told in self.told.values():
            if told.request.kind is Kind.REVERSAL and told.answer is not None and told.answer.fields[39] == "00":
                self._check_undone(told.request)

    def _check_undone(self, request: Request) -> None:
        """What a terminal was told is reversed is so: of the transactions that it may mean, not all are booked (D15).

        A reversal that names no batch may mean its terminal's transaction of that STAN in any.
        """
        journal = self.journal
        if request.batch_unknown:
            ids = journal.by_stan.get((request.lane, request.stan), [])
        else:
            ids = [number for key in request.original_keys for number in journal.by_key.get(key, ())]
        rows = [journal.rows[number].transaction for number in ids if number not in journal.damaged]
        meant = [row for row in rows if row.kind in _MONEY and undoes(request, row)]
        if meant and all(row.state is State.APPROVED for row in meant):
            raise Broken("D15", f"{meant[0].id} is APPROVED, and its terminal was told that it is reversed")

    def check_now(self) -> None:
        """What can be seen after every step without looking at everything."""
        if self.acquirer.overtaken and not self.acquirer.overtaken <= self.overdue:
            raise Broken("D13", f"a reversal overtook its original: {sorted(self.acquirer.overtaken)}")
