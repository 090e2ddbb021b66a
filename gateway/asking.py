"""What operators and tills ask of a running gateway, by tokens of their own: the core knows nothing of it.

Tokens of look-ups are below zero, so that they cannot be taken for the core's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from gateway.core.effects import Find, Load, OperatorReply
from gateway.core.events import Found, JournalEvent, Lookup
from gateway.core.transaction import Stored
from gateway.journal.port import Journal
from gateway.operations.view import CommandResult


class Asking:
    """Look-ups in the journal beside the core's, and commands that await their outcome."""

    def __init__(self) -> None:
        self._lookup_tokens = itertools.count(-1, -1)
        self._lookups: dict[int, asyncio.Future[list[Stored | Lookup]]] = {}
        self._operator_tokens = itertools.count(1)
        self._commands: dict[int, asyncio.Future[CommandResult]] = {}

    async def load(self, journal: Journal, number: int, key: str = "") -> Stored | Lookup:
        """One transaction with its messages; `key` as of Load."""
        token, looked_up = self._look_up()
        journal.load(Load(token, number, key))
        return (await looked_up)[0]

    async def find(self, journal: Journal, keys: tuple[str, ...]) -> list[Stored | Lookup]:
        """The newest transaction of each key."""
        token, looked_up = self._look_up()
        journal.find(Find(token, keys))
        return await looked_up

    def _look_up(self) -> tuple[int, asyncio.Future[list[Stored | Lookup]]]:
        token = next(self._lookup_tokens)
        future: asyncio.Future[list[Stored | Lookup]] = asyncio.get_running_loop().create_future()
        self._lookups[token] = future
        return token, future

    def for_the_core(self, events: Sequence[JournalEvent]) -> Sequence[JournalEvent]:
        """What of the journal's events concerns the core; the answers to look-ups go to whoever asked."""
        if not self._lookups:
            return events
        return [event for event in events if not self._looked_up(event)]

    def _looked_up(self, event: JournalEvent) -> bool:
        if not isinstance(event, Found) or (future := self._lookups.pop(event.token, None)) is None:
            return False
        if not future.done():
            future.set_result(list(event.results))
        return True

    def command(self) -> tuple[int, asyncio.Future[CommandResult]]:
        """A token for an operator's command, and its outcome to come."""
        token = next(self._operator_tokens)
        future: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        self._commands[token] = future
        return token, future

    def replied(self, reply: OperatorReply) -> None:
        """The core has answered a command."""
        future = self._commands.pop(reply.operator_token, None)
        if future is not None and not future.done():
            future.set_result(CommandResult(reply.done, reply.text))

    def close(self) -> None:
        """Nobody is answered any more."""
        for lookup in self._lookups.values():
            lookup.cancel()
        for command in self._commands.values():
            command.cancel()
