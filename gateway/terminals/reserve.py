"""What retries may take of the places that are kept for them, so that sending everything twice shuts nobody out."""

from __future__ import annotations

from collections import Counter
from typing import Final

_OF_ALL: Final = 2
_OF_ONE_PEER: Final = 8


class Reserve:
    """Retries that were let in where a new request would have been refused.

    Together they take half of the reserve, so that the rest stays for advices and reversals, and those of one peer
    address an eighth: a terminal that sends each sale twice gains little by it (INV-9).
    """

    def __init__(self, in_flight_max: int) -> None:
        self.places = in_flight_max // 10
        """The last tenth of what can be under way: not for new requests."""
        self._retries_max = max(1, self.places // _OF_ALL)
        self._of_one_peer_max = max(1, self.places // _OF_ONE_PEER)
        self._by_peer: Counter[str] = Counter()
        self._retries = 0

    def has_room(self, peer: str) -> bool:
        """Whether a retry of this peer may be let in."""
        return self._retries < self._retries_max and self._by_peer.get(peer, 0) < self._of_one_peer_max

    def enter(self, peer: str) -> None:
        """Let it in; `leave` must follow."""
        self._retries += 1
        self._by_peer[peer] += 1

    def leave(self, peer: str) -> None:
        """It has been answered."""
        self._retries -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]
