"""Composition root: the one place that names concrete classes; the order of start-up and shutdown.

Start: journal (lock, keys, recovery) - link - listeners - operations. Stop: no new requests - drain - link - journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gateway.asking import Asking
from gateway.clock import Clock, SystemClock, refuse_wrong_clock
from gateway.clock_watch import ClockWatch
from gateway.collecting import spare_the_collector
from gateway.conductor import Conductor
from gateway.config import Address, Config, TerminalsSection, remarks
from gateway.config.key_source import key_encryption_key
from gateway.config.values import Speaks
from gateway.core.effects import Alarm, Severity
from gateway.core.engine import Engine
from gateway.core.events import Commanded, Event, JournalEvent, Lookup, OperatorAct, Stopping
from gateway.core.fingerprint import KeyedHash
from gateway.core.lifecycle import EntryKind
from gateway.core.transaction import Answer, Stored, Transaction
from gateway.core_dumps import memory_remarks
from gateway.journal.apart import JournalApart
from gateway.journal.key_changes import open_keyring
from gateway.journal.key_wrapping import KeyEncryptionKey
from gateway.journal.keyring import Keyring
from gateway.journal.port import Journal, JournalError, Listing
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.notary.notary import Notary
from gateway.notary.receipts import NotSignedYet, Receipts
from gateway.operations.disclosures import Disclosures
from gateway.operations.keys import Keys
from gateway.operations.keys_offline import configured_approvals, key_settings
from gateway.operations.logs import logger
from gateway.operations.maintenance import MaintenanceMark
from gateway.operations.process import end_within, file_remarks, raise_file_limit
from gateway.operations.release import version
from gateway.operations.server import OperationsServer
from gateway.operations.settlements import Settlements
from gateway.operations.token import read_token
from gateway.operators_view import OperatorsView, Parts
from gateway.terminals.asked import Asked
from gateway.terminals.http import HttpListener
from gateway.terminals.http_mapping import fitting
from gateway.terminals.iso8583 import Iso8583Listener
from gateway.terminals.receipts import ReceiptLater
from gateway.terminals.sessions import TerminalSessions
from gateway.tls import CertificateWatch, ReloadableServerContext
from gateway.upstream import upstream_to
from gateway.wiring import (
    engine_settings,
    http_settings,
    lines,
    listener_settings,
    log_seeds,
    log_signers,
    notary_settings,
    policy,
    signing_secrets,
    terminal_sessions,
)
from protocol.compiled import code_kind
from protocol.iso8583.dialect import Dialect, load_dialect

Listener = Iso8583Listener | HttpListener

_RECOVERY_BATCH = 1_000
_RECOVERY_TIMEOUT_S = 60.0
_LAST_WRITES_TIMEOUT_S = 2.0
_END_AFTER_FAILURE_S = 10.0
_AWAY = "acquirer-away"
_NO_LIMIT_BYTES = 2**62
_GOOD_NEWS = frozenset({"link.connected", "link.signed-on", "keys.changed"})
_LOG_LEVELS = {Severity.NOTICE: "info", Severity.WARNING: "warning", Severity.ALARM: "error"}


class Gateway:
    """A running gateway."""

    def __init__(self, config: Config, keyring: Keyring, clock: Clock, kek: KeyEncryptionKey | None = None) -> None:
        self._config = config
        self._clock = clock
        self._log = logger("gateway")
        self._failed: JournalError | None = None
        self._leaving = False
        self.stopping = asyncio.Event()
        self._gone = asyncio.Event()
        self._maintenance = MaintenanceMark(config.journal.path)
        self._asking = Asking()
        self._sessions: dict[Address, TerminalSessions] = {}
        self._asked = {speaks: Asked() for speaks in Speaks}

        self._journal = self._make_journal(keyring)
        self._notary = self._make_notary()
        self._receipts = Receipts(config.journal.path, keyring.row_key, lambda: log_seeds(self._keys.keyring))
        made = lines(config)
        self._clock_watch = ClockWatch(clock, self._report("gateway"))
        self._certificates = CertificateWatch(made.contexts(config), self._report("lines"), clock.utc_ms)
        upstream = upstream_to(config.acquirer, made.acquirer, self._heard, clock, self._report("acquirers"))
        self._link = upstream.link
        self._approved_codes = upstream.host.approved_codes
        self._always_fit = upstream.always_fit
        self._listeners = self._make_listeners(KeyedHash(keyring.fingerprint_key), made.terminals)
        engine = Engine(
            engine_settings(config), upstream.host, policy(config.standin), jitter=random.random,
            unencodable=upstream.unencodable, mono_ms=clock.mono_ms(), utc_ms=clock.utc_ms(),
        )  # fmt: skip
        self._conductor = Conductor(
            engine, clock, self._journal, send=self._link.send, room=lambda: self._link.room, reply=self._reply,
            reply_operator=self._asking.replied, alarm=self._alarm,
        )  # fmt: skip
        self._keys = Keys(
            key_settings(config), kek, keyring, self._journal, configured_approvals(config, clock.utc_ms),
            clock.utc_ms, self._report("keys"),
        )  # fmt: skip
        self._view = OperatorsView(
            Parts(
                config=config, clock=clock, journal=self._journal, conductor=self._conductor, link=self._link,
                listeners=self._listeners, sessions=self._sessions, notary=self._notary, keys=self._keys,
                asking=self._asking, maintenance=self._maintenance, failed=lambda: self.failed, stopping=self.stopping,
                clock_steps=lambda: self._clock_watch.steps,
            )
        )  # fmt: skip
        self._operations = OperationsServer(
            self._view, config.operations.listen, read_token(config.operations.token_file), keys=self._keys,
            disclosures=Disclosures(self._journal, configured_approvals(config, clock.utc_ms), keyring.name),
            settlements=Settlements(self._journal, configured_approvals(config, clock.utc_ms), keyring.name),
        )  # fmt: skip

    def _make_journal(self, keyring: Keyring) -> Journal:
        journal = self._config.journal
        settings = SqliteJournalSettings(
            path=journal.path,
            limit_bytes=journal.limit_bytes or _NO_LIMIT_BYTES,
            min_free_bytes=journal.min_free_bytes,
            cache_mib=journal.cache_mib,
            commit_delay_ms=journal.commit_delay_ms,
        )
        if journal.own_process:
            return JournalApart(settings, keyring, self._journalled, self._journal_failed)
        return SqliteJournal(settings, keyring, self._journalled, self._journal_failed, self._clock.utc_ms)

    def _make_notary(self) -> Notary:
        settings = notary_settings(self._config)
        log = logger("audit")
        return Notary(
            settings, lambda: log_signers(self._keys.keyring, settings.origin), lambda: log_seeds(self._keys.keyring),
            self._journal.log_head, functools.partial(self._journal.note, EntryKind.LOG_BROKEN), self._clock.utc_ms,
            lambda level, name, facts: _say(log, level, name, facts),
        )  # fmt: skip

    def _make_listeners(
        self, hashing: KeyedHash, contexts: Sequence[ReloadableServerContext | None]
    ) -> tuple[Listener, ...]:
        """Each listener's tokens leave its own number as remainder, so that an answer finds its listener."""
        sections = self._config.terminals
        tokens = [itertools.count(number, len(sections)) for number in range(len(sections))]
        return tuple(
            (self._http_listener if section.speaks is Speaks.HTTP else self._iso8583_listener)(
                section, hashing, contexts[number], tokens[number]
            )
            for number, section in enumerate(sections)
        )

    def _iso8583_listener(
        self,
        section: TerminalsSection,
        hashing: KeyedHash,
        tls: ReloadableServerContext | None,
        tokens: Iterator[int],
    ) -> Iso8583Listener:
        dialect = load_dialect(section.dialect)
        return Iso8583Listener(
            listener_settings(section, tls), dialect, hashing, self._heard, self._clock.utc_ms,
            self._report("terminals"), tokens=tokens, sessions=self._sessions_of(section, dialect),
            journal_wait_ms=self._journal_wait_ms, acquirer_full=self._acquirer_full,
            always_fit=self._always_fit(dialect),
            asked=self._asked[section.speaks], log_head=self._journal.log_head,
        )  # fmt: skip

    def _sessions_of(self, section: TerminalsSection, dialect: Dialect) -> TerminalSessions | None:
        sessions = terminal_sessions(section, dialect)
        if sessions is not None:
            self._sessions[section.listen] = sessions
        return sessions

    def _http_listener(
        self,
        section: TerminalsSection,
        hashing: KeyedHash,
        tls: ReloadableServerContext | None,
        tokens: Iterator[int],
    ) -> HttpListener:
        dialect = load_dialect(section.dialect)
        return HttpListener(
            http_settings(section, tls, self._approved_codes), dialect.terminal, hashing,
            self._heard, self._find, self._load, self._search, self._mode, self._clock.utc_ms,
            self._report("terminals"), tokens=tokens, secret_of=signing_secrets(section),
            journal_wait_ms=self._journal_wait_ms, acquirer_full=self._acquirer_full,
            asked=self._asked[Speaks.HTTP],
            always_fit=fitting(dialect, self._always_fit(dialect)), receipt_of=self._receipt_of,
        )  # fmt: skip

    async def _receipt_of(self, transaction: int) -> bytes | None:
        try:
            return await self._receipts.of(transaction)
        except NotSignedYet:
            raise ReceiptLater from None

    # Start and stop

    async def start(self) -> tuple[tuple[Address, ...], Address]:
        """Recover, then open for business; returns the addresses of the listeners and of operations.

        Raises: JournalError, OSError.
        """
        await self._journal.open()
        await self._recover()
        if (closed := self._maintenance.remembered()) is not None:
            self._submit(Commanded(0, OperatorAct.MAINTENANCE_ON, 0, closed.who, closed.why))
        self._notary.start()
        await self._keys.settle()
        await self._link.start()
        self._certificates.start()
        self._clock_watch.start()
        operations = await self._operations.start()
        bound = tuple([Address(*await listener.start()) for listener in self._listeners])
        self._keys.start()
        self._view.opened(bound)
        return bound, operations

    async def _recover(self) -> None:
        """Settle what the last run left in doubt, before anything is admitted (lifecycle.after_crash)."""
        engine = self._conductor.engine
        while in_doubt := await self._journal.in_doubt(_RECOVERY_BATCH):
            self._log.warning("recovering", in_doubt=len(in_doubt))
            self._conductor.carry_out(engine.recover(in_doubt, self._clock.utc_ms()))
            await self._conductor.until_quiet(_RECOVERY_TIMEOUT_S)
            if self._failed is not None:
                raise self._failed
        engine.owing(await self._journal.owing_lanes())

    async def stop(self) -> None:
        """Stop admitting, drain, checkpoint, close; each step is bounded."""
        for listener in self._listeners:
            listener.stop_admitting()
        self._submit(Stopping())
        draining, gone = asyncio.create_task(self._drain()), asyncio.create_task(self._gone.wait())
        await asyncio.wait((draining, gone), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, gone):
            task.cancel()
        await asyncio.wait((draining, gone))
        self._leaving = True
        await self._link.close()
        if self._failed is None:
            await self._conductor.until_quiet(_LAST_WRITES_TIMEOUT_S)
        self._conductor.close()
        await self._keys.close()
        await self._notary.stop(sign=self._failed is None)
        await self._journal.close()
        for listener in self._listeners:
            await listener.close()
        await self._operations.close()
        self._certificates.close()
        self._clock_watch.close()
        self._asking.close()

    async def _drain(self) -> None:
        """Answer what is under way, for so long as it may take."""
        deadline = time.monotonic() + self._config.gateway.shutdown_drain_s
        for listener in self._listeners:
            await listener.drain(int(max(0.0, deadline - time.monotonic()) * 1000))
        await self._conductor.until_quiet(max(0.0, deadline - time.monotonic()))

    def reload_certificates(self) -> None:
        """Read the files of every line anew; connections that are open go on. Without TLS there is nothing to do."""
        if self._certificates.watching:
            self._certificates.reload()
        else:
            self._log.info("SIGHUP ignored: no line has TLS, there is nothing to read anew")

    @property
    def failed(self) -> bool:
        """Whether the journal is in doubt: the process must end and recover."""
        return self._failed is not None

    # Between the rooms

    def _submit(self, event: Event) -> None:
        self._conductor.submit(event)

    def _heard(self, event: Event) -> None:
        self._conductor.submit_soon(event)

    def _mode(self) -> str:
        return self._view.mode()

    def _journal_wait_ms(self) -> int:
        return self._conductor.journal_wait_ms()

    def _acquirer_full(self) -> bool:
        return self._conductor.acquirer_full()

    def _journalled(self, events: Sequence[JournalEvent]) -> None:
        self._conductor.submit_all(self._asking.for_the_core(events))
        for listener in self._listeners:
            listener.answer_now()

    def _journal_failed(self, error: JournalError) -> None:
        """Nothing is carried out any more, and the process ends: what else there is to do may hang."""
        self._failed = error
        self._gone.set()
        self._conductor.close()
        self.stopping.set()
        end_within(_END_AFTER_FAILURE_S, 1)
        _say(self._log, "error", "journal in doubt: stopping, the next start recovers", {"reason": str(error)})

    def _reply(self, terminal_token: int, answer: Answer, recorded: Transaction | None) -> None:
        self._listeners[terminal_token % len(self._listeners)].reply(terminal_token, answer, recorded)

    def _alarm(self, alarm: Alarm) -> None:
        if self._leaving and alarm.code == _AWAY:
            return  # it is we who go
        _say(self._log, _LOG_LEVELS[alarm.severity], alarm.code, {"text": alarm.text, **alarm.facts})

    def _report(self, component: str) -> Callable[[str, dict[str, str]], None]:
        log = logger(component)

        def report(name: str, facts: dict[str, str]) -> None:
            _say(log, "info" if name in _GOOD_NEWS else "warning", name, facts)

        return report

    # What tills ask about

    async def _find(self, keys: tuple[str, ...]) -> list[Stored | Lookup]:
        """The newest transaction of each key."""
        return await self._asking.find(self._journal, keys)

    async def _load(self, number: int, key: str) -> Stored | Lookup:
        """The transaction of this number, if it has this key."""
        return await self._asking.load(self._journal, number, key)

    async def _search(self, terminal: str, stan: str, after: int, limit: int) -> list[Transaction]:
        """Transactions of a terminal, oldest first."""
        return await self._journal.listing(
            Listing(states=frozenset(), terminal=terminal, stan=stan, after_id=after, limit=limit)
        )


def _say(log: Any, level: str, event: str, facts: Mapping[str, object]) -> None:
    """Log a line; whatever is wrong with it, payments go on."""
    try:
        getattr(log, level)(event, **facts)
    except Exception as error:
        log.exception("a line could not be logged", line=event, reason=type(error).__name__)


def _tell(started: Callable[[str], None], line: str) -> None:
    """Nobody reads what we print: that is no reason to end."""
    with contextlib.suppress(OSError, ValueError):
        started(line)


async def run_gateway(config: Config, *, started: Callable[[str], None] = print) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code: 0 after a clean stop, 1 when the journal is in doubt.

    SIGHUP reads the files of lines with TLS anew, and never ends the gateway.

    Args:
        started: told the endpoints, one line each, once the gateway is open for business; it may fail.
    Raises: ClockWrong, JournalError, TlsError, ConfigError and OSError of the start.
    """
    clock = SystemClock()
    refuse_wrong_clock(clock.utc_ms())
    files = raise_file_limit()
    kek = key_encryption_key(config.journal)
    gateway = Gateway(config, open_keyring(config.journal.keys, kek), clock, kek)
    log = logger("gateway")
    log.info("starting", version=version(), code=code_kind())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, gateway.reload_certificates)
    for remark in (*remarks(config), *file_remarks(config, files), *memory_remarks()):
        log.warning("worth a look", remark=remark)
    starting = asyncio.create_task(gateway.start())
    told = asyncio.create_task(gateway.stopping.wait())
    await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not starting.done():  # it is told to stop before it has begun; a journal that hangs must not keep it
        starting.cancel()
        await asyncio.wait((starting,))
    if starting.cancelled():
        await gateway.stop()
        return 1 if gateway.failed else 0
    try:
        listeners, operations = starting.result()
    except (JournalError, OSError):
        await gateway.stop()
        raise
    spare_the_collector()
    for section, address in zip(config.terminals, listeners, strict=True):
        spoken = "http" if section.speaks is Speaks.HTTP else section.dialect
        _tell(started, f"terminals: {address} ({spoken})")
    _tell(started, f"operations: http://{operations}")
    await gateway.stopping.wait()
    try:
        await gateway.stop()
    except Exception:
        if not gateway.failed:
            raise
        log.exception("not everything could be closed after the failure")
    if gateway.failed:
        return 1
    log.info("stopped")
    return 0
