"""What can be told while no gateway runs: its journal, opened to be read only (no lock, no write, no recovery)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.config.key_source import load_keys
from gateway.config.models import Config
from gateway.core.events import Lookup
from gateway.core.lifecycle import State
from gateway.journal.completeness import what_went_back
from gateway.journal.connections import connect_reader
from gateway.journal.keyring import Keyring
from gateway.journal.listings import goes_by_unsettled
from gateway.journal.lock import holder_of
from gateway.journal.port import JournalError, JournalHealth, Listing
from gateway.journal.reader import JournalReader, open_for_reading, snapshot
from gateway.journal.reading import RecordDamaged
from gateway.journal.room import bytes_free, bytes_on_disk, kept_free, want_of_room
from gateway.journal.rows import RowCodec
from gateway.journal.schema import Head, read_head
from gateway.operations import report
from gateway.operations.release import version

_T = TypeVar("_T")
_NAMED_MAX: Final = 10


class OfflineError(Exception):
    """The journal cannot be read; the message says why."""


def offline_status(config: Config) -> report.StatusReport:
    """What the journal owes, from its own counts.

    Raises:
        OfflineError: no journal, wrong keys, or damaged beyond single records.
    """
    return _read(config, lambda reader, keyring: _status(config, reader, keyring))


def offline_queue(config: Config, listing: Listing) -> tuple[report.QueuePage, str]:
    """A page of the queue, and what is missing in it, in words; raises as `offline_status`."""

    async def page(reader: JournalReader, keyring: Keyring) -> tuple[report.QueuePage, str]:
        head = await _head(config, keyring)
        rows = await reader.listing(listing)
        return report.queue_page(rows, listing.limit), _left_out(listing, len(rows), reader.damaged, head)

    return _read(config, page)


def _left_out(listing: Listing, shown: int, damaged: frozenset[int], head: Head) -> str:
    """What a page does not show and should: no gateway runs that would put it in quarantine and tell of it.

    How many there are is compared with the head's count, which is tagged, where the page is all of some states.
    """
    missing = []
    if damaged:
        which = ", ".join(f"transaction {number}" if number else "a list" for number in sorted(damaged)[:_NAMED_MAX])
        more = f" and {len(damaged) - _NAMED_MAX} more" if len(damaged) > _NAMED_MAX else ""
        missing.append(f"damaged, and not shown as it should be: {which}{more}")
    whole = goes_by_unsettled(listing) and not (listing.lane or listing.terminal or listing.stan or listing.after_id)
    if whole and shown < listing.limit:
        counted = sum(head.counts[state] for state in listing.states)
        if counted != shown:
            missing.append(f"{shown} are shown, and the journal has counted {counted} of these states")
    return "; ".join(missing) and f"{'; '.join(missing)}: holdfast audit verify says more"


def offline_transaction(config: Config, transaction: int) -> report.StoredReport:
    """One transaction; raises as `offline_status`, also where there is none or it is damaged."""

    async def one(reader: JournalReader, _: Keyring) -> report.StoredReport:
        found = await reader.load(transaction)
        if found is Lookup.DAMAGED:
            raise OfflineError(f"the record of transaction {transaction} is damaged, or its key was destroyed")
        if isinstance(found, Lookup):
            raise OfflineError(f"there is no transaction {transaction}")
        return report.stored_report(found)

    return _read(config, one)


def offline_problem(config: Config) -> str:
    """Why a gateway would not start on this journal as it is, in words; empty where it would.

    Raises:
        OfflineError: the keys cannot be read.
    """
    try:
        keyring = load_keys(config.journal)
    except JournalError as error:
        raise OfflineError(str(error)) from None
    return asyncio.run(what_went_back(config.journal.path, keyring, RowCodec(keyring.row_key)))


def _read(config: Config, work: Callable[[JournalReader, Keyring], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        keyring = load_keys(config.journal)
        reader = await open_for_reading(config.journal.path, keyring)
        try:
            return await work(reader, keyring)
        finally:
            await reader.close()

    if not config.journal.path.exists():
        raise OfflineError(f"{config.journal.path} does not exist: this gateway has never run")
    try:
        return asyncio.run(run())
    except JournalError as error:
        raise OfflineError(str(error)) from None
    except (sqlite3.Error, RecordDamaged) as error:
        text = f"{config.journal.path} is damaged ({error}): holdfast audit verify says more"
        raise OfflineError(text) from error


async def _status(config: Config, reader: JournalReader, keyring: Keyring) -> report.StatusReport:
    now_ms = time.time_ns() // 1_000_000
    health = await _health(config, reader, keyring)
    lanes = 0  # known to a running gateway only
    holder = holder_of(config.journal.path)
    why = f"process {holder} has the journal, and does not answer here" if holder else "the gateway is not running"
    return report.StatusReport(
        running=False,
        name=config.gateway.name,
        version=version(),
        mode=None,
        ready=False,
        reasons=[why],
        uptime_s=0.0,
        queue=report.queue_report(health, now_ms, lanes, requests_waiting=0),
        journal=report.journal_report(health),
        acquirer=None,
        terminals=[],
        counters={},
    )


async def _health(config: Config, reader: JournalReader, keyring: Keyring) -> JournalHealth:
    path = config.journal.path
    head = await _head(config, keyring)
    oldest = await reader.listing(Listing(states=report.OWING, limit=1))
    free = bytes_free(path)
    reason = await what_went_back(path, keyring, RowCodec(keyring.row_key))
    if not reason and free < (kept := kept_free(config.journal.min_free_bytes, head.owed)):
        reason = want_of_room(free, kept)
    if not reason and not os.access(path, os.R_OK | os.W_OK):
        reason = "this user may not write it"
    return JournalHealth(
        writable=not reason,
        reason=reason,
        entries=head.sequence,
        bytes_on_disk=bytes_on_disk(path),
        bytes_free=free,
        counts={state: head.counts[state] for state in State},
        oldest_owed_ms=oldest[0].accepted_ms if oldest else 0,
        quarantined=head.quarantined - head.closed,
        settled=head.settled,
        commits=0,
        writes=0,
        queued=0,
    )


async def _head(config: Config, keyring: Keyring) -> Head:
    path = config.journal.path
    connection = await connect_reader(path)
    heads: list[Head] = []

    def read() -> None:
        codec = RowCodec(keyring.row_key)
        snapshot(connection.connection, [lambda: heads.append(read_head(connection.connection, codec, path))])

    try:
        await connection.run(read)
    finally:
        await connection.close()
    return heads[0]
