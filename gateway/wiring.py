"""From configuration to the settings of each room: nothing is decided here, only handed on in the room's own terms."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.acquirers.http_credential import Credential, CredentialKind, read_credential
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.session import HostSession
from gateway.acquirers.settings import EndpointSettings
from gateway.acquirers.settings import LinkSettings as AcquirerLinkSettings
from gateway.config import (
    AcquirerSection,
    Config,
    StandInSection,
    TerminalsSection,
    tls_client_settings,
    tls_server_settings,
)
from gateway.config.audit import SyslogTarget, SyslogWay, origin_of
from gateway.config.host_key import read_host_key
from gateway.config.master_keys import read_master_keys
from gateway.config.secrets import read_signing_secrets
from gateway.config.values import HttpCredential
from gateway.core.link import LinkSettings
from gateway.core.standin import Exposure, Policy
from gateway.core.work import EngineSettings
from gateway.journal.keyring import KeyPurpose, Keyring
from gateway.notary.notary import NotarySettings
from gateway.notary.syslog_line import SyslogEnd
from gateway.notary.witness import WitnessEnd
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.limits import ListenerSettings
from gateway.terminals.sessions import TerminalSessions
from gateway.tls import (
    ReloadableClientContext,
    ReloadableContext,
    ReloadableServerContext,
    client_context,
    server_context,
)
from protocol.iso8583.dialect import Dialect
from protocol.transparency.cosignatures import WitnessKey
from protocol.transparency.notes import SignerKey


def engine_settings(config: Config) -> EngineSettings:
    """The core's settings."""
    acquirer, replay = config.acquirer, config.replay
    return EngineSettings(
        reply_timeout_ms=acquirer.reply_timeout_ms,
        longest_flight_ms=acquirer.longest_flight_ms,
        in_flight_max=sum(terminals.in_flight_max for terminals in config.terminals),
        lane_wait_ms=replay.lane_wait_ms,
        lane_waiting_max=replay.lane_waiting_max,
        attempts_max=replay.attempts_max,
        backoff_min_ms=replay.backoff_min_ms,
        backoff_max_ms=replay.backoff_max_ms,
        rate_per_s=replay.rate_per_s,
        link=LinkSettings(
            down_after_timeouts=acquirer.down_after_timeouts,
            echo_interval_ms=acquirer.echo_interval_ms,
            echo_timeout_ms=acquirer.echo_timeout_ms,
            probe_min_ms=min(1_000, acquirer.echo_interval_ms),
            window_max=min(replay.window_max, max(1, acquirer.in_flight_max // 2)),
        ),
    )


def policy(section: StandInSection) -> Policy:
    """The stand-in policy (D21)."""
    return Policy(
        mode=section.mode,
        floor_limit_minor=section.floor_limit_minor,
        terminal=_exposure(section.terminal_count_max, section.terminal_total_minor_max, section.terminal_age_s_max),
        card=_exposure(section.card_count_max, section.card_total_minor_max, section.card_age_s_max),
        overall=_exposure(section.overall_count_max, section.overall_total_minor_max, section.overall_age_s_max),
        processing_codes=frozenset(section.processing_codes),
        currencies=frozenset(section.currencies),
        entry_modes=frozenset(section.entry_modes),
        bin_ranges=tuple((str(r.low), str(r.high)) for r in section.bin_ranges),
        hot_cards=_hot_cards(section.hot_cards_file) if section.hot_cards_file else frozenset(),
        allow_expired=section.allow_expired,
        allow_chip_without_issuer=section.allow_chip_without_issuer,
        allow_pin_dropped=section.allow_pin_dropped,
        allow_track_dropped=section.allow_track_dropped,
    )


def _exposure(count: int, total_minor: int, age_s: int) -> Exposure:
    return Exposure(count_max=count, total_minor_max=total_minor, age_ms_max=age_s * 1000)


def _hot_cards(path: Path) -> frozenset[bytes]:
    """The file was checked when the configuration was loaded."""
    return frozenset(bytes.fromhex(line) for line in path.read_text(encoding="ascii").split())


@dataclass(frozen=True, slots=True)
class Lines:
    """The TLS contexts of listeners, in the order of their tables, and of the link; None for plain TCP."""

    terminals: tuple[ReloadableServerContext | None, ...]
    acquirer: ReloadableClientContext | None

    def contexts(self, config: Config) -> dict[str, ReloadableContext]:
        """Those that there are, by names for reports."""
        named: dict[str, ReloadableContext] = {
            f"terminals {section.listen}": context
            for section, context in zip(config.terminals, self.terminals, strict=True)
            if context is not None
        }
        return named if self.acquirer is None else {**named, f"acquirer {config.acquirer.name}": self.acquirer}


def lines(config: Config) -> Lines:
    """Read the files of every line. Raises: TlsError, where they changed since the configuration was checked."""
    acquirer = config.acquirer.tls
    return Lines(
        tuple(
            None if section.tls is None else server_context(tls_server_settings(section.tls))
            for section in config.terminals
        ),
        None if acquirer is None else client_context(tls_client_settings(acquirer)),
    )


def listener_settings(section: TerminalsSection, tls: ReloadableServerContext | None) -> ListenerSettings:
    """A listener's settings; `tls` is its context out of `lines`."""
    in_flight = section.in_flight_per_connection_max
    return ListenerSettings(
        name=str(section.listen),
        host=section.listen.host,
        port=section.listen.port,
        tls=tls,
        **_handshakes(section),
        connections_max=section.connections_max,
        connections_per_address_max=section.connections_per_address_max,
        in_flight_per_connection_high=in_flight,
        in_flight_per_connection_low=in_flight // 2,
        in_flight_max=section.in_flight_max,
        receipt_field=section.receipt_field,
        **_overload(section),
        frames_per_turn_max=section.frames_per_turn_max,
        frames_per_s_max=section.frames_per_s_max,
        keepalives_per_s_max=section.keepalives_per_s_max,
        frame_timeout_ms=section.frame_timeout_ms,
        idle_timeout_ms=section.idle_timeout_ms,
        write_buffer_limit_bytes=section.write_buffer_bytes_max,
        reply_timeout_ms=max(300_000, 2 * section.terminal_timeout_ms),
        sweep_interval_ms=max(10, min(1_000, section.frame_timeout_ms // 2, section.idle_timeout_ms // 2)),
    )


def _overload(section: TerminalsSection) -> dict[str, int]:
    """Limits that a flood meets. Who would be answered when the terminal has given up is better refused at once."""
    return {
        "journal_wait_ms_max": min(section.journal_wait_ms_max, max(1, section.terminal_timeout_ms // 4)),
        "receive_buffer_bytes": section.receive_buffer_bytes,
    }


def _handshakes(section: TerminalsSection) -> dict[str, int]:
    """Limits of handshakes, where there are any."""
    if section.tls is None:
        return {}
    return {
        "tls_handshake_timeout_ms": section.tls.handshake_timeout_ms,
        "tls_handshakes_max": section.tls.handshakes_max,
    }


def http_settings(
    section: TerminalsSection, tls: ReloadableServerContext | None, approved_codes: frozenset[str]
) -> HttpListenerSettings:
    """An HTTP listener's settings; `tls` is its context out of `lines`, `approved_codes` the acquirer's."""
    return HttpListenerSettings(
        name=str(section.listen),
        host=section.listen.host,
        port=section.listen.port,
        tls=tls,
        allow_unauthenticated=section.allow_unauthenticated,
        **_handshakes(section),
        connections_max=section.connections_max,
        connections_per_address_max=section.connections_per_address_max,
        head_timeout_ms=section.frame_timeout_ms,
        body_timeout_ms=section.frame_timeout_ms,
        idle_timeout_ms=section.idle_timeout_ms,
        reply_wait_ms=section.terminal_timeout_ms,
        in_flight_max=section.in_flight_max,
        **_overload(section),
        write_buffer_limit_bytes=section.write_buffer_bytes_max,
        in_flight_per_terminal_max=section.in_flight_per_connection_max,
        rate_per_s=section.requests_per_s_max,
        burst=2 * section.requests_per_s_max,
        approved_codes=approved_codes,
        receipts=section.receipts,
    )


def signing_secrets(section: TerminalsSection) -> Callable[[str], bytes | None] | None:
    """Where an HTTP listener finds a terminal's secret; None where requests are not signed."""
    path = section.signing_secrets_file
    return None if path is None else read_signing_secrets(path).get


def terminal_sessions(section: TerminalsSection, dialect: Dialect) -> TerminalSessions | None:
    """The keys of a listener's terminals; None where MACs are not asked for.

    Raises: MasterKeysWrong, where the file has changed since the configuration was checked.
    """
    path = section.master_keys_file
    return None if path is None else TerminalSessions(dialect, read_master_keys(path, dialect.terminal))


def host_session(section: AcquirerSection) -> HostSession | None:
    """As whom the gateway signs on to the host; None where it does not.

    Raises: HostKeyWrong, where the file has changed since the configuration was checked.
    """
    session = section.session
    if session is None:
        return None
    key = read_host_key(session.master_key_file)
    return HostSession(
        terminal=session.terminal,
        merchant=session.merchant,
        master_key=key if session.sign_on else b"",
        fixed_key=b"" if session.sign_on else key,
        sign_on_timeout_ms=session.sign_on_timeout_ms,
        previous_key_ms=max(60_000, 2 * section.longest_flight_ms),
    )


def link_settings(
    section: AcquirerSection, dialect: Dialect, tls: ReloadableClientContext | None
) -> AcquirerLinkSettings:
    """The link's settings; TPDU and header only where the dialect carries them; `tls` out of `lines`."""
    return AcquirerLinkSettings(
        name=section.name,
        endpoints=_endpoints(section, tls),
        tpdu=section.tpdu if dialect.tpdu else b"",
        header=section.header[: dialect.header_bytes] if dialect.header_bytes else b"",
        connect_timeout_ms=section.connect_timeout_ms,
        reconnect_initial_ms=section.reconnect_min_ms,
        reconnect_max_ms=section.reconnect_max_ms,
        reconnect_jitter_ms=section.reconnect_min_ms,
        in_flight_max=section.in_flight_max,
        abandoned_age_ms=max(600_000, 2 * section.longest_flight_ms),
        session=host_session(section),
    )


def http_link_settings(section: AcquirerSection, tls: ReloadableClientContext | None) -> HttpLinkSettings:
    """The settings of a link by HTTP; `tls` out of `lines`.

    Raises: CredentialWrong, where the file has changed since the configuration was checked.
    """
    abandoned_age_ms = max(600_000, 2 * section.longest_flight_ms)
    return HttpLinkSettings(
        name=section.name,
        endpoints=_endpoints(section, tls),
        credential=credential(section),
        connect_timeout_ms=section.connect_timeout_ms,
        reconnect_initial_ms=section.reconnect_min_ms,
        reconnect_max_ms=section.reconnect_max_ms,
        reconnect_jitter_ms=section.reconnect_min_ms,
        in_flight_max=section.in_flight_max,
        reuse_idle_ms=section.reuse_idle_ms,
        late_answer_ms=min(60_000, abandoned_age_ms),
        abandoned_age_ms=abandoned_age_ms,
    )


def credential(section: AcquirerSection) -> Credential | None:
    """How the gateway proves who it is to an HTTP host; None for its certificate alone.

    Raises: CredentialWrong.
    """
    if section.credential is HttpCredential.NONE or section.credential_file is None:
        return None
    return read_credential(CredentialKind(section.credential), section.credential_file, section.credential_key_id)


def _endpoints(section: AcquirerSection, tls: ReloadableClientContext | None) -> tuple[EndpointSettings, ...]:
    server_name = section.tls.server_name if section.tls is not None else ""
    return tuple(
        EndpointSettings(host=e.host, port=e.port, tls=tls, server_hostname=server_name or None)
        for e in section.endpoints
    )


def notary_settings(config: Config) -> NotarySettings:
    """The notary's settings. Raises: OSError, where a file of CAs has changed since the configuration was checked."""
    audit = config.audit
    needs_tls = any(each.url.startswith("https:") for each in audit.witnesses)
    tls = ssl.create_default_context(cafile=audit.witness_ca_file) if needs_tls else None
    proxy = (audit.witness_proxy.host, audit.witness_proxy.port) if audit.witness_proxy is not None else None
    return NotarySettings(
        journal=config.journal.path,
        origin=origin_of(audit, config.gateway.name),
        checkpoint_every_ms=audit.checkpoint_every_ms,
        folder=audit.publish_folder,
        syslog=_syslog_end(audit.syslog) if audit.syslog is not None else None,
        witnesses=tuple(
            WitnessEnd(
                WitnessKey.parse(each.verifier_key), each.url, tls if each.url.startswith("https:") else None, proxy
            )
            for each in audit.witnesses
        ),
    )


def _syslog_end(target: SyslogTarget) -> SyslogEnd:
    if target.address is None:
        return SyslogEnd(stream=False, path=target.path)
    return SyslogEnd(stream=target.way is SyslogWay.TCP, host=target.address.host, port=target.address.port)


def log_signers(keyring: Keyring, origin: str) -> tuple[SignerKey, ...]:
    """The keys that sign the log's heads today, newest first. Raises: JournalKeysWrong, where there is none."""
    return tuple(SignerKey(origin, seed) for seed in keyring.log_keys)


def log_seeds(keyring: Keyring) -> tuple[bytes, ...]:
    """Every key that has ever signed heads and is not destroyed: a head may be older than a rotation."""
    return tuple(
        keyring.keys[number]
        for number, record in keyring.records.items()
        if record.purpose is KeyPurpose.LOG and number in keyring.keys
    )
