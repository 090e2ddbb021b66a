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
    used where taking a new request for a retry does no harm. It knows nothing of before a restart.
    """

    def __init__(self, generation_ms: int = GENERATION_MS) -> None:
        self._generation_ms = generation_ms
        self._since_ms: int | None = None
        self._now = bytearray(1 << (_BITS - 3))
        self._before = bytearray(1 << (_BITS - 3))

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
