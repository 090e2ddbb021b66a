"""The keys of a configured gateway: as its start makes them, and for commands while it does not run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.clock import SystemClock
from gateway.config.key_source import key_encryption_key, load_keys
from gateway.config.models import Config
from gateway.core.events import JournalEvent
from gateway.journal.key_changes import KeyChangeRefused, open_keyring, restore
from gateway.journal.keyring import KeyPurpose
from gateway.journal.lock import take_lock
from gateway.journal.port import JournalError, JournalUnreadable
from gateway.journal.schema import Meta, in_words, read_meta
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.operations.approvals import Approvals, requests_file
from gateway.operations.key_reports import KeysReport, keys_report
from gateway.operations.keys import Keys, KeySettings

_HOUR_MS = 3_600_000


def key_settings(config: Config) -> KeySettings:
    """Where the keys lie, and how long an epoch is."""
    journal = config.journal
    return KeySettings(
        journal.keys, journal.sensitive_epoch_h * _HOUR_MS, journal.sensitive_epoch_alarm_h * _HOUR_MS
    )  # fmt: skip


def configured_approvals(config: Config, utc_ms: Callable[[], int]) -> Approvals:
    """The requests of this gateway, and who may ask and approve."""
    approvers = {each.name: each.public_key for each in config.operations.approvers}
    return Approvals(requests_file(config.journal.keys), approvers, utc_ms)


def offline_keys(config: Config) -> KeysReport:
    """What `holdfast keys list` shows while no gateway runs; changes nothing.

    Raises:
        JournalError, ApprovalRefused: the keys, or the requests, cannot be read.
    """
    keyring, kek = load_keys(config.journal), key_encryption_key(config.journal)
    waiting = configured_approvals(config, SystemClock().utc_ms).waiting()
    return keys_report(keyring, kek, config.journal.keys, waiting)


def restore_keys(config: Config, who: str, why: str) -> str:
    """Have a keyring from a backup fit the journal: keys that it lacks count as destroyed. Tells which.

    Raises:
        JournalError, KeyChangeRefused: a gateway runs, the journal cannot be read, or nothing is to be restored.
    """
    path = Path(os.path.realpath(config.journal.path))
    if not path.exists():
        raise KeyChangeRefused(f"{path} does not exist: there is nothing that the keyring should fit")
    kek = key_encryption_key(config.journal)
    lock = take_lock(path)
    try:
        meta = _meta(path)
        before = set(load_keys(config.journal).records)
        named = {int(number): (KeyPurpose(said.purpose), said.check) for number, said in meta.keys.items()}
        restore(config.journal.keys, kek, named, who, why, SystemClock().utc_ms())
    finally:
        lock.release()
    lost = sorted(set(named) - before)
    accounts = [number for number in lost if named[number][0] is KeyPurpose.ACCOUNT]
    text = f"keys {', '.join(map(str, lost))} count as destroyed now, and the epochs have new keys"
    return f"{text}; what was sealed with account keys {accounts} cannot be opened any more" if accounts else text


def _meta(path: Path) -> Meta:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            with in_words():
                return read_meta(connection, path)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise JournalUnreadable(f"{path} cannot be read: {error}") from None


@asynccontextmanager
async def keys_offline(config: Config) -> AsyncIterator[Keys]:
    """Hold the journal as a gateway does, and its keys; what was interrupted is settled first.

    Raises:
        JournalError: a gateway runs all the same, the keys do not fit, or the journal cannot be opened.
    """
    async with held_offline(config) as (keys, _):
        await keys.settle()
        yield keys


@asynccontextmanager
async def held_offline(config: Config) -> AsyncIterator[tuple[Keys, SqliteJournal]]:
    """As `keys_offline`, with the journal; nothing is settled yet. Raises as that."""
    journal, clock = config.journal, SystemClock()
    kek = key_encryption_key(journal)
    keyring = open_keyring(journal.keys, kek)
    failures: list[JournalError] = []
    opened = SqliteJournal(
        SqliteJournalSettings(path=journal.path, min_free_bytes=journal.min_free_bytes, cache_mib=journal.cache_mib),
        keyring,
        _nobody_listens,
        failures.append,
        clock.utc_ms,
    )
    await opened.open()
    try:
        keys = Keys(
            key_settings(config), kek, keyring, opened, configured_approvals(config, clock.utc_ms), clock.utc_ms,
            lambda _, __: None,
        )  # fmt: skip
        yield keys, opened
    finally:
        await opened.close()
    if failures:
        raise failures[0]


def _nobody_listens(_: Sequence[JournalEvent]) -> None:
    """No transaction is written: nothing comes that anybody waits for."""
