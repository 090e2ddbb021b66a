"""A run as text: one line for each step, event and effect, without addresses and without card numbers."""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.core.effects import (
    Alarm,
    Create,
    Effect,
    FetchBatch,
    FetchHeads,
    Find,
    FindNewest,
    Load,
    OperatorReply,
    Purpose,
    Reply,
    Send,
    Update,
    Write,
)
from gateway.core.events import (
    Answered,
    BatchRead,
    Commanded,
    Committed,
    Connected,
    Damaged,
    Event,
    Existing,
    Found,
    Heads,
    LateAnswered,
    Lookup,
    NotSent,
    OverLimit,
    Requested,
    Stopping,
    Ticked,
    TimedOut,
    WriteRefused,
)
from gateway.core.transaction import Stored, Transaction
from protocol.iso8583.message import Fields

_SHOWN: Final = (3, 4, 7, 11, 37, 38, 39, 49, 60, 90)
"""Fields that a trace shows: never one that holds a card number (2, 35, 48, 55)."""


class Trace:
    """Collects lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def digest(self) -> str:
        """SHA-256 over all lines."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def step(self, text: str, mono_ms: int, utc_ms: int) -> None:
        """A step of the script begins."""
        self.lines.append(f"== {text}  [{mono_ms} {utc_ms}]")

    def event(self, event: Event) -> None:
        """Something reaches the core."""
        self.lines.append(f"  > {event_text(event)}")

    def effect(self, effect: Effect) -> None:
        """The core asks for something, and it is carried out."""
        self.lines.append(f"  < {effect_text(effect)}")

    def note(self, text: str) -> None:
        """Something happens beside the core."""
        self.lines.append(f"  ! {text}")


def _fields(fields: Fields) -> str:
    return " ".join(f"{number}={fields[number]}" for number in _SHOWN if number in fields)


def _row(row: Transaction) -> str:
    more = f" place={row.position}" if row.position else ""
    resume = f" resume={row.resume.name}" if row.resume is not None else ""
    return (
        f"{row.id} {row.key} {row.kind.name} {row.state.name} r{row.revision} attempts={row.attempts}"
        f" code={row.response} {row.reason}{more}{resume}"
    )


def _stored(stored: Stored | Lookup | None) -> str:
    if stored is None:
        return "damaged"
    return stored.name.lower() if isinstance(stored, Lookup) else f"[{_row(stored.transaction)}]"


def event_text(event: Event) -> str:
    """One event as text."""
    name = type(event).__name__
    match event:
        case Requested():
            request = event.request
            return f"{name} {event.terminal_token} {request.kind.name} {request.key} {_fields(request.fields)}"
        case Committed():
            return f"{name} {event.token} ids={event.ids}"
        case Existing():
            return f"{name} {event.token} {_stored(event.stored)}"
        case OverLimit() | NotSent() | WriteRefused():
            return f"{name} {event.token} {event.reason}"
        case Found():
            return f"{name} {event.token} {' '.join(_stored(result) for result in event.results)}"
        case Heads() | BatchRead():
            rest = event.more if isinstance(event, Heads) else event.whole
            return f"{name} {event.token} {rest} {' '.join(_stored(stored) for stored in event.stored)}"
        case Answered():
            return f"{name} {event.token} {event.mti} {_fields(event.fields)} verified={event.verified}"
        case LateAnswered():
            return f"{name} {event.token} {event.mti} {_fields(event.fields)}"
        case TimedOut():
            return f"{name} {event.token}"
        case Damaged():
            return f"{name} {event.sequence} {event.what}"
        case Connected():
            return f"{name} {event.connected}"
        case Commanded():
            return f"{name} {event.operator_token} {event.act.value} {event.id}"
        case Stopping() | Ticked():
            return name


def effect_text(effect: Effect) -> str:
    """One effect as text."""
    name = type(effect).__name__
    match effect:
        case Write():
            return f"{name} {effect.token} {' + '.join(_change(change) for change in effect.changes)}"
        case Find():
            return f"{name} {effect.token} {' '.join(effect.keys)} horizon={effect.horizon_ms}"
        case FindNewest():
            return f"{name} {effect.token} {effect.lane}"
        case FetchHeads():
            return f"{name} {effect.token} {effect.lane} {effect.limit}"
        case FetchBatch():
            return f"{name} {effect.token} {effect.batch}"
        case Load():
            return f"{name} {effect.token} {effect.id}"
        case Send():
            shown = _fields(effect.message.fields)
            terminal = effect.message.fields.get(41, "") if effect.purpose is not Purpose.PROBE else ""
            return f"{name} {effect.token} {effect.purpose.name} {terminal} {effect.message.mti} {shown}"
        case Reply():
            return f"{name} {effect.terminal_token} {effect.answer.mti} {_fields(effect.answer.fields)}"
        case OperatorReply():
            return f"{name} {effect.operator_token} {effect.done} {effect.text}"
        case Alarm():
            facts = " ".join(f"{key}={value}" for key, value in effect.facts.items())
            return f"{name} {effect.severity.name} {effect.code} {facts}"


def _change(change: Create | Update) -> str:
    kind = f"{type(change).__name__} {change.kind.name}"
    reserve = "".join(f" +{limit.reason}" for limit in change.reserve)
    release = f" -{len(change.release)}" if isinstance(change, Update) and change.release else ""
    return f"{kind} [{_row(change.transaction)}]{reserve}{release}"
