"""Lanes: ordered streams with at most one message in flight, and what waits in each (D9, D14, D19, D20).

A lane exists in memory only while something in it is under way, owed or waiting; the journal remembers the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.core.transaction import Answer, Request, Stored, StoredMessage, Transaction
from protocol.iso8583.message import Fields


@dataclass(slots=True)
class Run:
    """A transaction that is under way now: the only thing of it in memory.

    Attributes:
        transaction: its row as last handed to the journal.
        request: the terminal's request; None for a replay.
        message, sensitive, answer: as stored.
        waiting: terminals' tokens that are owed the outcome (D3).
        writing: its row does not exist yet, or a change of it is with the journal; who wants to change it waits.
        deferred: what waits for that, in order.
        sent_at_ms, first_sent_ms: monotonic times of its last send and of its first (D13).
    """

    transaction: Transaction
    lane: Lane
    message: StoredMessage
    sensitive: Fields
    request: Request | None = None
    answer: Answer | None = None
    waiting: list[int] = field(default_factory=list)
    writing: bool = False
    deferred: list[Callable[[], None]] = field(default_factory=list)
    sent_at_ms: int = 0
    first_sent_ms: int = 0

    @property
    def stored(self) -> Stored:
        """The transaction as the journal would give it back."""
        return Stored(self.transaction, self.message, self.sensitive, self.answer)


@dataclass(slots=True)
class Lane:
    """One ordered stream.

    Attributes:
        busy: the run whose message is in flight, or is being decided for sending.
        owing: the journal may hold something to replay in this lane.
        heads: the next transactions to replay, read ahead; dropped whenever the journal may know better.
        fetching: token of the read under way, or 0.
        holds: writes under way that may change what is owed; nothing is started in the lane meanwhile.
        turns: who reads a row of this lane and then changes it, one after another: two that read the same revision
            must not both write. Each of them holds the lane.
        runs: requests of this lane that are under way, at whatever stage.
        blocked_until_ms: monotonic; no replay before (backoff, or D13). 0 for none.
        blocked_by: rule that blocks ("D9", "D9 answer" or "D13").
        flight_over_ms: by transaction id: when, monotonic, nothing of it can be on its way any more (D13).
        uncounted: by transaction id: how many of its attempts since the start are no reason to give up: no byte of them
            left (D6), or the acquirer put off everything else as well (D9).
        untaken: by transaction id: how many of its attempts since the start the acquirer did nothing with: no byte left
            (D6), or it said so (NOT_TAKEN_IN).
        put_off: by transaction id: how much the acquirer had decided (LinkHealth.decided) when it put it off last.
        queued: stands in the line of lanes that may replay.
        waiting: requests that wait for the lane, first in line first (D20).
    """

    name: str
    busy: Run | None = None
    owing: bool = False
    heads: deque[Stored] = field(default_factory=deque)
    more: bool = True
    fetching: int = 0
    holds: int = 0
    turns: deque[Callable[[], None]] = field(default_factory=deque)
    runs: int = 0
    blocked_until_ms: int = 0
    blocked_by: str = ""
    flight_over_ms: dict[int, int] = field(default_factory=dict)
    uncounted: dict[int, int] = field(default_factory=dict)
    untaken: dict[int, int] = field(default_factory=dict)
    put_off: dict[int, int] = field(default_factory=dict)
    queued: bool = False
    waiting: deque[Run] = field(default_factory=deque)

    @property
    def free(self) -> bool:
        """Nothing is under way, owed or waiting: a request may be asked online at once."""
        return not (self.busy or self.owing or self.holds or self.waiting)

    @property
    def may_replay(self) -> bool:
        """Something is owed, and nothing forbids to look at it now."""
        return self.owing and not (self.busy or self.holds or self.blocked_until_ms or self.fetching)

    @property
    def idle(self) -> bool:
        """Nothing is worth keeping in memory, and nobody refers to this lane: there are never two of one name."""
        return self.free and not (self.fetching or self.queued or self.runs)

    def owes_more(self, *, in_order: bool) -> None:
        """Something was added to what is owed: behind everything read ahead, or perhaps before it."""
        self.owing = True
        self.more = True
        if not in_order:
            self.forget_heads()

    def forget_heads(self) -> None:
        """The journal knows better: read again before the next replay."""
        self.heads.clear()
        self.more = True
        self.fetching = 0

    def forget_attempts(self, number: int) -> None:
        """A transaction's attempts begin anew, or are over."""
        self.uncounted.pop(number, None)
        self.untaken.pop(number, None)
        self.put_off.pop(number, None)


class Lanes:
    """The lanes in memory and the line of those that may replay now."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self.line: deque[Lane] = deque()
        """Lanes that may replay, first in line first; a lane may stand here twice (`next_ready`)."""
        self.sooner: deque[Lane] = deque()
        """Lanes that go before all in `line`."""
        self.waiting_count = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def of(self, name: str) -> Lane:
        """The lane of that name, made when it is not in memory."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name)
        return lane

    def get(self, name: str) -> Lane | None:
        """The lane of that name, if something is going on in it."""
        return self._lanes.get(name)

    def ready(self, lane: Lane, *, first: bool = False) -> None:
        """Put the lane in line, if it has something to replay and nothing forbids it.

        One in which a request waits stands before all others (D20).

        Args:
            first: it is the next one: it was, and has only been read from the journal meanwhile.
        """
        if lane.queued or not lane.may_replay:
            return
        lane.queued = True
        if first:
            self.sooner.appendleft(lane)
        elif lane.waiting:
            self.sooner.append(lane)
        else:
            self.line.append(lane)

    def next_ready(self) -> Lane | None:
        """Take the first lane of the line that still may replay."""
        for line in (self.sooner, self.line):
            while line:
                lane = line.popleft()
                if lane.queued:  # else it stood here a second time, and has had its turn
                    lane.queued = False
                    if lane.may_replay:
                        return lane
        return None

    @property
    def any_ready(self) -> bool:
        """Whether a lane stands in the line."""
        return bool(self.line or self.sooner)

    def take_turn(self, lane: Lane, begin: Callable[[], None]) -> None:
        """Hold the lane, and call `begin` as soon as those who hold it to change a row are done."""
        lane.holds += 1
        lane.forget_heads()
        lane.turns.append(begin)
        if len(lane.turns) == 1:
            begin()

    def end_turn(self, lane: Lane) -> None:
        """The change is durable, or there is none: the next one reads the row anew. The lane may be free now."""
        lane.holds -= 1
        lane.turns.popleft()
        if lane.turns:
            lane.turns[0]()

    def unblock_all(self, rule: str) -> None:
        """Lift every block made by that rule: what held them back was the outage, and it is over."""
        for lane in self._lanes.values():
            if lane.blocked_by == rule:
                lane.blocked_until_ms = 0
                lane.blocked_by = ""
                self.ready(lane)

    def forget_if_idle(self, lane: Lane) -> None:
        """Keep memory to what is going on (INV-9)."""
        if lane.idle:
            self._lanes.pop(lane.name, None)

    def wait(self, run: Run) -> None:
        """Let a request wait for its lane, behind those that wait already; the lane goes before others (D20)."""
        run.lane.waiting.append(run)
        self.waiting_count += 1
        if run.lane.queued:
            self.sooner.append(run.lane)

    def first_waiting(self, lane: Lane) -> Run | None:
        """Take the first request that waits for this lane."""
        if not lane.waiting:
            return None
        self.waiting_count -= 1
        return lane.waiting.popleft()

    def waits_no_more(self, run: Run) -> bool:
        """Take a request out of its lane's line; False when it does not stand there any more."""
        if run not in run.lane.waiting:
            return False
        run.lane.waiting.remove(run)
        self.waiting_count -= 1
        return True

    def owing_count(self) -> int:
        """How many lanes owe something."""
        return sum(1 for lane in self._lanes.values() if lane.owing)

    def with_waiting(self) -> list[Lane]:
        """Lanes in which a request waits."""
        return [lane for lane in self._lanes.values() if lane.waiting] if self.waiting_count else []
