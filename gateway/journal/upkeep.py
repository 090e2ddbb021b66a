"""When the journal does what no write waits for: checkpoints, and the slices of a generation that nobody's writes move.

It takes a moment that somebody might have to wait for. So it is done when it must be, or else in short steps: after a
small commit with nobody behind it, and once nothing was written for a while.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Final

from gateway.journal.batch import Batcher
from gateway.journal.connections import BUSY_TIMEOUT_S, Here, Threaded
from gateway.journal.log_length import LogLength
from gateway.journal.mark import Mark
from gateway.journal.opening import is_want_of_room
from gateway.journal.waiting import Fullness

_CHECKPOINT_FRAMES: Final = 2_000
"""So long the log may grow, about 8 MiB: then it is moved into the database, whoever waits. With a thousand terminals
one commit and its slices add up to 10 MiB to that. A page costs the less the more are moved at once."""

_FEW_WRITES: Final = 8
_FEW_FRAMES: Final = 500
_LULL_FRAMES: Final = 100
"""After a commit of at most so many writes a log of 500 frames is moved, whoever waits, and one of 100 with nobody
behind the commit, which takes about a millisecond: so half of the load that can be taken meets no long ones, also where
the disk is slow."""

_LONG_FRAMES: Final = 2 * _CHECKPOINT_FRAMES
_READERS_MS: Final = 20
"""So long a log is one that readers keep from beginning anew. Each looks at it for a moment only, but under a drain
there is always one: a checkpoint waits so long for them, and again only when the log is twice as long."""

_QUIET_S: Final = 0.05
"""Where nothing was written for so long, what can wait is done: nobody is likely to wait for it."""


class Upkeep:
    """Used on the event loop's thread, but for `tidy`. Its own steps are the writer's: one at a time, between commits.

    Attributes:
        quiet: nothing was written for a while, and the writer may take a step.
    """

    def __init__(
        self,
        writer: Threaded | Here,
        batcher: Batcher,
        mark: Mark,
        log_length: LogLength,
        fullness: Fullness,
        *,
        writing: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        """An upkeep that nothing waits for yet.

        Args:
            fullness: is told when a step finds no room, and is asked whether there is any.
            writing: whether writes are on the way to the disk.
            wake: has the writer look at `quiet`.
        """
        self._writer = writer
        self._batcher = batcher
        self._mark = mark
        self._fullness = fullness
        self._writing = writing
        self._wake = wake
        self._log_length = log_length
        self._timer: asyncio.TimerHandle | None = None
        self._commits = self._newest_writes = self._frames = self._moved = self._syncs = 0
        self._waits_at = _LONG_FRAMES
        self._ended = False
        self.quiet = False

    @property
    def syncs(self) -> int:
        """Syncs of the mark, the log and the database by checkpoints, and of each log that has begun anew."""
        return self._syncs + self._log_length.begun_anew()

    def end(self) -> None:
        """Begin nothing any more: the journal is closed, or has stopped."""
        self._ended = True
        self.quiet = False
        if self._timer is not None:
            self._timer.cancel()

    async def committed(self, writes: int) -> None:
        """A batch of so many writes is durable: do what cannot wait, and see to it that the rest is not forgotten.

        Raises: as Batcher.commit, or sqlite3.Error when a checkpoint fails other than for want of room.
        """
        self._commits += 1
        self._newest_writes = writes
        if self._batcher.untidy():
            await self._writer.run(self.tidy)
        longest = min(_FEW_FRAMES, _CHECKPOINT_FRAMES) if writes <= _FEW_WRITES else _CHECKPOINT_FRAMES
        if self._log_length.reaches(longest):
            await self._writer.run(self._checkpoint)
        elif self._timer is None and self._something_can_wait():
            self._look_later()

    async def lull(self) -> None:
        """Nobody waits just now. Raises: as `committed`."""
        if self._newest_writes <= _FEW_WRITES and self._log_length.reaches(_LULL_FRAMES) and not self._fullness.reason:
            await self._writer.run(self._checkpoint)

    def _something_can_wait(self) -> bool:
        return self._batcher.leaving or self._log_length.reaches(_CHECKPOINT_FRAMES // 4)

    def _look_later(self) -> None:
        if not self._ended:
            self._timer = asyncio.get_running_loop().call_later(_QUIET_S, self._look_whether_quiet, self._commits)

    def _look_whether_quiet(self, commits: int) -> None:
        self._timer = None
        if commits == self._commits and not self._writing():
            self.quiet = True
            self._wake()
        else:
            self._look_later()

    async def step(self) -> None:
        """One short step of what can wait; who comes meanwhile goes before the next one.

        Raises: as `committed`.
        """
        self.quiet = False
        if self._fullness.reason or not self._something_can_wait():
            return
        if self._batcher.leaving:
            await self._writer.run(self._put_away)
        else:
            await self._writer.run(self._checkpoint)
        self.quiet = not self._ended

    # -- on the writer's thread

    def _put_away(self) -> None:
        if not self._batcher.put_away():
            self._fullness.met()
            return
        self._mark.committed(self._batcher.head, self._batcher.newest_leaf)

    def tidy(self) -> None:
        """Put all that is in memory in the tables, so far as there is room. Raises: as Batcher.tidy."""
        self._batcher.tidy()
        self._mark.committed(self._batcher.head, self._batcher.newest_leaf)

    def _checkpoint(self) -> None:
        """Move the log into the database; what readers still need stays. Everything in it is durable already."""
        self._mark.sync()
        self._syncs += 1
        try:
            busy, frames, moved = self._move_log()
        except sqlite3.Error as error:
            if not is_want_of_room(error):
                raise
            self._fullness.met()  # the log keeps everything; the next checkpoint tries again
            self._log_length.begin()
            return
        if self._log_length.begun_anew():
            self._moved = 0
            self._waits_at = _LONG_FRAMES
            self._syncs += 1  # of the log's head
        if moved > self._moved:  # SQLite syncs the log first, and the database once all of the log is in it
            self._syncs += 1 + (moved == frames)
        self._frames, self._moved = frames, moved
        self._log_length.measured(frames)
        if not busy and frames == moved:
            self._batcher.checkpointed()

    def _move_log(self) -> tuple[int, int, int]:
        """Whether somebody was in the way, the frames that are in the log, and those of them that are moved."""
        execute = self._writer.connection.execute
        if self._frames < self._waits_at:
            busy, frames, moved = execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return busy, frames, moved
        self._waits_at = 2 * self._frames
        execute(f"PRAGMA busy_timeout = {_READERS_MS}").fetchone()
        try:
            busy, frames, moved = execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}").fetchone()
        return busy, frames, moved
