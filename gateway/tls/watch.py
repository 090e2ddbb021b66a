"""Looking after the files of lines: new ones are taken into use, ends that come near are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from gateway.tls.contexts import ReloadableContext, days_left
from gateway.tls.files import TlsError

_DAY_MS = 86_400_000


class CertificateWatch:
    """Looks at the files of every line at an interval, and on demand (SIGHUP). No task, one timer.

    Reports, by name: `tls.reloaded`; `tls.reload-failed`, once for each change of the files, with the reason (the old
    certificate stays in use); `tls.expires-soon`, once a day, `expiry_warning_days` before a certificate ends.
    """

    def __init__(
        self,
        contexts: Mapping[str, ReloadableContext],
        report: Callable[[str, dict[str, str]], None],
        utc_ms: Callable[[], int],
        *,
        interval_ms: int = 10_000,
        expiry_warning_days: int = 30,
    ) -> None:
        """`contexts` by the names under which they are reported; there may be none."""
        self._contexts = dict(contexts)
        self._report = report
        self._utc_ms = utc_ms
        self._interval_ms = interval_ms
        self._expiry_warning_days = expiry_warning_days
        self._timer: asyncio.TimerHandle | None = None
        self._told_expiry_ms: dict[str, int] = {}

    @property
    def watching(self) -> bool:
        """Whether there is any line to look after."""
        return bool(self._contexts)

    def start(self) -> None:
        """Look now and then at each interval, on the running loop, until `close`."""
        if self._contexts and self._timer is None:
            self._look()

    def close(self) -> None:
        """Look no more. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reload(self, *, force: bool = True) -> None:
        """Read the files anew: all of them, or only where they have changed."""
        for name, context in self._contexts.items():
            try:
                if context.reload(force=force):
                    self._told_expiry_ms.pop(name, None)
                    end = context.expires.isoformat() if context.expires else ""
                    self._report("tls.reloaded", {"line": name, "expires": end})
            except TlsError as error:
                facts = {"line": name, "reason": str(error), "consequence": "the certificates of before stay in use"}
                self._report("tls.reload-failed", facts)
            self._tell_expiry(name, context)

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_ms / 1000, self._look)
        self.reload(force=False)

    def _tell_expiry(self, name: str, context: ReloadableContext) -> None:
        now_ms = self._utc_ms()
        if context.expires is None or now_ms - self._told_expiry_ms.get(name, -_DAY_MS) < _DAY_MS:
            return
        left = days_left(context.expires, now_ms)
        if left < self._expiry_warning_days:
            self._told_expiry_ms[name] = now_ms
            facts = {"line": name, "expires": context.expires.isoformat(), "days_left": str(left)}
            self._report("tls.expires-soon", facts)
