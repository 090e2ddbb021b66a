"""The keys of a running gateway: rotation, retirement, destruction, and the epochs of sensitive data.

How a change is made, so that losing power between any two steps loses nothing, is in keyring_in_use.py.

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
from typing import Final

from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.key_wrapping import KeyEncryptionKey
from gateway.journal.keyring import KeyPurpose, KeyRecord, Keyring, KeyState
from gateway.journal.port import JournalError, JournalKeysWrong
from gateway.operations.approvals import ApprovalRefused, Approvals, Kept, Request
from gateway.operations.key_reports import KeysReport, keys_report
from gateway.operations.keyring_in_use import JournalOfKeys, KeyringInUse, on_disk
from gateway.operations.view import CommandResult, KeysStatus

DESTROY_KEY: Final = "destroy-key"
"""The action of a request that a key be destroyed; its subject is "key N"."""

TURN_EVERY_S: Final = 60.0
_ENDS_WITHIN_S: Final = 5.0
_HOUR_MS: Final = 3_600_000
_SUBJECT: Final = re.compile(r"key ([1-9][0-9]{0,9})")
_GATEWAY: Final = "gateway"


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
        self._used = KeyringInUse(settings.folder, kek, keyring, journal, utc_ms, report, adopted)
        self._approvals = approvals
        self._utc_ms = utc_ms
        self._report = report
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._told_old_ms = 0
        self._failing = ""
        self._quarantined = 0
        """The oldest in quarantine whose sensitive data is kept, as the last turn found it."""

    @property
    def keyring(self) -> Keyring:
        """As its file has it."""
        return self._used.keyring

    # -- life

    async def settle(self, *, must: bool = False) -> None:
        """Tell what an interruption has left untold, and who the approvers are if that has changed.

        A full disk, or a folder of the keys that cannot be written, is reported and tried again: payments go on.

        Raises:
            JournalError: the journal has stopped.
            KeyChangeRefused, ApprovalRefused, JournalKeysWrong, OSError: `must`, and not all of it could be told.
        """
        try:
            async with self._lock:
                await self._settle(must=must)
        except (ApprovalRefused, JournalKeysWrong, OSError) as error:
            if must:
                raise
            self._tell_failure(error)

    async def _settle(self, *, must: bool = False) -> None:
        """The lock is held."""
        names = await on_disk(self._approvals.changed_approvers)
        if names is not None:
            why = "the configuration names these people and public keys"
            await self._used.add_event("approvers", _GATEWAY, why, facts=names)
            await on_disk(partial(self._approvals.told_approvers, names))
        await self._used.settle(must=must)
        for kept in await on_disk(self._approvals.waiting):
            if self._done_already(kept.request):  # a crash came before it was finished, or the list was put back
                await on_disk(partial(self._approvals.finish, kept.request.id))

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
                await self._used.settle()
                await self._next_epoch()
                await self._end_epochs()
                await self._settle()  # last: a list of requests that cannot be read keeps no epoch open
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
        age_ms = self._utc_ms() - record.created_ms
        if age_ms >= self._settings.epoch_ms:
            why = f"an epoch is {self._settings.epoch_ms / _HOUR_MS:g} h long"
            await self._used.rotate(KeyPurpose.SENSITIVE, _GATEWAY, why)
        elif age_ms <= -_HOUR_MS:  # else it would last until that day, and longer
            why = f"the clock was set back: the epoch began {-age_ms / _HOUR_MS:.1f} h from now"
            await self._used.rotate(KeyPurpose.SENSITIVE, _GATEWAY, why)

    async def _end_epochs(self) -> None:
        ended = [
            record
            for record in self._of_sensitive_data()
            if self.keyring.state(record) is KeyState.RETIRED and record.last_sequence
        ]
        if not ended:
            self._quarantined = 0
            return
        needs = await self._used.journal.key_needs()
        self._quarantined = min(needs.sensitive_quarantined, default=0)
        for record in ended:
            if record.id not in needs.sensitive:
                await self._used.destroy(record.id, _GATEWAY, "the last transaction of its epoch is final", None)

    def _of_sensitive_data(self) -> list[KeyRecord]:
        records = sorted(self.keyring.records.values(), key=lambda each: each.id)
        return [each for each in records if each.purpose is KeyPurpose.SENSITIVE and each.wrapped is not None]

    def status(self) -> KeysStatus:
        """What status and metrics tell."""
        oldest = self._of_sensitive_data()[0].id
        # It is not younger than any later one, whatever the clock said when it began.
        began_ms = min(
            record.created_ms
            for record in self.keyring.records.values()
            if record.purpose is KeyPurpose.SENSITIVE and record.id >= oldest
        )
        age_ms = max(0, self._utc_ms() - began_ms)
        return KeysStatus(
            sensitive_epoch_age_ms=age_ms,
            sensitive_epochs_open=len(self._of_sensitive_data()),
            sensitive_epoch_overdue=age_ms > self._settings.alarm_ms,
            events_untold=len(self.keyring.untold),
            sensitive_quarantined=self._quarantined,
        )

    def _tell_age(self) -> None:
        status, now_ms = self.status(), self._utc_ms()
        if status.sensitive_epoch_overdue and not 0 <= now_ms - self._told_old_ms < _HOUR_MS:
            self._told_old_ms = now_ms
            why = "a transaction with sensitive data is not final; `holdfast queue list` shows what is owed"
            if status.sensitive_quarantined:
                why += f"; transaction {status.sensitive_quarantined} is in quarantine, and its sensitive data is kept"
            facts = {
                "age_h": f"{status.sensitive_epoch_age_ms / _HOUR_MS:.1f}",
                "limit_h": f"{self._settings.alarm_ms / _HOUR_MS:g}",
                "why": why,
            }
            self._report("keys.sensitive-epoch-old", facts)

    # -- what operators ask for

    async def listed(self) -> KeysReport:
        """Every key, destroyed ones included, and what waits for a second person.

        Raises:
            ApprovalRefused: the list of requests cannot be read.
        """
        kept = await on_disk(self._approvals.waiting)
        waiting = [each for each in kept if not self._done_already(each.request)]
        return keys_report(self.keyring, self._used.kek, self._settings.folder, waiting)

    async def rotate(self, purpose: KeyPurpose, who: str, why: str) -> CommandResult:
        """Make a new key current.

        Raises:
            KeyChangeRefused, JournalError: nothing was changed, or the message says what was.
        """
        async with self._lock:
            was = self.keyring.current.get(purpose, 0)
            number = await self._used.rotate(purpose, who, why)
        more = (
            f"key {was} signs beside it until `holdfast keys retire {was} --why ...`"
            if purpose is KeyPurpose.LOG
            else f"what was sealed with key {was} opens with it"
        )
        return CommandResult(True, f"key {number} is the {purpose.value} key now; {more}")

    async def retire(self, number: int, who: str, why: str) -> CommandResult:
        """End the time in which an older log key signs; raises as `rotate`."""
        async with self._lock:
            await self._used.retire(number, who, why)
        return CommandResult(
            True,
            f"key {number} signs nothing more; two people remove it, beginning with "
            f"`holdfast keys destroy {number} --who NAME --why ... --key FILE`",
        )

    async def rewrap(self, source: str, kek: KeyEncryptionKey | None, who: str, why: str) -> CommandResult:
        """Wrap every key under another key-encryption key (`source` names it, None is a new one in the folder)."""
        async with self._lock:
            await self._used.rewrap(kek, who, why)
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
            await self._used.refuse_needed(number)
            if request.gateway != self.keyring.name:
                raise ApprovalRefused(f"the request is for keyring {request.gateway}, this is {self.keyring.name}")
            kept = await on_disk(partial(self._approvals.ask, request, signature))
            done = f"request {request.id} waits for a second person"
            await self._event("destruction asked for", request.who, request.why, (number,), kept, done)
        return CommandResult(
            True,
            f"request {request.id}: another person confirms it within 24 hours with "
            f"`holdfast keys approve {request.id} --who NAME --key FILE`",
        )

    async def approve(self, number: str, who: str, signature: str) -> CommandResult:
        """Have a second person confirm a request, and do it; raises as `ask`. What is done is never done again."""
        async with self._lock:
            request = await on_disk(partial(self._approvals.pending, number))
            key = self._subject(request)
            if self._done_already(request):
                await on_disk(partial(self._approvals.finish, number))
                raise ApprovalRefused(
                    f"key {key} is destroyed already: request {number} has nothing more to approve, and is taken off "
                    f"the list"
                )
            await self._used.refuse_needed(key)
            approved = await on_disk(partial(self._approvals.approve, number, who, signature))
            await self._used.destroy(key, f"{request.who}, {who}", request.why, approved.evidence())
            with contextlib.suppress(ApprovalRefused):  # it is done, and the next turn takes it off the list
                await on_disk(partial(self._approvals.finish, number))
        return CommandResult(True, f"key {key} is destroyed; what was sealed with it cannot be opened any more")

    async def withdraw(self, number: str, who: str, why: str) -> CommandResult:
        """Take a request back; raises as `ask`."""
        async with self._lock:
            request = await on_disk(partial(self._approvals.pending, number))
            keys = (self._subject(request),) if request.action == DESTROY_KEY else ()
            kept = await on_disk(partial(self._approvals.withdraw, number))
            await self._event("request withdrawn", who, why, keys, kept, f"request {number} is withdrawn")
        return CommandResult(True, f"request {number} is withdrawn")

    # -- steps; the lock is held

    def _subject(self, request: Request) -> int:
        found = _SUBJECT.fullmatch(request.subject)
        if request.action != DESTROY_KEY or found is None:
            raise ApprovalRefused(
                f"this is not about a key but asks to {request.action}: a disclosure is approved by "
                f"`holdfast audit disclose TXN --part PART --approve {request.id}`, a settlement by a running gateway"
            )
        return int(found[1])

    def _done_already(self, request: Request) -> bool:
        """Whether the keyring, and not the list, says that what was asked for is done: a list can be put back."""
        found = _SUBJECT.fullmatch(request.subject) if request.action == DESTROY_KEY else None
        record = self.keyring.records.get(int(found[1])) if found is not None else None
        return record is not None and self.keyring.state(record) is KeyState.DESTROYED

    async def _event(self, what: str, who: str, why: str, keys: tuple[int, ...], kept: Kept, done: str) -> None:
        try:
            await self._used.add_event(what, who, why, keys=keys, evidence=kept.evidence())
        except JournalKeysWrong as error:
            raise JournalKeysWrong(f"{done}; but an entry may never tell of it: {error}") from error
        await self._used.settle()
