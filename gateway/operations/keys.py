"""The keys of a running gateway: rotation, retirement, destruction, and the epochs of sensitive data.

Every change is made in this order, so that losing power between any two steps loses nothing:

    the keyring's file is replaced, with the event in it    durable, and nothing is sealed with the new key yet
    the journal notes its list of keys                      a lost keyring is named at the next opening
    records are sealed with the new key
    an entry of the journal tells the event                 told again, under the same number, after a crash before this
    the event leaves the keyring's file

The epoch key of sensitive data follows another by itself (`journal.sensitive_epoch_h`), and is destroyed by itself when
the last transaction that has something sealed with it is final: that is policy, and needs nobody. Whatever else is
destroyed needs two people (approvals.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from gateway.core.lifecycle import EntryKind
from gateway.journal import key_changes
from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.key_wrapping import KeyEncryptionKey
from gateway.journal.keyring import KeyPurpose, KeyRecord, Keyring, KeyState
from gateway.journal.port import JournalError, JournalFull, JournalKeysWrong, KeyNeeds
from gateway.operations.approvals import ApprovalRefused, Approvals, Kept, Request
from gateway.operations.key_reports import KeysReport, keys_report
from gateway.operations.view import CommandResult, KeysStatus

DESTROY_KEY: Final = "destroy-key"
"""The action of a request that a key be destroyed; its subject is "key N"."""

TURN_EVERY_S: Final = 60.0
_ENDS_WITHIN_S: Final = 5.0
_HOUR_MS: Final = 3_600_000
_SUBJECT: Final = re.compile(r"key ([1-9][0-9]{0,9})")
_GATEWAY: Final = "gateway"
_T = TypeVar("_T")


class JournalOfKeys(Protocol):
    """What this needs of a journal (port.Journal has it)."""

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal."""

    async def adopt_keys(self, keyring: Keyring) -> None:
        """See port.Journal."""

    async def key_needs(self) -> KeyNeeds:
        """See port.Journal."""


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the keys lie, and how long an epoch of sensitive data is.

    Attributes:
        folder: of `keyring.json`.
        epoch_ms: age at which the next epoch begins.
        alarm_ms: age of the oldest open epoch above which an alarm is raised.
    """

    folder: Path
    epoch_ms: int = 24 * _HOUR_MS
    alarm_ms: int = 72 * _HOUR_MS


class Keys:
    """The keys that one journal is written with. One change at a time; the disk's work is done on other threads.

    Reports, by name: `keys.changed`; `keys.failed`, when what is due by itself could not be done (it is tried again);
    `keys.sensitive-epoch-old`, once an hour, while an epoch has been open for longer than it should.
    """

    def __init__(
        self,
        settings: KeySettings,
        kek: KeyEncryptionKey | None,
        keyring: Keyring,
        journal: JournalOfKeys,
        approvals: Approvals,
        utc_ms: Callable[[], int],
        report: Callable[[str, dict[str, str]], None],
        adopted: Callable[[Keyring], None] = lambda _: None,
    ) -> None:
        """`kek` is None where it lies in the folder; `adopted` is told each keyring that has come into use."""
        self._settings = settings
        self._kek = kek
        self._journal = journal
        self._approvals = approvals
        self._utc_ms = utc_ms
        self._report = report
        self._adopted = adopted
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._in_use = keyring
        self._told: dict[int, int] = {}
        """Sequence of the entry that tells of an event, while the keyring's file does not know it yet."""
        self._told_old_ms = 0
        self._failing = ""
        self.keyring = keyring

    # -- life

    async def settle(self) -> None:
        """Tell what an interruption has left untold, and who the approvers are if that has changed.

        A full disk, or a folder of the keys that cannot be written, is reported and tried again: payments go on.

        Raises:
            JournalError: the journal has stopped.
        """
        try:
            await self._settle()
        except (ApprovalRefused, JournalKeysWrong, OSError) as error:
            self._tell_failure(error)

    async def _settle(self) -> None:
        async with self._lock:
            names = await self._on_disk(self._approvals.changed_approvers)
            if names is not None:
                self.keyring = await self._on_disk(
                    partial(
                        key_changes.add_event, self._settings.folder, self._kek, "approvers", _GATEWAY,
                        "the configuration names these people and public keys", self._utc_ms(), facts=names,
                    )
                )  # fmt: skip
                await self._on_disk(partial(self._approvals.told_approvers, names))
            await self._settled()
            for kept in await self._on_disk(self._approvals.waiting):
                if self._done_already(kept.request):  # a crash came before it was finished, or the list was put back
                    await self._on_disk(partial(self._approvals.finish, kept.request.id))

    def start(self) -> None:
        """Do what is due by itself, now and every minute, until `close`."""
        if self._task is None:
            self._task = asyncio.create_task(self._turn_on(), name="keys")

    async def close(self) -> None:
        """Do nothing more by itself; a change under way is finished. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            with contextlib.suppress(TimeoutError):  # a journal that hangs never ends a change
                async with asyncio.timeout(_ENDS_WITHIN_S), self._lock:
                    task.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _turn_on(self) -> None:
        while True:
            await self.turn()
            await asyncio.sleep(TURN_EVERY_S)

    async def turn(self) -> None:
        """Do what is due by itself: the next epoch, the end of finished ones, what a full disk has left untold.

        Never raises for the journal's or the folder's sake: that is reported, once for each reason, and tried again.
        """
        try:
            async with self._lock:
                await self._settled()
                await self._next_epoch()
                await self._end_epochs()
            self._failing = ""
        except (JournalError, KeyChangeRefused, ApprovalRefused, OSError) as error:
            self._tell_failure(error)
        self._tell_age()

    def _tell_failure(self, error: Exception) -> None:
        if str(error) != self._failing:
            self._failing = str(error)
            self._report("keys.failed", {"reason": str(error), "consequence": "it is tried again every minute"})

    async def _next_epoch(self) -> None:
        record = self.keyring.records[self.keyring.current[KeyPurpose.SENSITIVE]]
        if self._utc_ms() - record.created_ms >= self._settings.epoch_ms:
            why = f"an epoch is {self._settings.epoch_ms / _HOUR_MS:g} h long"
            await self._rotate(KeyPurpose.SENSITIVE, _GATEWAY, why)

    async def _end_epochs(self) -> None:
        ended = [
            record
            for record in self._of_sensitive_data()
            if self.keyring.state(record) is KeyState.RETIRED and record.last_sequence
        ]
        if not ended:
            return
        needs = await self._journal.key_needs()
        for record in ended:
            if not 0 < needs.oldest_sensitive <= record.last_sequence:
                await self._destroy(record.id, _GATEWAY, "the last transaction of its epoch is final", None)

    def _of_sensitive_data(self) -> list[KeyRecord]:
        records = sorted(self.keyring.records.values(), key=lambda each: each.id)
        return [each for each in records if each.purpose is KeyPurpose.SENSITIVE and each.wrapped is not None]

    def status(self) -> KeysStatus:
        """What status and metrics tell."""
        age_ms = max(0, self._utc_ms() - self._of_sensitive_data()[0].created_ms)
        return KeysStatus(
            sensitive_epoch_age_ms=age_ms,
            sensitive_epochs_open=len(self._of_sensitive_data()),
            sensitive_epoch_overdue=age_ms > self._settings.alarm_ms,
            events_untold=len(self.keyring.untold),
        )

    def _tell_age(self) -> None:
        status, now_ms = self.status(), self._utc_ms()
        if status.sensitive_epoch_overdue and now_ms - self._told_old_ms >= _HOUR_MS:
            self._told_old_ms = now_ms
            facts = {
                "age_h": f"{status.sensitive_epoch_age_ms / _HOUR_MS:.1f}",
                "limit_h": f"{self._settings.alarm_ms / _HOUR_MS:g}",
                "why": "a transaction with sensitive data is not final; `holdfast queue list` shows what is owed",
            }
            self._report("keys.sensitive-epoch-old", facts)

    # -- what operators ask for

    async def listed(self) -> KeysReport:
        """Every key, destroyed ones included, and what waits for a second person.

        Raises:
            ApprovalRefused: the list of requests cannot be read.
        """
        kept = await self._on_disk(self._approvals.waiting)
        waiting = [each for each in kept if not self._done_already(each.request)]
        return keys_report(self.keyring, self._kek, self._settings.folder, waiting)

    async def rotate(self, purpose: KeyPurpose, who: str, why: str) -> CommandResult:
        """Make a new key current.

        Raises:
            KeyChangeRefused, JournalError: nothing was changed, or the message says what was.
        """
        async with self._lock:
            was = self.keyring.current.get(purpose, 0)
            number = await self._rotate(purpose, who, why)
        more = (
            f"key {was} signs beside it until `holdfast keys retire {was}`"
            if purpose is KeyPurpose.LOG
            else f"what was sealed with key {was} opens with it"
        )
        return CommandResult(True, f"key {number} is the {purpose.value} key now; {more}")

    async def retire(self, number: int, who: str, why: str) -> CommandResult:
        """End the time in which an older log key signs; raises as `rotate`."""
        async with self._lock:
            await self._changed(key_changes.retire, number, who, why)
        return CommandResult(True, f"key {number} signs nothing more; `holdfast keys destroy {number}` removes it")

    async def rewrap(self, source: str, kek: KeyEncryptionKey | None, who: str, why: str) -> CommandResult:
        """Wrap every key under another key-encryption key (`source` names it, None is a new one in the folder)."""
        async with self._lock:
            self.keyring = await self._on_disk(
                partial(key_changes.rewrap, self._settings.folder, self._kek, kek, who, why, self._utc_ms())
            )
            self._kek = kek
            await self._settled()
        return CommandResult(
            True,
            f'all keys are wrapped anew; key_encryption_key in [journal] must be "{source}" at the next start, '
            f"and copies of the keyring that were made before open with the old key only",
        )

    async def ask(self, request: Request, signature: str) -> CommandResult:
        """Keep a request for what needs two people; its event becomes an entry.

        Raises:
            ApprovalRefused, KeyChangeRefused, JournalError: nothing was kept, or the message says what was.
        """
        async with self._lock:
            number = self._subject(request)
            await self._refuse_needed(number)
            if request.gateway != self.keyring.name:
                raise ApprovalRefused(f"the request is for keyring {request.gateway}, this is {self.keyring.name}")
            kept = await self._on_disk(partial(self._approvals.ask, request, signature))
            await self._event("destruction asked for", request.who, request.why, (number,), kept)
        return CommandResult(
            True,
            f"request {request.id}: another person confirms it within 24 hours with "
            f"`holdfast keys approve {request.id}`",
        )

    async def approve(self, number: str, who: str, signature: str) -> CommandResult:
        """Have a second person confirm a request, and do it; raises as `ask`. What is done is never done again."""
        async with self._lock:
            request = await self._on_disk(partial(self._approvals.pending, number))
            key = self._subject(request)
            if self._done_already(request):
                await self._on_disk(partial(self._approvals.finish, number))
                raise ApprovalRefused(
                    f"key {key} is destroyed already: request {number} has nothing more to approve, and is taken off "
                    f"the list"
                )
            await self._refuse_needed(key)
            approved = await self._on_disk(partial(self._approvals.approve, number, who, signature))
            await self._destroy(key, f"{request.who}, {who}", request.why, approved)
            await self._on_disk(partial(self._approvals.finish, number))
        return CommandResult(True, f"key {key} is destroyed; what was sealed with it cannot be opened any more")

    async def withdraw(self, number: str, who: str, why: str) -> CommandResult:
        """Take a request back; raises as `ask`."""
        async with self._lock:
            request = await self._on_disk(partial(self._approvals.pending, number))
            keys = (self._subject(request),) if request.action == DESTROY_KEY else ()
            kept = await self._on_disk(partial(self._approvals.withdraw, number))
            await self._event("request withdrawn", who, why, keys, kept)
        return CommandResult(True, f"request {number} is withdrawn")

    # -- steps; the lock is held

    def _subject(self, request: Request) -> int:
        found = _SUBJECT.fullmatch(request.subject)
        if request.action != DESTROY_KEY or found is None:
            raise ApprovalRefused(
                f"this is not about a key but asks to {request.action}: a disclosure is approved by "
                f"`holdfast audit disclose TXN --part PART --approve {request.id}`"
            )
        return int(found[1])

    def _done_already(self, request: Request) -> bool:
        """Whether the keyring, and not the list, says that what was asked for is done: a list can be put back."""
        found = _SUBJECT.fullmatch(request.subject) if request.action == DESTROY_KEY else None
        record = self.keyring.records.get(int(found[1])) if found is not None else None
        return record is not None and self.keyring.state(record) is KeyState.DESTROYED

    async def _rotate(self, purpose: KeyPurpose, who: str, why: str) -> int:
        await self._changed(key_changes.rotate, purpose, who, why)
        return self.keyring.current[purpose]

    async def _destroy(self, number: int, who: str, why: str, approved: Kept | None) -> None:
        evidence = None if approved is None else approved.evidence()
        self.keyring = await self._on_disk(
            partial(
                key_changes.destroy, self._settings.folder, self._kek, number, who, why, self._utc_ms(), evidence
            )
        )  # fmt: skip
        await self._settled()

    async def _event(self, what: str, who: str, why: str, keys: tuple[int, ...], kept: Kept) -> None:
        self.keyring = await self._on_disk(
            partial(
                key_changes.add_event, self._settings.folder, self._kek, what, who, why, self._utc_ms(),
                keys=keys, evidence=kept.evidence(),
            )
        )  # fmt: skip
        await self._settled()

    async def _refuse_needed(self, number: int) -> None:
        """Raises KeyChangeRefused where something that is owed may need the key."""
        record = key_changes.known(self.keyring, number)
        key_changes.refuse_in_use(self.keyring, record)
        if record.purpose is KeyPurpose.LOG:
            return
        if not record.last_sequence:
            raise KeyChangeRefused(f"key {number}: no entry tells of its end yet; try again when there is room on disk")
        needs = await self._journal.key_needs()
        if record.purpose is KeyPurpose.ACCOUNT and 0 < needs.oldest_unsettled <= record.last_sequence:
            raise KeyChangeRefused(
                f"key {number} is needed: transaction {needs.oldest_unsettled} is not final; "
                f"see `holdfast queue show {needs.oldest_unsettled}`"
            )
        if record.purpose is KeyPurpose.SENSITIVE and 0 < needs.oldest_sensitive <= record.last_sequence:
            raise KeyChangeRefused(
                f"key {number} is needed: the sensitive data of transaction {needs.oldest_sensitive} is still owed; "
                f"see `holdfast queue show {needs.oldest_sensitive}`"
            )

    async def _changed(self, change: Callable[..., Keyring], *what: object) -> None:
        made = partial(change, self._settings.folder, self._kek, *what, self._utc_ms())
        self.keyring = await self._on_disk(made)
        await self._settled(must=True)

    async def _settled(self, *, must: bool = False) -> None:
        """Take into use what the file has, and tell its events.

        Raises:
            KeyChangeRefused: `must`, and the disk is full: what was changed is kept, and told as soon as there is room.
            JournalError: the journal has stopped; the next start goes on.
        """
        try:
            if self._in_use != self.keyring:
                await self._journal.adopt_keys(self.keyring)
                self._in_use = self.keyring
                self._adopted(self.keyring)
            for event in self.keyring.untold:
                sequence = self._told.get(event.number, 0)
                if not sequence:
                    sequence = self._told[event.number] = await self._journal.note(EntryKind.KEY, event.detail())
                told = partial(key_changes.event_told, self._settings.folder, self._kek, event.number, sequence)
                self.keyring = self._in_use = await self._on_disk(told)
                del self._told[event.number]
                facts = {"what": event.what, "who": event.who, "entry": str(sequence)}
                self._report("keys.changed", {**facts, "keys": ", ".join(str(each["key"]) for each in event.keys)})
        except JournalFull:
            if must:
                raise KeyChangeRefused(
                    "the keyring is changed and durable, but the journal's disk is full: what is new comes into use, "
                    "and is told by an entry, as soon as there is room"
                ) from None

    async def _on_disk(self, work: Callable[[], _T]) -> _T:
        """Files are synced on another thread; a change that has begun is ended, whoever is cancelled."""
        return await asyncio.shield(asyncio.to_thread(work))
