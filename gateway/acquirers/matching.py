"""Whose answer is it: sends in flight, their deadlines, and sends whose answer may still come (D6, D16).

Plain synchronous code without clock or IO: times come in as monotonic milliseconds.

A match key is the MTI of the answer with the values of the host's match fields. In flight it is unique. After a send
has timed out, its key stays *abandoned* for a bounded time, because the answer may still come:

    key of a new Send is   | and it is                        | then
    -----------------------+----------------------------------+---------------------------------------------------
    in flight              | whatever                         | refused: two answers could not be told apart
    abandoned              | a repeat of the same transaction | sent; the next answer is the repeat's, because the
                           |                                  | host knows both as one; the earlier token is closed
    abandoned              | another transaction (STAN reuse) | refused, until the key has aged out
    abandoned              | a probe                          | sent: whichever echo comes, the host is there

So an answer is never given to a transaction that it does not belong to. Messages are of the same transaction when no
field that both carry differs, MAC, reason and the fields that a repeat makes fresh left aside (D8). Once the answer of
an abandoned key has come, the key is *spent* until it ages out: one more answer is a duplicate and is dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from operator import itemgetter

from gateway.core.effects import Purpose
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import HostRules

MatchKey = tuple[str, ...]
_STAN = 11
_MAC_FIELDS = frozenset({64, 128})


@dataclass(slots=True)
class Flight:
    """A message that was handed to a connection and is not settled.

    Attributes:
        endpoint: index of the endpoint that it went to.
        repeated: an earlier send of its key was abandoned, so that more than one answer may come.
    """

    token: int
    purpose: Purpose
    key: MatchKey
    endpoint: int
    fields: Fields = field(repr=False)
    timeout_ms: int
    deadline_ms: int
    repeated: bool = False


@dataclass(slots=True, frozen=True)
class Late:
    """The answer of a send that has been reported as timed out."""

    token: int


class NoFlight(Enum):
    """Why an answer belongs to nobody."""

    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class _Abandoned:
    token: int | None  # None: spent
    traits: dict[int, int]
    since_ms: int


class Matching:
    """The sends of one link. Its size is bounded by in-flight limits of the endpoints and by `abandoned_max`."""

    def __init__(self, rules: HostRules, *, abandoned_max: int, abandoned_age_ms: int) -> None:
        self._match_fields = rules.match_fields
        self._match = _getter(rules.match_fields)
        self._volatile = rules.repeat_refresh | _MAC_FIELDS | {rules.reason_field}
        self._abandoned_max = abandoned_max
        self._abandoned_age_ms = abandoned_age_ms
        self._flights: dict[MatchKey, Flight] = {}
        # One queue per distinct timeout: within it deadlines rise, so the head is the earliest, and taking an
        # answered flight out costs no search.
        self._queues: dict[int, OrderedDict[MatchKey, Flight]] = {}
        self._abandoned: OrderedDict[MatchKey, _Abandoned] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def abandoned(self) -> int:
        """Keys that are remembered for late answers."""
        return len(self._abandoned)

    def key(self, answer_mti: str, fields: Fields) -> MatchKey:
        """The match key of an answer, or of the message that it answers."""
        try:
            return (answer_mti, *self._match(fields))
        except KeyError:
            return (answer_mti, *[fields.get(number, "") for number in self._match_fields])

    def bare_key(self, answer_mti: str, fields: Fields) -> MatchKey:
        """The key of a message that carries its STAN alone, as echo tests do."""
        return (answer_mti, *[fields.get(n, "") if n == _STAN else "" for n in self._match_fields])

    def refusal(self, key: MatchKey, fields: Fields, purpose: Purpose, now_ms: int) -> str:
        """Why a message of this key must not be sent now; empty when it may."""
        if key in self._flights:
            return "match key in flight"
        if not self._abandoned:
            return ""
        self._age(now_ms)
        earlier = self._abandoned.get(key)
        if earlier is None or purpose is Purpose.PROBE or self._same(earlier.traits, fields):
            return ""
        return "match key awaits a late answer"

    def add(self, flight: Flight) -> None:
        """Take a send that is about to be written. Its key must not be refused."""
        if flight.key in self._flights:
            raise RuntimeError("a match key is in flight twice")
        flight.repeated = self._abandoned.pop(flight.key, None) is not None
        self._flights[flight.key] = flight
        queue = self._queues.get(flight.timeout_ms)
        if queue is None:
            queue = self._queues[flight.timeout_ms] = OrderedDict()
        queue[flight.key] = flight

    def answered(self, key: MatchKey, now_ms: int) -> Flight | Late | NoFlight:
        """Whose answer this is; each flight and each late answer is given out once."""
        flight = self._flights.get(key)
        if flight is not None:
            self._remove(flight)
            if flight.repeated:  # the answer to the earlier send may follow, and is not news then
                self._remember(key, _Abandoned(None, self._traits(flight.fields), now_ms))
            return flight
        self._age(now_ms)
        earlier = self._abandoned.get(key)
        if earlier is None:
            return NoFlight.UNKNOWN
        if earlier.token is None:
            return NoFlight.DUPLICATE
        late = Late(earlier.token)
        earlier.token = None
        return late

    def next_deadline_ms(self) -> int | None:
        """When the next flight times out; None while nothing is in flight."""
        return min((self._head(queue).deadline_ms for queue in self._queues.values()), default=None)

    def expire(self, now_ms: int) -> Iterator[Flight]:
        """Take out the flights whose time is over, one by one; their keys become abandoned."""
        for timeout_ms in list(self._queues):
            while (queue := self._queues.get(timeout_ms)) and self._head(queue).deadline_ms <= now_ms:
                yield self._abandon(self._head(queue), now_ms)

    def lost(self, endpoint: int | None, now_ms: int) -> list[Flight]:
        """Take out the flights of a broken connection (None: of all); their keys become abandoned."""
        flights = [f for f in self._flights.values() if endpoint is None or f.endpoint == endpoint]
        return [self._abandon(flight, now_ms) for flight in flights]

    @staticmethod
    def _head(queue: OrderedDict[MatchKey, Flight]) -> Flight:
        return next(iter(queue.values()))

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.key]
        queue = self._queues[flight.timeout_ms]
        del queue[flight.key]
        if not queue:
            del self._queues[flight.timeout_ms]

    def _abandon(self, flight: Flight, now_ms: int) -> Flight:
        self._remove(flight)
        self._remember(flight.key, _Abandoned(flight.token, self._traits(flight.fields), now_ms))
        return flight

    def _remember(self, key: MatchKey, abandoned: _Abandoned) -> None:
        self._age(abandoned.since_ms)
        self._abandoned[key] = abandoned
        if len(self._abandoned) > self._abandoned_max:
            self._abandoned.popitem(last=False)
            self.evicted += 1

    def _age(self, now_ms: int) -> None:
        oldest_ms = now_ms - self._abandoned_age_ms
        while self._abandoned and next(iter(self._abandoned.values())).since_ms <= oldest_ms:
            self._abandoned.popitem(last=False)

    def _traits(self, fields: Fields) -> dict[int, int]:
        # Hashes under the interpreter's random key, so that no card data stays in memory for the sake of matching.
        return {number: hash(value) for number, value in fields.items() if number not in self._volatile}

    @staticmethod
    def _same(traits: dict[int, int], fields: Fields) -> bool:
        return all(traits.get(number, hash(value)) == hash(value) for number, value in fields.items())


def _getter(numbers: tuple[int, ...]) -> Callable[[Fields], tuple[str, ...]]:
    """The values of these fields. It raises KeyError where one is missing."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return lambda fields: tuple([fields[number] for number in numbers])
