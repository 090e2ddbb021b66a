"""Which endpoints are silent, and which of them a message goes to where there is no other.

An endpoint that leaves as many messages in a row without an answer as may go unheard is *silent*: others go first, in
configured order. An answered echo test is none to a message that moves money: a host may answer echo tests with nothing
behind it. Nothing that was sent moves (D6), and the link sends nothing to find out whether it is back: when to ask the
host is the core's decision. So a silent endpoint is asked only where all others have no room, are not connected, or are
silent too, and it has its place again once it is heard.

A break with messages in flight counts once, however many they were: a host that restarts is not silent, one that
breaks off time after time is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar


class Hearing:
    """What is heard of an endpoint. Kept by its link.

    Attributes:
        silent: too much went unheard, and nothing has been heard since.
        turn: when it was asked last while silent, as a rising number.
    """

    def __init__(self) -> None:
        self.silent = False
        self.turn = 0
        self._unheard = 0
        self._mute = False

    def heard(self, *, echo: bool = False) -> None:
        """The endpoint has spoken; an `echo` test or its answer proves nothing where anything else went unheard."""
        if echo and self._mute:
            return
        self._mute = False
        self._unheard = 0
        self.silent = False

    def began_anew(self) -> None:
        """The host has hung up: what it left unanswered says nothing of the one that comes next."""
        self._mute = False

    def unheard(self, unheard_max: int, *, echo: bool = False) -> bool:
        """One more went unheard; True where with it there are as many as may, and the count begins anew."""
        self._mute = self._mute or not echo
        self._unheard += 1
        if self._unheard < unheard_max:
            return False
        self._unheard = 0
        self.silent = True
        return True


E = TypeVar("E", bound=Hearing)


class Turns:
    """Takes silent endpoints in turn, so that one that is back is found however long another stays silent."""

    def __init__(self) -> None:
        self._taken = 0

    def next(self, silent: Iterable[E]) -> E | None:
        """The one of these that was asked longest ago; it is about to be asked."""
        chosen = min(silent, key=lambda endpoint: endpoint.turn, default=None)
        if chosen is not None:
            self._taken += 1
            chosen.turn = self._taken
        return chosen
