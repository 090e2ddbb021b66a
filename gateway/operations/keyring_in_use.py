"""The keyring in use, and how it is changed.

Every change is made in this order, so that losing power between any two steps loses nothing:

    the keyring's file is replaced, with the event in it    durable, and nothing is sealed with the new key yet
    the journal notes its list of keys                      a lost keyring is named at the next opening
    records are sealed with the new key
    an entry of the journal tells the event                 told again, under the same number, after a crash before this
    the event leaves the keyring's file

Where the disk fails in the first step with the file replaced already, nothing of it comes into use in this run before
the file was written once more, to the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gateway.core.lifecycle import EntryKind
from gateway.journal import key_changes
from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.key_wrapping import KEK_FILE, NEXT_KEK_FILE, KeyEncryptionKey
from gateway.journal.keyring import KeyPurpose, KeyRecord, Keyring, KeyringHalfWritten, load_keyring
from gateway.journal.port import JournalFull, JournalKeysWrong, KeyNeeds

_T = TypeVar("_T")


class JournalOfKeys(Protocol):
    """What this needs of a journal (port.Journal has it)."""

    async def note(self, kind: EntryKind, detail: str) -> int:
        """See port.Journal."""

    async def adopt_keys(self, keyring: Keyring) -> None:
        """See port.Journal."""

    async def key_needs(self) -> KeyNeeds:
        """See port.Journal."""


class KeyringInUse:
    """The keys that one journal is written with. Who calls sees to it that there is one change at a time.

    Reports `keys.changed`.

    Attributes:
        keyring: as its file has it; what is new in it is sealed with once the journal has noted it.
        kek: what wraps it; None where that lies in the folder.
        journal: that is written with it.
    """

    def __init__(
        self,
        folder: Path,
        kek: KeyEncryptionKey | None,
        keyring: Keyring,
        journal: JournalOfKeys,
        utc_ms: Callable[[], int],
        report: Callable[[str, dict[str, str]], None],
        adopted: Callable[[Keyring], None],
    ) -> None:
        """`folder` is that of `keyring.json`; `adopted` is told each keyring that has come into use."""
        self.keyring = keyring
        self.kek = kek
        self.journal = journal
        self._folder = folder
        self._utc_ms = utc_ms
        self._report = report
        self._adopted = adopted
        self._in_use = keyring
        self._half_written = False
        self._told: dict[int, int] = {}
        """Sequence of the entry that tells of an event, while the keyring's file does not know it yet."""

    async def rotate(self, purpose: KeyPurpose, who: str, why: str) -> int:
        """Make a new key current; returns its number. Raises: as `settle` where it must."""
        await self._replace(partial(key_changes.rotate, self._folder, self.kek, purpose, who, why, self._utc_ms()))
        await self.settle(must=True)
        return self.keyring.current[purpose]

    async def retire(self, number: int, who: str, why: str) -> None:
        """End the time in which an older log key signs; raises as `rotate`."""
        await self._replace(partial(key_changes.retire, self._folder, self.kek, number, who, why, self._utc_ms()))
        await self.settle(must=True)

    async def rewrap(self, kek: KeyEncryptionKey | None, who: str, why: str) -> None:
        """Wrap every key under another key-encryption key.

        Raises:
            KeyChangeRefused: nothing was changed; or all was, and the old key-encryption key is left in the folder.
        """
        change = partial(key_changes.rewrap, self._folder, self.kek, kek, who, why, self._utc_ms())
        try:
            await self._replace(change)
        except (JournalKeysWrong, OSError) as error:
            wrapped = await on_disk(partial(self._wrapped_by, kek))
            if wrapped is None:
                raise KeyChangeRefused(f"nothing was changed: {error}") from error
            self.keyring, self.kek = wrapped, kek
            await self.settle()
            raise KeyChangeRefused(self._left_over(kek, error)) from error
        self.kek = kek
        await self.settle()

    def _left_over(self, kek: KeyEncryptionKey | None, error: Exception) -> str:
        """What a person has to know where all keys are wrapped anew, and the rest of the change has failed."""
        kek_path, next_path = self._folder / KEK_FILE, self._folder / NEXT_KEK_FILE
        if kek is None:  # either file may hold the only key that opens the keyring, now or after the next start
            return (
                f"all keys are wrapped by a new key in the folder now, but the change is not ended ({error}): "
                f'key_encryption_key in [journal] must be "file" at the next start, which erases the old key and ends '
                f"it. Remove neither {kek_path} nor {next_path} by hand: the new key is in one of them"
            )
        return (
            f"all keys are wrapped by {kek.name} now, and key_encryption_key in [journal] must name it at the next "
            f"start; but the old key-encryption key may be left ({error}): see to it that {kek_path}, if it is there, "
            f"is overwritten and removed, for copies of the keyring that were made before open with it"
        )

    def _wrapped_by(self, kek: KeyEncryptionKey | None) -> Keyring | None:
        """The keyring where its file has changed and opens with this key, else None."""
        try:
            found = load_keyring(self._folder, kek)
        except JournalKeysWrong:
            return None
        return None if found == self.keyring else found

    async def destroy(self, number: int, who: str, why: str, evidence: dict[str, Any] | None) -> None:
        """Destroy a key; `evidence` is what two people have signed, None where policy ends an epoch."""
        await self._replace(
            partial(key_changes.destroy, self._folder, self.kek, number, who, why, self._utc_ms(), evidence)
        )
        await self.settle()

    async def add_event(
        self,
        what: str,
        who: str,
        why: str,
        *,
        keys: tuple[int, ...] = (),
        evidence: dict[str, Any] | None = None,
        facts: dict[str, str] | None = None,
    ) -> None:
        """Put an event into the keyring's file that changes no key; `settle` tells it."""
        await self._replace(
            partial(
                key_changes.add_event, self._folder, self.kek, what, who, why, self._utc_ms(),
                keys=keys, evidence=evidence, facts=facts,
            )
        )  # fmt: skip

    async def settle(self, *, must: bool = False) -> None:
        """Take into use what the file has, and tell its events.

        Raises:
            KeyChangeRefused: `must`, and the disk is full: what was changed is kept, and told as soon as there is room.
            JournalKeysWrong: the keyring's file cannot be written; the message says what is done all the same.
            JournalError: the journal has stopped; the next start goes on.
        """
        if self._half_written:
            await self._replace(partial(key_changes.write_anew, self._folder, self.kek))
        try:
            if self._in_use != self.keyring:
                await self.journal.adopt_keys(self.keyring)
                self._in_use = self.keyring
                self._adopted(self.keyring)
            for event in self.keyring.untold:
                sequence = self._told.get(event.number, 0)
                if not sequence:
                    sequence = self._told[event.number] = await self.journal.note(EntryKind.KEY, event.detail())
                await self._file_told(event.number, sequence)
                del self._told[event.number]
                facts = {"what": event.what, "who": event.who, "entry": str(sequence)}
                self._report("keys.changed", {**facts, "keys": ", ".join(str(each["key"]) for each in event.keys)})
        except JournalFull:
            if must:
                raise KeyChangeRefused(
                    "the keyring is changed and durable, but the journal's disk is full: what is new comes into use, "
                    "and is told by an entry, as soon as there is room"
                ) from None

    async def refuse_needed(self, number: int) -> None:
        """Raises KeyChangeRefused where something that is owed may need the key."""
        record = key_changes.known(self.keyring, number)
        key_changes.refuse_in_use(self.keyring, record)
        if record.purpose is KeyPurpose.LOG:
            return
        if not record.last_sequence:
            raise KeyChangeRefused(f"key {number}: no entry tells of its end yet; try again when there is room on disk")
        needs = await self.journal.key_needs()
        if record.purpose is KeyPurpose.ACCOUNT:
            _refuse_account(record, needs)
        elif record.id in needs.sensitive:
            owed = needs.sensitive[record.id]
            if owed in needs.sensitive_quarantined:
                raise KeyChangeRefused(
                    f"key {number} is needed: the sensitive data of transaction {owed}, which is in quarantine, may be "
                    f"owed still; it is shown by `holdfast audit disclose {owed} --part sensitive`"
                )
            raise KeyChangeRefused(
                f"key {number} is needed: the sensitive data of transaction {owed} is still owed; "
                f"see `holdfast queue show {owed}`"
            )

    async def _file_told(self, number: int, sequence: int) -> None:
        try:
            await self._replace(partial(key_changes.event_told, self._folder, self.kek, number, sequence))
        except JournalKeysWrong as error:
            raise JournalKeysWrong(
                f"the keys are changed, and entry {sequence} tells of it, but that cannot be noted beside them: {error}"
            ) from error
        self._in_use = self.keyring

    async def _replace(self, change: Callable[[], Keyring]) -> None:
        try:
            self.keyring = await on_disk(change)
        except KeyringHalfWritten:
            self._half_written = True
            raise
        self._half_written = False


def _refuse_account(record: KeyRecord, needs: KeyNeeds) -> None:
    if 0 < needs.oldest_unsettled <= record.last_sequence:
        raise KeyChangeRefused(
            f"key {record.id} is needed: transaction {needs.oldest_unsettled} is not final; "
            f"see `holdfast queue show {needs.oldest_unsettled}`"
        )
    if 0 < needs.oldest_quarantined <= record.last_sequence:
        raise KeyChangeRefused(
            f"key {record.id} is needed: transaction {needs.oldest_quarantined} is in quarantine, and may be owed "
            f"still; its message is shown by `holdfast audit disclose {needs.oldest_quarantined} --part account`"
        )


async def on_disk(work: Callable[[], _T]) -> _T:
    """Files are synced on another thread; a change that has begun is ended, whoever is cancelled."""
    return await asyncio.shield(asyncio.to_thread(work))
