"""Inquiries: requests that move no money (a balance, the download of parameters). Asked, answered, forgotten.

They are never stored and never stood in for. A crash leaves nothing of them: the terminal asks again.
"""

from __future__ import annotations

from functools import partial

from gateway.core.answers import local_answer, relayed_answer
from gateway.core.effects import Purpose
from gateway.core.events import Answered, NotSent, TimedOut
from gateway.core.outgoing import inquiry_message
from gateway.core.transaction import Request
from gateway.core.work import SendResult, Work
from protocol.response_codes import SIGN_ON_FIRST


class Inquiries:
    """Hands inquiries on while the acquirer can be asked."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._asked = 0

    def arrive(self, terminal_token: int, request: Request) -> None:
        """Ask the acquirer, or answer 91 where that cannot be done."""
        work = self._work
        if not work.link.usable:
            self._refuse(terminal_token, request, "91")
        elif self._asked + len(work.running) >= work.settings.in_flight_max:
            work.counts["refused.overload"] += 1
            self._refuse(terminal_token, request, "96")
        else:
            self._asked += 1
            work.counts["sent.inquiry"] += 1
            message = inquiry_message(request, work.host, work.utc_ms)
            then = partial(self._sent, terminal_token, request)
            work.send(Purpose.INQUIRY, message, work.settings.reply_timeout_ms, then)

    def _sent(self, terminal_token: int, request: Request, event: SendResult) -> None:
        work = self._work
        self._asked -= 1
        if isinstance(event, Answered):
            work.link.answered(work.mono_ms)
            # A0 and 77 are about the gateway's own session: the terminal would sign on for nothing.
            if event.verified and event.fields.get(39) and event.fields[39] not in SIGN_ON_FIRST:
                answer = relayed_answer(request.mti, request.fields, event.fields, request.rules)
                work.reply(terminal_token, answer)
            else:
                self._refuse(terminal_token, request, "96")
            return
        if isinstance(event, TimedOut):
            # It says nothing of the link: what a host does not know it may leave unanswered, and anybody can ask.
            work.counts["timed-out.inquiry"] += 1
        unencodable = isinstance(event, NotSent) and event.reason.startswith("unencodable")
        self._refuse(terminal_token, request, "30" if unencodable else "91")

    def _refuse(self, terminal_token: int, request: Request, code: str) -> None:
        work = self._work
        work.reply(terminal_token, local_answer(request.mti, request.fields, code, request.rules, work.utc_ms))
