"""What is believed of the acquirer: up, degraded, down, or in maintenance; when to probe; how wide to open (D19).

Down is left only by an answered probe; where transactions had stayed without an answer, the link is degraded then, and
they are tried one at a time, until one is answered. After an outage the window starts at one message in flight and
doubles with each windowful of answers, because the host has just come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class LinkState(StrEnum):
    """What new requests may expect."""

    UP = "up"
    DEGRADED = "degraded"  # the last answers stayed away, but not yet as often as makes an outage
    DOWN = "down"
    MAINTENANCE = "maintenance"  # a person has closed the link


_DEGRADED: Final = LinkState.DEGRADED
_HANGS_AFTER_MS: Final = 5_000
"""A host that has as much as it may have answers many times in this time, however slow it is; one that hangs, never."""
_USABLE: Final = (LinkState.UP, LinkState.DEGRADED)


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkSettings:
    """When a link counts as down, and how it is probed.

    Attributes:
        down_after_timeouts: answers missing in a row that make an outage.
        echo_interval_ms: an idle link is probed this often.
        echo_timeout_ms: how long a probe waits.
        probe_min_ms: first pause between probes of a link that is down; doubles up to echo_interval_ms.
        window_max: replays in flight at most (D19).
    """

    down_after_timeouts: int = 3
    echo_interval_ms: int = 30_000
    echo_timeout_ms: int = 5_000
    probe_min_ms: int = 1_000
    window_max: int = 64


class LinkHealth:
    """One acquirer's health. Times are monotonic milliseconds."""

    def __init__(self, settings: LinkSettings, mono_ms: int) -> None:
        self._settings = settings
        self.state = LinkState.DOWN
        self.usable = False
        """Whether requests are asked online now; follows from `state`."""
        self.since_ms = mono_ms
        self.connected = False
        self.probing = False
        self.outages = 0
        self._over = True
        """Whether the last outage is over: the link was up since."""
        self._missing = 0
        self._unanswered = 0
        """Transactions in a row without an answer; a probe that is answered leaves it as it is."""
        self._answered_ms = mono_ms
        self.decided = 0
        """Transactions that were answered with anything but "later"."""
        self.window = 1
        """How many replays may be in flight (D19)."""
        self._maintenance = False
        self.probe_at_ms = mono_ms
        """Monotonic time of the next probe, if one makes sense then (`probe_due_ms`)."""
        self._probe_delay_ms = settings.probe_min_ms

    def connection(self, connected: bool, mono_ms: int) -> None:
        """A first endpoint has connected, or the last one has gone."""
        self.connected = connected
        self.probing = False
        if connected:
            self.probe_at_ms = mono_ms
            self._probe_delay_ms = self._settings.probe_min_ms
        elif not self._maintenance:
            self._change(LinkState.DOWN, mono_ms)

    def answered(self, mono_ms: int, *, put_off: bool = False) -> None:
        """Any answer in time: the host is there. It has decided something, unless it has put it off (91, 96, ...)."""
        self.decided += not put_off
        self._missing = self._unanswered = 0
        self._answered_ms = mono_ms
        if self.window < self._settings.window_max:
            self.window += 1
        if self.state is _DEGRADED:
            self._change(LinkState.UP, mono_ms)
        if self.usable:
            self.probe_at_ms = mono_ms + self._settings.echo_interval_ms

    def answers(self, full_since_ms: int, mono_ms: int) -> bool:
        """Whether a host that has had all it may have since then still answers; else it hangs, or is not used."""
        return self.usable and mono_ms - max(full_since_ms, self._answered_ms) <= _HANGS_AFTER_MS

    @property
    def on_trial(self) -> bool:
        """Whether the host answers probes, and nothing else since its outage: transactions are tried one at a time."""
        return self.usable and self._unanswered >= self._settings.down_after_timeouts

    def timed_out(self, mono_ms: int) -> None:
        """A transaction's answer stayed away: degraded at once, down after as many as configured in a row.

        Probes that are answered in between do not count: a host may answer them with nothing behind it.
        """
        self._unanswered += 1
        self._missed(mono_ms)

    def _missed(self, mono_ms: int) -> None:
        self._missing += 1
        self.window = 1
        if not self.usable:
            return
        if max(self._missing, self._unanswered) >= self._settings.down_after_timeouts:
            self._change(LinkState.DOWN, mono_ms)
            self.probe_at_ms = mono_ms + self._probe_delay_ms
        else:
            self._change(LinkState.DEGRADED, mono_ms)
            self.probe_at_ms = mono_ms

    def maintenance(self, on: bool, mono_ms: int) -> None:
        """A person closes or opens the link; opening it asks the host first."""
        if on is self._maintenance:
            return
        self._maintenance = on
        self._change(LinkState.MAINTENANCE if on else LinkState.DOWN, mono_ms)
        self.probe_at_ms = mono_ms

    def probe_due_ms(self) -> int | None:
        """When the next probe is to be sent; None while one is under way or none makes sense."""
        if self.probing or not self.connected or self._maintenance:
            return None
        return self.probe_at_ms

    def probe_sent(self) -> None:
        """One probe at a time: no echo storm."""
        self.probing = True

    def probe_answered(self, mono_ms: int) -> bool:
        """Returns whether this closed an outage. While no transaction is answered, the link is degraded at best."""
        self.probing = False
        self._missing = 0
        unproved = self._unanswered >= self._settings.down_after_timeouts
        if unproved:
            self._probe_delay_ms = min(2 * self._probe_delay_ms, self._settings.echo_interval_ms)
        else:
            self._probe_delay_ms = self._settings.probe_min_ms
        self.probe_at_ms = mono_ms + self._settings.echo_interval_ms
        if self._maintenance:
            return False
        was_down = self.state is LinkState.DOWN
        if was_down:
            self.window = 1
        self._change(LinkState.DEGRADED if unproved else LinkState.UP, mono_ms)
        return was_down

    def probe_failed(self, mono_ms: int) -> None:
        """A probe that is not answered counts like any answer that stays away; probing backs off."""
        self.probing = False
        self._missed(mono_ms)
        self.probe_at_ms = mono_ms + self._probe_delay_ms
        self._probe_delay_ms = min(2 * self._probe_delay_ms, self._settings.echo_interval_ms)

    def probe_not_sent(self, mono_ms: int) -> None:
        """A probe that never left says nothing of the host: another one a pause later."""
        self.probing = False
        self.probe_at_ms = mono_ms + self._probe_delay_ms

    def _change(self, state: LinkState, mono_ms: int) -> None:
        if state is self.state:
            return
        if state is LinkState.UP:
            self._over = True
        elif state is LinkState.DOWN:
            if self._over or self.state is not _DEGRADED:  # else a trial has failed: it is still the same one
                self.outages += 1
            self._over = False
        self.state = state
        self.usable = state in _USABLE
        self.since_ms = mono_ms
