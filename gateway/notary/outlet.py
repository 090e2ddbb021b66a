"""A place that checkpoints go to, on a thread of its own: it may hang, fail or be away, and nobody else waits for it.

Only the newest checkpoint is kept for it. What failed is tried again after a pause that doubles, with whatever is the
newest by then. The first failure is told, and the first success after one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.notary.signing import Signed

Tell = Callable[[str, str, dict[str, str]], None]
"""Takes a level ("info", "warning", "error"), the name of what happened and its facts; on any thread."""

_PAUSE_MIN_S: Final = 1.0
_PAUSE_MAX_S: Final = 300.0


class OutletFailed(Exception):
    """The checkpoint has not gone out; the message says why. It is tried again."""


class Destination(Protocol):
    """Where an outlet brings checkpoints. All calls are made on the outlet's thread."""

    @property
    def name(self) -> str:
        """The place in logs, metrics and status; the same each time."""

    def publish(self, signed: Signed) -> None:
        """Bring one checkpoint there; sizes never go down. Bounded in time.

        Raises:
            OutletFailed: it did not arrive, or nobody knows.
        """

    def close(self) -> None:
        """Let go of connections and files."""


@dataclass(frozen=True, slots=True)
class OutletStatus:
    """How one outlet is.

    Attributes:
        size: entries of the newest checkpoint that it has; 0 for none since start.
        failing: why the last try failed, in words; empty while it works.
    """

    name: str
    size: int
    failing: str


class Outlet:
    """The thread of one destination."""

    def __init__(
        self,
        make: Callable[[], Destination],
        name: str,
        tell: Tell,
        *,
        pause_min_s: float = _PAUSE_MIN_S,
        pause_max_s: float = _PAUSE_MAX_S,
    ) -> None:
        """`make` is called on the thread, and again after whatever has ended a destination unforeseen."""
        self._make = make
        self._name = name
        self._tell = tell
        self._pause_min_s = pause_min_s
        self._pause_max_s = pause_max_s
        self._changed = threading.Condition()
        self._wanted: Signed | None = None
        self._ending = False
        self._tried = threading.Event()
        self._status = OutletStatus(name, 0, "")
        self._pause_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"notary {name}", daemon=True)

    def start(self) -> None:
        """Begin to wait for checkpoints."""
        self._thread.start()

    @property
    def status(self) -> OutletStatus:
        """As of now; on any thread."""
        return self._status

    @property
    def tried(self) -> bool:
        """Whether the first checkpoint has been brought, or has failed."""
        return self._tried.is_set()

    def wait_tried(self, timeout_s: float) -> bool:
        """Wait for that; False where it has not come in time."""
        return self._tried.wait(max(0.0, timeout_s))

    def offer(self, signed: Signed) -> None:
        """The newest checkpoint, in place of one that still waits. Never blocks."""
        with self._changed:
            self._wanted = signed
            self._changed.notify()

    def end(self) -> None:
        """Try once more what still waits, then end; `join` waits for it."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended; False where it has not in time. It keeps no process from ending."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        destination: Destination | None = None
        while (signed := self._next()) is not None:
            try:
                destination = destination or self._make()
                destination.publish(signed)
            except OutletFailed as error:
                self._failed(signed, str(error))
            except Exception as error:  # noqa: BLE001 - the outlet's supervision boundary: no other room may notice
                self._failed(signed, f"a defect: {type(error).__name__}: {error}")
                _close(destination)
                destination = None
            else:
                self._succeeded(signed)
            self._tried.set()
        _close(destination)

    def _next(self) -> Signed | None:
        """Wait for a checkpoint, and after a failure for the pause as well; None where it is time to end."""
        with self._changed:
            until_s = time.monotonic() + self._pause_s
            while not self._ending and (self._wanted is None or time.monotonic() < until_s):
                left_s = until_s - time.monotonic()
                self._changed.wait(left_s if self._wanted is not None and left_s > 0 else None)
            signed, self._wanted = self._wanted, None
            return signed

    def _failed(self, signed: Signed, why: str) -> None:
        with self._changed:
            if self._wanted is None and not self._ending:
                self._wanted = signed
        if not self._status.failing:
            self._tell("warning", "audit.publishing-failed", {"outlet": self._name, "reason": why})
        self._status = OutletStatus(self._name, self._status.size, why)
        self._pause_s = min(max(self._pause_min_s, self._pause_s * 2), self._pause_max_s)

    def _succeeded(self, signed: Signed) -> None:
        if self._status.failing:
            self._tell("info", "audit.publishing-resumed", {"outlet": self._name})
        self._status = OutletStatus(self._name, signed.size, "")
        self._pause_s = 0.0


def _close(destination: Destination | None) -> None:
    if destination is not None:
        destination.close()
