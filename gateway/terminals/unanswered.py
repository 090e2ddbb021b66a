"""A request that the core has and that is not answered yet, as an ISO 8583 listener keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.terminals.connection import TerminalConnection
    from gateway.terminals.sessions import Admitted


class Unanswered(msgspec.Struct, frozen=True):
    """Where the answer to a request goes, and what it carries back.

    Attributes:
        admitted: what its session adds to the answer.
        since_ms: monotonic; when it was admitted.
        reserved: it is a retry with one of the places that are kept for retries.
    """

    connection: TerminalConnection
    tpdu: bytes
    header: bytes
    admitted: Admitted
    since_ms: int
    reserved: bool
