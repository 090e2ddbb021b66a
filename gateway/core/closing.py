"""A closed batch goes upstream: 0500 with what was booked, and where the acquirer differs, the upload and its end.

It is owed like an advice, in its lane behind everything else of the batch, so that all of that is settled when the rows
are added up. A crash in the middle begins again with the 0500.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.core.effects import Purpose
from gateway.core.events import Answered, BatchRead, NotSent
from gateway.core.lanes import Run
from gateway.core.outgoing import settlement_message, upload_messages
from gateway.core.totals import counted, totals_of
from gateway.core.transaction import Stored
from gateway.core.work import SendResult, Work
from protocol.iso8583.message import Fields, Message
from protocol.response_codes import UPLOAD_FIRST
from protocol.settlement import Balance, Detail, SettlementFieldError, result_of

Then = Callable[[SendResult], None]
"""Told the answer that counts, or why there is none."""


class Closing:
    """Settles closed batches with the acquirer."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def begin(self, run: Run, then: Then) -> None:
        """Settle the batch that `run` has closed."""
        batch = run.transaction.key.rsplit("|", 2)[0]
        self._work.fetch_batch(batch, partial(self._read, run, then))

    def _read(self, run: Run, then: Then, event: BatchRead) -> None:
        work = self._work
        host = work.host
        rows = counted(event.stored, host, host.approved_codes, booked=True)
        try:
            message = settlement_message(run.transaction, host, totals_of(rows, host))
        except SettlementFieldError as error:
            then(NotSent(0, f"unencodable: {error}"))
            return
        if not event.whole:
            then(NotSent(0, "unencodable: the batch has damaged records, or too many"))
        elif not work.link.usable:
            then(NotSent(0, "the link went down before the send"))
        else:
            work.counts["sent.settlement"] += 1
            self._send(message, partial(self._answered, run, rows, then))

    def _send(self, message: Message, then: Then) -> None:
        work = self._work
        work.send(Purpose.SETTLEMENT, message, work.settings.reply_timeout_ms, then)

    def _answered(self, run: Run, rows: list[Stored], then: Then, event: SendResult) -> None:
        work = self._work
        if not (isinstance(event, Answered) and event.verified and _differs(event.fields, work.host.totals_field)):
            then(event)
            return
        work.link.answered(work.mono_ms)
        try:
            details = [_detail(stored) for stored in rows]
            messages = upload_messages(run.transaction, work.host, details)
        except SettlementFieldError as error:
            then(NotSent(0, f"unencodable: {error}"))
            return
        work.counts["settlements.uploaded"] += 1
        self._upload(messages, then, None)

    def _upload(self, messages: list[Message], then: Then, event: SendResult | None) -> None:
        """Send what is left, one after another, as long as each is taken."""
        if event is not None and not (
            isinstance(event, Answered) and event.verified and event.fields.get(39) == "00" and messages
        ):
            then(event)
            return
        self._send(messages[0], partial(self._upload, messages[1:], then))


def _differs(fields: Fields, totals_field: int) -> bool:
    """Whether the acquirer finds the batch out of balance: by its code, or by the result beside the totals."""
    if fields.get(39) in UPLOAD_FIRST:
        return True
    try:
        return result_of(fields.get(totals_field, "")) in {Balance.OUT_OF_BALANCE, Balance.ERROR}
    except SettlementFieldError:
        return False  # it says nothing of the totals: its code counts


def _detail(stored: Stored) -> Detail:
    row = stored.transaction
    return Detail(row.sent_stan, row.amount_minor, stored.request.fields.get(2, ""))
