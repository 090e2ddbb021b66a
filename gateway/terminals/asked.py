"""What terminals have asked lately, so that a retry is told from a new request without a look into the journal."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

GENERATION_MS: Final = 600_000
_BITS: Final = 23
_MASK: Final = (1 << _BITS) - 1


class Asked:
    """Remembers requests in two tables of fixed size (2 MiB together); each takes part for two generations at most.

    A request that was added within the last generation is always seen. One that was not is sometimes seen all the
    same, more often the more there are (about one in fifty of them when a generation had a million): so it may only be
    used where taking a new request for a retry does no harm. It knows nothing of before a restart, and says so: nothing
    is surely new until a generation has passed. Listeners that name requests alike share one, so that a retry may come
    to another of them. A retry over another protocol is not seen.
    """

    def __init__(self, generation_ms: int = GENERATION_MS) -> None:
        self._generation_ms = generation_ms
        self._since_ms: int | None = None
        self._knows_from_ms: int | None = None
        self._now = bytearray(1 << (_BITS - 3))
        self._before = bytearray(1 << (_BITS - 3))

    def begin(self, now_ms: int) -> None:
        """Requests are heard of from now on. `now_ms` is monotonic. Said again it changes nothing."""
        if self._knows_from_ms is None:
            self._knows_from_ms = now_ms + self._generation_ms

    def surely_new(self, request: Hashable, now_ms: int) -> bool:
        """Whether a request has not been handed on for a generation at least, before a restart included.

        Only then may it be told that nothing is stored (INV-6, D3).
        """
        known = self._knows_from_ms is not None and now_ms >= self._knows_from_ms
        return known and not self.seen(request)

    def add(self, request: Hashable, now_ms: int) -> None:
        """A request, by what names it, is handed on. `now_ms` is monotonic."""
        if self._since_ms is None:
            self._since_ms = now_ms
        if now_ms - self._since_ms >= self._generation_ms:
            self._before, self._now = self._now, bytearray(1 << (_BITS - 3))
            self._since_ms = now_ms
        table = self._now
        for place in _places(request):
            table[place >> 3] |= 1 << (place & 7)

    def seen(self, request: Hashable) -> bool:
        """Whether a request of this name may have been handed on before."""
        places = _places(request)
        return any(all(table[p >> 3] & (1 << (p & 7)) for p in places) for table in (self._now, self._before))


def _places(request: Hashable) -> tuple[int, int, int]:
    """Three bits of a table. Python's hash of texts is keyed anew in each process: nobody can aim at a bit."""
    digest = hash(request)
    return digest & _MASK, (digest >> 20) & _MASK, (digest >> 40) & _MASK
