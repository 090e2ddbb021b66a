"""A UnionPay terminal's line: plain or by TLS, one message in flight, MACs made and looked at, everything recorded."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.line import Line
from bench.records import TerminalAct, TerminalEvent
from bench.terminal import GaveUp, Habits, History, Told
from bench.till import CURRENCY
from bench.unionpay import MAC_FAILED, Seal, is_exempt
from bench.unionpay_till import Draft
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message

_LATE_ANSWERS_KNOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong on the shop floor with one message.

    Attributes:
        power_loss: the terminal goes dark shortly after sending, and comes back.
        answer_loss: the answer arrives, but the terminal does not get to see it.
        twice: the same bytes are sent twice.
        wrong_mac: the first send is MACed with a key that nobody gave out.
    """

    power_loss: bool = False
    answer_loss: bool = False
    twice: bool = False
    wrong_mac: bool = False


NO_FAULT: Final = Fault()


class _FrameLine(Line):
    """A line that also tells the bytes of what arrived."""

    def __init__(self, dialect: Dialect, answered: Callable[[Message, bytes], None], lost: Callable[[], None]) -> None:
        super().__init__(dialect, lambda _: None, lost)
        self._frame_answered = answered

    def _received(self, message: Message, frame: bytes) -> None:
        self._frame_answered(message, frame)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The one message in flight. Its answer is None where the connection broke, or its MAC was wrong."""

    draft: Draft
    answer: asyncio.Future[Message | None]
    answer_loss: bool


class SealedLine:
    """Sends drafts, and tells what came back.

    Attributes:
        seal: MACs of the session; None before the first sign-on, when nothing but 08xx can be sent with a MAC.
        bad_mac: the last attempt was answered, with a wrong MAC.
        finish_by: monotonic; when even unfinished business is given up.
    """

    def __init__(
        self,
        dialect: Dialect,
        endpoint: tuple[str, int],
        history: History,
        *,
        habits: Habits,
        dice: random.Random,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.habits = habits
        self.history = history
        self.seal: Seal | None = None
        self.bad_mac = False
        self.finish_by: float | None = None
        self._dialect = dialect
        self._endpoint = endpoint
        self._dice = dice
        self._tls = tls
        self._wrong_seal = Seal(dialect, dice.randbytes(16))
        self._line: _FrameLine | None = None
        self._waiting: _Waiting | None = None
        self._known: dict[tuple[str, str], Draft] = {}

    @property
    def late(self) -> bool:
        """Whether the terminal's time is over."""
        return self.finish_by is not None and time.monotonic() > self.finish_by

    def hang_up(self) -> None:
        """Drop the connection as a power cut would."""
        if self._line is not None:
            self._line.abort()
            self._line = None

    async def pause(self) -> None:
        """Wait a little before the next attempt.

        Raises:
            GaveUp: `finish_by` has passed.
        """
        if self.late:
            raise GaveUp
        await asyncio.sleep(self.habits.connect_pause_s * (0.5 + self._dice.random()))

    async def _connected(self) -> _FrameLine:
        """The line, dialled again until somebody answers.

        Raises:
            GaveUp: `finish_by` has passed.
        """
        while self._line is None or not self._line.open:
            try:
                _, self._line = await asyncio.wait_for(
                    asyncio.get_running_loop().create_connection(
                        lambda: _FrameLine(self._dialect, self._on_answer, self._on_lost),
                        *self._endpoint,
                        ssl=self._tls,
                    ),
                    self.habits.answer_timeout_s + 5,
                )
            except (OSError, TimeoutError):  # an SSLError is an OSError
                self.history.counts["connect_failed"] += 1
                await self.pause()
        return self._line

    # --- what arrives ----------------------------------------------------------------------------------------------

    def _on_lost(self) -> None:
        if self._waiting is not None and not self._waiting.answer.done():
            self._waiting.answer.set_result(None)

    def _on_answer(self, message: Message, frame: bytes) -> None:
        genuine = self._genuine(message, frame)
        waiting = self._waiting
        if waiting is not None and not waiting.answer.done():
            draft = waiting.draft
            if (message.mti, message.fields.get(11)) == (draft.answer_mti, draft.stan):
                self._record("answered", draft, message, lost=waiting.answer_loss or not genuine)
                self.bad_mac = not genuine
                waiting.answer.set_result(message if genuine else None)
                return
        late = self._known.get((message.mti, message.fields.get(11, "")))
        if late is None:
            self.history.counts["unmatched"] += 1
        else:
            self._record("answered", late, message, late=True)

    def _genuine(self, message: Message, frame: bytes) -> bool:
        """Whether an answer may be believed: 08xx have no MAC, and who says that ours was wrong may have none."""
        if is_exempt(message.mti) or (message.fields.get(39) == MAC_FAILED and 64 not in message.fields):
            return True
        if self.seal is not None and self.seal.genuine(frame):
            return True
        if message.fields.get(39) == MAC_FAILED:
            return True  # the other side's keys are other ones: only a sign-on helps, and is harmless
        self.history.counts["answers with a wrong MAC"] += 1
        return False

    def _record(
        self, event: TerminalAct, draft: Draft, answer: Message | None = None, *, late: bool = False, lost: bool = False
    ) -> None:
        fields = answer.fields if answer is not None else {}
        sent = draft.message.fields
        self.history.write(
            TerminalEvent(
                at=time.time(),
                event=event,
                business=draft.business,
                terminal=sent[41].strip(),
                merchant=sent[42].strip(),
                stan=draft.stan,
                key=draft.key,
                mti=answer.mti if answer is not None else draft.message.mti,
                original=draft.original,
                attempt=draft.attempts,
                amount_minor=draft.amount_minor,
                currency=sent.get(49, CURRENCY),
                card=draft.card,
                card_hash=draft.card_hash,
                response=fields.get(39, ""),
                approval=fields.get(38, "").strip(),
                rrn=fields.get(37, ""),
                late=late,
                lost=lost,
                batch=draft.batch,
                kind=draft.kind,
                direction=draft.direction,
                pin_hash=draft.pin_hash,
                chip_hash=draft.chip_hash,
            )
        )
        self.history.counts[event] += 1
        if event == "answered":
            self.history.counts[f"code {fields.get(39, 'none')}"] += 1

    # --- one message -----------------------------------------------------------------------------------------------

    def _frame(self, draft: Draft, *, wrong_mac: bool) -> bytes:
        message = draft.message
        if is_exempt(message.mti):
            frame = self._dialect.codec.encode(message)
        else:
            seal = self._wrong_seal if wrong_mac or self.seal is None else self.seal
            frame = seal.sealed(message)
        return self._dialect.framing.wrap(frame)

    async def attempt(self, draft: Draft, fault: Fault = NO_FAULT) -> Told | None:
        """Send a message once and wait for its answer.

        Returns:
            None after a time-out, a broken connection, an answer with a wrong MAC or one of the losses.
        Raises:
            GaveUp: `finish_by` has passed and nobody listens.
        """
        line = await self._connected()
        draft.attempts += 1
        self.bad_mac = False
        self._known = dict([*self._known.items()][-_LATE_ANSWERS_KNOWN:])
        self._known[draft.answer_mti, draft.stan] = draft
        answer: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._waiting = _Waiting(draft, answer, fault.answer_loss or fault.power_loss)
        self._record("sent", draft)
        started = time.monotonic()
        frame = self._frame(draft, wrong_mac=fault.wrong_mac)
        line.send(frame * 2 if fault.twice else frame)
        if fault.power_loss:
            await asyncio.sleep(self._dice.random() * 0.05)
            self._waiting = None
            self.hang_up()
            self._record("disconnected", draft)
            await asyncio.sleep(self._dice.random() * 0.5)
            return None
        try:
            message = await asyncio.wait_for(answer, self.habits.answer_timeout_s)
        except TimeoutError:
            self._record("timed_out", draft)
            return None
        finally:
            self._waiting = None
        if message is None:
            if not self.bad_mac:
                self._record("disconnected", draft)
                await asyncio.sleep(self.habits.connect_pause_s * (0.5 + self._dice.random()))
            return None
        if fault.answer_loss:
            return None
        self.history.latencies_ms.append((time.monotonic() - started) * 1000)
        fields = message.fields
        return Told(message.mti, fields.get(39, ""), fields.get(38, "").strip(), fields.get(37, ""), message)
