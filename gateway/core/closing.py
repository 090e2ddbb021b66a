"""A closed batch goes upstream: 0500 with what was booked, and where the acquirer differs, the upload and its end.

It is owed like an advice, in its lane behind everything else of the batch, so that all of that is settled when the rows
are added up. A crash in the middle begins again with the 0500.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gateway.core.effects import Purpose
from gateway.core.events import Answered, BatchRead, NotSent
from gateway.core.lanes import Run
from gateway.core.outgoing import settlement_message, upload_messages
from gateway.core.totals import counted, totals_of
from gateway.core.transaction import Stored
from gateway.core.work import SendResult, Work
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import first_mti
from protocol.response_codes import ADVICE_TAKEN, LOOK_UP_ORIGINAL, UPLOAD_FIRST
from protocol.settlement import Balance, Detail, SettlementFieldError, result_of

_TOTALS_ANSWER: Final = "0510"

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
        elif not _one_currency(message, rows):
            then(NotSent(0, "unencodable: the batch has amounts in another currency than its totals"))
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
        if not (isinstance(event, Answered) and event.verified and self._differs(event.fields)):
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
        """Send what is left, one after another, as long as each is taken; 94 says that it was taken before."""
        if event is not None and not (messages and self._taken(event)):
            then(event)
            return
        self._send(messages[0], partial(self._upload, messages[1:], then))

    def _taken(self, event: SendResult) -> bool:
        return isinstance(event, Answered) and event.verified and self._takes(event.fields)

    def _takes(self, fields: Fields) -> bool:
        return fields.get(39) in ADVICE_TAKEN | self._work.host.approved_codes

    def _differs(self, fields: Fields) -> bool:
        """Whether the acquirer finds the batch out of balance: by its code, or by the result beside totals it took.

        Of totals that it put off or refused, a result says nothing: it would take an upload that it never asked for,
        and not settle the batch by it.
        """
        if fields.get(39) in UPLOAD_FIRST:
            return True
        result = _result(fields, self._work.host.totals_field)
        return self._takes(fields) and result in {Balance.OUT_OF_BALANCE, Balance.ERROR}

    def unclear(self, event: Answered) -> bool:
        """Whether the acquirer has had these totals before, and does not say that it found them balanced.

        The answer that was lost may have been 95: what was not uploaded then is not settled.
        """
        return (
            first_mti(event.mti) == _TOTALS_ANSWER
            and event.fields.get(39) in LOOK_UP_ORIGINAL
            and _result(event.fields, self._work.host.totals_field) is not Balance.BALANCED
        )


def _one_currency(message: Message, rows: list[Stored]) -> bool:
    """Whether a sum of these rows is an amount: no two currencies are named, that of the settlement included."""
    named = {stored.transaction.currency for stored in rows}
    return not named or len((named | {message.fields.get(49, "")}) - {""}) <= 1


def _result(fields: Fields, totals_field: int) -> Balance | None:
    """What the acquirer says of the totals; None where it says nothing: its code counts then."""
    try:
        return result_of(fields.get(totals_field, ""))
    except SettlementFieldError:
        return None


def _detail(stored: Stored) -> Detail:
    row = stored.transaction
    return Detail(row.sent_stan, row.amount_minor, stored.request.fields.get(2, ""))
