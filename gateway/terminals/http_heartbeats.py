"""How terminals are, as far as they tell: the last heartbeat of each, in memory, bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgspec

from protocol.http_api import Heartbeat
from protocol.masking import contains_pan


class Heard(NamedTuple):
    """A terminal's last heartbeat and when it came (UTC, ms)."""

    heartbeat: Heartbeat
    utc_ms: int


class Heartbeats:
    """The last heartbeat of each terminal; the one that was silent for longest gives way to a new one."""

    def __init__(self, terminals_max: int) -> None:
        self._terminals_max = terminals_max
        self._heard: OrderedDict[str, Heard] = OrderedDict()

    def put(self, terminal: str, heartbeat: Heartbeat, utc_ms: int) -> None:
        """Keep a heartbeat in place of the terminal's one before."""
        version = heartbeat.software_version
        if version and contains_pan(version, inside_runs=True):  # free text, shown to operators (INV-8)
            heartbeat = msgspec.structs.replace(heartbeat, software_version="hidden: looks like a card number")
        self._heard[terminal] = Heard(heartbeat, utc_ms)
        self._heard.move_to_end(terminal)
        if len(self._heard) > self._terminals_max:
            self._heard.popitem(last=False)

    def all(self) -> dict[str, Heard]:
        """Every terminal that is remembered, the one heard last at the end."""
        return dict(self._heard)

    def __len__(self) -> int:
        return len(self._heard)
