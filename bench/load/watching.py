"""What a run looks at beside its answers: the gateway's memory, CPU, queue and files, twice a second."""

from __future__ import annotations

import asyncio

from bench.child import Commits, Gateway
from bench.load.results import Sample
from bench.usage import cpu_s, file_bytes, resident_bytes


class Watch:
    """Looks at the gateway; a process that was killed and started again counts as one.

    Attributes:
        depth: what the gateway owes, as last told; -1 where it could not be asked.
        resident_max_bytes, log_max_bytes: the most seen.
        samples: one for each beat that was entered.
    """

    def __init__(self, gateway: Gateway, every_s: float = 0.5) -> None:
        self._gateway = gateway
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._log = gateway.folder / "journal.sqlite3-wal"
        self._pid = 0
        self._cpu_before_s = 0.0
        self._cpu_of_pid_s = 0.0
        self._commits: dict[int, Commits] = {}
        self.depth = -1
        self.resident_max_bytes = self.log_max_bytes = 0
        self.samples: list[Sample] = []

    def start(self) -> None:
        """Begin to ask for the queue."""
        self._task = asyncio.get_running_loop().create_task(self._ask())

    async def stop(self) -> None:
        """Ask no more. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the gateway so far, of all its processes."""
        pid = self._gateway.pid if self._gateway.running else 0
        if pid != self._pid:
            self._cpu_before_s += self._cpu_of_pid_s
            self._cpu_of_pid_s = 0.0
            self._pid = pid
        if pid:
            self._cpu_of_pid_s = max(self._cpu_of_pid_s, cpu_s(pid))
        return self._cpu_before_s + self._cpu_of_pid_s

    @property
    def commits(self) -> int:
        """Group commits of the gateway so far, as it last told."""
        return sum(told.commits for told in self._commits.values())

    @property
    def syncs(self) -> int:
        """Syncs of the gateway so far, as it last told; -1 where it does not tell."""
        told = [one.syncs for one in self._commits.values()]
        return -1 if not told or min(told) < 0 else sum(told)

    def enter(self, at_s: float, rate_per_s: float, p99_us: float) -> Sample:
        """Take a sample, with what the generator has counted."""
        resident = resident_bytes(self._gateway.pid) if self._gateway.running else 0
        log = file_bytes(self._log)
        self.resident_max_bytes = max(self.resident_max_bytes, resident)
        self.log_max_bytes = max(self.log_max_bytes, log)
        _ = self.cpu_s  # so that little is missed of a process that is killed
        sample = Sample(
            at_s=round(at_s, 3),
            rate_per_s=round(rate_per_s, 1),
            p99_us=p99_us,
            depth=self.depth,
            resident_bytes=resident,
            log_bytes=log,
        )
        self.samples.append(sample)
        return sample

    async def look(self) -> None:
        """Ask the gateway now."""
        depth = await self._gateway.queue_depth() if self._gateway.running else None
        self.depth = -1 if depth is None else depth

    async def count_commits(self) -> None:
        """Ask for commits and syncs; before a kill they would be gone with the process."""
        told = await self._gateway.commits() if self._gateway.running else None
        if told is not None:
            self._commits[self._gateway.starts] = told

    async def _ask(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)
