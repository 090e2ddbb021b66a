"""How the notary is: its states, the table of their changes, and what operators are told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.notary.outlet import OutletStatus


class NotaryState(StrEnum):
    """Whether heads are signed. `MOVES` is the table of its changes."""

    OFF = "off"  # configured so
    STARTING = "starting"  # what was signed last is not held against the journal yet
    SIGNING = "signing"
    FAILING = "failing"  # not for now: a disk, a key; each tick tries again
    BROKEN = "broken"  # the journal does not continue what was signed; a person has to decide


MOVES: Final = {
    NotaryState.OFF: frozenset[NotaryState](),
    NotaryState.STARTING: frozenset({NotaryState.SIGNING, NotaryState.FAILING, NotaryState.BROKEN}),
    NotaryState.SIGNING: frozenset({NotaryState.FAILING, NotaryState.BROKEN}),
    NotaryState.FAILING: frozenset({NotaryState.SIGNING, NotaryState.BROKEN}),
    NotaryState.BROKEN: frozenset({NotaryState.SIGNING}),  # by `Notary.continue_over` only
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotaryStatus:
    """How the log's heads are.

    Attributes:
        reason: why nothing is signed, in words; empty where it is.
        size: entries of the newest signed head; 0 for none.
        root: of that head, in base64.
        signed_ms: UTC time of that signature; 0 for none.
        unsigned: entries since that head.
    """

    state: NotaryState
    origin: str
    reason: str = ""
    size: int = 0
    root: str = ""
    signed_ms: int = 0
    unsigned: int = 0
    outlets: tuple[OutletStatus, ...] = ()
