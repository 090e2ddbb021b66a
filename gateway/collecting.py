"""Garbage collection, out of the way of what must answer soon."""

from __future__ import annotations

import gc
from typing import Final

_COLLECTED_AFTER: Final = (2_000, 5, 800)
"""Garbage collection: of young objects after so many new ones, of older ones after so many of those, of all after so
many of these. Next to nothing of ours needs it: what goes is freed at once, by its reference count. Older ones come
often, since a collection of twenty young ones' worth took milliseconds in which nobody was answered."""


def spare_the_collector() -> None:
    """Take what the start has made out of all later garbage collections.

    It lives as long as the process. A full collection that looks at all of it stands in everybody's way for tens of
    milliseconds, and connections that come and go by the thousand bring one about.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
