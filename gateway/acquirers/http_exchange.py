"""An exchange: one Send on its way over HTTP, with a task of its own; and the names of what is counted.

    stage      | means                                         | next
    -----------+-----------------------------------------------+-------------------------------------------------------
    CONNECTING | no byte has left; endpoints are tried in      | WRITTEN at the gate; SETTLED as NotSent where no
               | order                                         | endpoint is left or the time is over
    WRITTEN    | in doubt                                      | SETTLED as Answered; as TimedOut where the time is
               |                                               | over, the connection broke, the reply proves nothing
    SETTLED    | told. After TimedOut the connection is kept   | the end
               | for a bounded time, for LateAnswered          |

Only the link's `_may_write` moves CONNECTING to WRITTEN, in the call that gives the connection to be written to. When
the link closes, CONNECTING is told as in doubt too: nobody is there any more to try another way.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from gateway.acquirers.http_endpoint import HttpEndpoint
from gateway.acquirers.mapping import DoubtKind, HttpRequest
from gateway.acquirers.matching import Flight
from gateway.core.effects import Send


class Count(StrEnum):
    """Names of the link's counters."""

    SENT = "sent"
    ANSWERED = "answered"
    TIMED_OUT = "timed_out"
    NOT_SENT = "not_sent"
    LATE_ANSWERED = "late_answered"
    DUPLICATE_ANSWERS = "duplicate_answers"
    UNMATCHED_ANSWERS = "unmatched_answers"
    UNREADABLE_ANSWERS = "unreadable_answers"
    STATUS_IN_DOUBT = "status_in_doubt"
    EXCHANGES_BROKEN = "exchanges_broken"
    LATE_GIVEN_UP = "late_given_up"
    REFUSED_MATCH_KEY = "refused_match_key"
    REFUSED_NO_ROOM = "refused_no_room"
    REFUSED_NOT_CONNECTED = "refused_not_connected"
    REFUSED_UNENCODABLE = "refused_unencodable"
    REFUSED_CLOSED = "refused_closed"
    CONNECTED = "connected"
    CONNECT_FAILED = "connect_failed"
    CONNECTION_LOST = "connection_lost"


DOUBTS: Final = {
    DoubtKind.STATUS: Count.STATUS_IN_DOUBT,
    DoubtKind.UNREADABLE: Count.UNREADABLE_ANSWERS,
    DoubtKind.UNMATCHED: Count.UNMATCHED_ANSWERS,
}


class Stage(Enum):
    """See the table above."""

    CONNECTING = 1
    WRITTEN = 2
    SETTLED = 3


@dataclass(slots=True, eq=False)
class Exchange:
    """One Send on its way. `number` stands in its Flight's `endpoint`: what is lost together is one exchange.

    Attributes:
        tried: endpoints to which no connection could be made for it.
    """

    number: int
    send: Send
    request: HttpRequest
    flight: Flight
    endpoint: HttpEndpoint
    stage: Stage = Stage.CONNECTING
    tried: tuple[HttpEndpoint, ...] = ()
    task: asyncio.Task[None] | None = None
