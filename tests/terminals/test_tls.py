"""Terminals over TLS: who is refused and why, whom a certificate may speak for, new certificates while running."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.terminals.limits import Count
from gateway.tls import CertificateWatch, Refusal
from protocol.iso8583.dialect import load_dialect
from tests.acquirers.certificates import (
    CLIENTS,
    EXPIRED,
    NOT_YET_VALID,
    SERVERS,
    Authority,
    Issued,
    client,
    only_tls_1_1,
    server,
    tls_contexts,
)
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.terminal import Shop, Terminal, sale, shop

BINARY = load_dialect("iso87-binary")
OWN = "T0000001"
OTHER = "T0000002"


class Street:
    """A gateway's certificate, the CA that issues terminals' certificates, and a CA of somebody else's."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.gateway = self.ca.issue("gateway", dns=["localhost"], usage=SERVERS)

    def terminal(self, shown: Issued | None = None) -> ssl.SSLContext:
        return client(self.ca, shown or self.ca.issue("terminal", common_name=OWN))


@pytest.fixture
def street(tmp_path: Path) -> Street:
    return Street(tmp_path)


@on_each_loop
async def test_terminals_are_served_over_tls(tmp_path: Path) -> None:
    tls, trusting = tls_contexts(tmp_path)
    async with shop(BINARY, tls) as s, await s.terminal(trusting) as terminal:
        terminal.send(*(sale(BINARY, stan) for stan in range(100)))
        assert [int((await terminal.receive()).fields[11]) for _ in range(100)] == list(range(100))


# --- refused handshakes -----------------------------------------------------------------------------------------------


def _certificate(make: Callable[[Street], Issued | None]) -> Callable[[Street], ssl.SSLContext]:
    return lambda street: client(street.ca, make(street))


def _tls_1_1(street: Street) -> ssl.SSLContext:
    return only_tls_1_1(street.terminal())


def _distrusting(street: Street) -> ssl.SSLContext:
    return client(street.stranger, street.ca.issue("terminal", common_name=OWN))


def _weak_cipher(street: Street) -> ssl.SSLContext:
    context = street.terminal()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")  # CBC, which Python itself would take
    return context


REFUSED = {
    "no certificate": (_certificate(lambda _: None), Count.HANDSHAKE_NO_CERTIFICATE),
    "another CA": (
        _certificate(lambda s: s.stranger.issue("terminal", common_name=OWN)),
        Count.HANDSHAKE_UNTRUSTED,
    ),
    "self-signed": (_certificate(lambda s: s.ca.self_signed("t", common_name=OWN)), Count.HANDSHAKE_SELF_SIGNED),
    "expired": (
        _certificate(lambda s: s.ca.issue("t", common_name=OWN, valid=EXPIRED)),
        Count.HANDSHAKE_EXPIRED,
    ),
    "not yet valid": (
        _certificate(lambda s: s.ca.issue("t", common_name=OWN, valid=NOT_YET_VALID)),
        Count.HANDSHAKE_NOT_YET_VALID,
    ),
    "a server's": (
        _certificate(lambda s: s.ca.issue("t", common_name=OWN, usage=SERVERS)),
        Count.HANDSHAKE_WRONG_PURPOSE,
    ),
    "TLS 1.1": (_tls_1_1, Count.HANDSHAKE_OLD_PROTOCOL),
    "no authenticated encryption": (_weak_cipher, Count.HANDSHAKE_NO_CIPHER),
    "gateway not trusted": (_distrusting, Count.HANDSHAKE_BY_PEER),
}


def _knock(address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    """Shake hands as a terminal's firmware would, send a sale, and return what comes back before the end."""
    with socket.create_connection(address, timeout=5) as sock:
        try:
            with context.wrap_socket(sock, server_hostname="localhost") as line:
                line.sendall(BINARY.framing.wrap(BINARY.codec.encode(sale(BINARY, 1))))
                return line.recv(4096)
        except OSError:  # also ssl.SSLError
            return b""


@pytest.mark.parametrize("what", REFUSED)
@on_each_loop
async def test_a_refused_handshake_is_counted_and_told_with_its_reason(street: Street, what: str) -> None:
    make, count = REFUSED[what]
    async with shop(BINARY, server(street.gateway, street.ca)) as s, await s.terminal(street.terminal()) as honest:
        assert await asyncio.to_thread(_knock, s.address, make(street)) == b""
        await _refused(s, count)
        await s.serves_others(honest)


PLAIN = {
    "ISO 8583": BINARY.framing.wrap(BINARY.codec.encode(sale(BINARY, 1))),
    "ISO 8583 with TPDU": bytes.fromhex("00606000030001603100311234") + bytes(84),
    "text": b"0084ISO0200" + b"0" * 80,
    "HTTP": b"POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("what", PLAIN)
@on_each_loop
async def test_plain_text_on_a_tls_line_is_refused_and_not_answered(street: Street, what: str) -> None:
    async with shop(BINARY, server(street.gateway)) as s, await s.terminal(street.terminal()) as honest:
        async with await s.terminal() as plain:
            plain.writer.write(PLAIN[what])
            await plain.hung_up()
        await _refused(s, Count.HANDSHAKE_PLAIN_TEXT)
        await s.serves_others(honest)


@on_each_loop
async def test_a_silent_handshake_times_out_and_a_broken_one_is_told_as_such(street: Street) -> None:
    async with shop(BINARY, server(street.gateway), tls_handshake_timeout_ms=100) as s:
        async with await s.terminal() as silent:
            await silent.hung_up()
        await _refused(s, Count.HANDSHAKE_TIMED_OUT)
        async with await s.terminal() as rude:
            rude.writer.write(b"\x16\x03\x01")
        await _refused(s, Count.HANDSHAKE_HUNG_UP, of=2)


async def _refused(s: Shop, count: Count, of: int = 1) -> None:
    """One handshake was refused for this reason, and told with it; nothing was submitted."""
    await s.counted(count.value)
    assert (s.listener.counters()[count.value], s.listener.counters()["handshake_failed"]) == (1, of)
    (told,) = [facts for name, facts in s.reports if name == "terminal.refused" and facts["reason"] == count.value]
    assert told["peer"].startswith("127.0.0.1:")
    assert Refusal(count.value.removeprefix("handshake_")).text in told["detail"]
    assert s.requested == []


def test_every_reason_has_its_counter() -> None:
    assert {f"handshake_{refusal.value}" for refusal in Refusal} <= {count.value for count in Count}


# --- limits -----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_handshakes_under_way_count_and_one_that_is_not_finished_gives_its_place_back(tmp_path: Path) -> None:
    tls, trusting = tls_contexts(tmp_path)
    async with shop(BINARY, tls, connections_max=2, tls_handshake_timeout_ms=150) as s:
        async with await s.terminal() as silent, await s.terminal() as rude:
            await until(lambda: s.listener.gauges()["connections"] == 2, "both hold a place")
            async with await s.terminal() as third:
                await third.hung_up()
            assert s.listener.counters()["connections_refused_total"] == 1
            rude.writer.write(b"\x00\x30this is no handshake")
            await rude.hung_up()
            await silent.hung_up()
            await s.counted("handshake_failed", 2)
        assert s.listener.gauges()["connections"] == 0
        async with await s.terminal(trusting) as terminal:
            await s.serves_others(terminal)


@on_each_loop
async def test_over_the_limit_of_handshakes_under_way_a_connection_is_closed_at_once(tmp_path: Path) -> None:
    tls, trusting = tls_contexts(tmp_path)
    async with (
        shop(BINARY, tls, tls_handshakes_max=2) as s,
        await s.terminal(trusting) as before,
        await s.terminal(),
        await s.terminal() as second,
    ):
        await until(lambda: s.listener.gauges()["connections"] == 3, "two handshakes under way")
        async with await s.terminal() as third:
            await third.hung_up()
        await s.counted("connections_refused_handshakes")
        assert any(facts["reason"] == "connections_refused_handshakes" for _, facts in s.reports)
        await s.serves_others(before)
        await second.close()
        await until(lambda: s.listener.gauges()["connections"] == 2, "room for one again")
        async with await s.terminal(trusting) as after:
            await s.serves_others(after)


@on_each_loop
async def test_a_flood_of_refused_handshakes_is_counted_in_full_and_told_once(street: Street) -> None:
    async with shop(BINARY, server(street.gateway), report_interval_ms=60_000) as s:
        for _ in range(5):
            async with await s.terminal() as plain:
                plain.writer.write(PLAIN["text"])
                await plain.hung_up()
        await s.counted("handshake_plain_text", 5)
        assert len(s.reports) == 1


@on_each_loop
async def test_close_gives_up_handshakes_that_are_under_way(tmp_path: Path) -> None:
    tls, _ = tls_contexts(tmp_path)
    async with shop(BINARY, tls) as s, await s.terminal() as silent:
        await until(lambda: s.listener.gauges()["connections"] == 1, "its handshake under way")
        async with asyncio.timeout(2):
            await s.listener.close()
        assert s.listener.gauges()["connections"] == 0
        await silent.hung_up()


# --- whom a certificate may speak for ---------------------------------------------------------------------------------

NAMED = {
    "common name": ({"common_name": OWN}, {}),
    "alternative name": ({"common_name": "Till 3", "uris": [f"holdfast:terminal:{OWN}"]}, {}),
    "several": ({"uris": [f"holdfast:terminal:{OTHER}", f"holdfast:terminal:{OWN}"]}, {}),
    "wildcard, where allowed": ({"uris": ["holdfast:terminal:*"]}, {"allow_wildcard": True}),
    "anything, where not bound": ({"common_name": OTHER}, {"bind_terminal_ids": False}),
}
NOT_NAMED = {
    "another": ({"common_name": OTHER}, {}),
    "another case": ({"common_name": OWN.lower()}, {}),
    "a beginning": ({"common_name": OWN[:-1]}, {}),
    "more than it": ({"common_name": OWN + "1"}, {}),
    "wildcard, not allowed": ({"uris": ["holdfast:terminal:*"]}, {}),
    "wildcard as common name": ({"common_name": "*"}, {"allow_wildcard": True}),
    "part of a wildcard": ({"uris": ["holdfast:terminal:T*"]}, {"allow_wildcard": True}),
    "a DNS name": ({"dns": [OWN]}, {}),
    "another URI": ({"uris": [f"urn:terminal:{OWN}"]}, {}),
    "nobody": ({}, {}),
}


@pytest.mark.parametrize("what", NAMED)
@on_each_loop
async def test_a_certificate_speaks_for_the_terminals_that_it_names(street: Street, what: str) -> None:
    names, settings = NAMED[what]
    shown = street.ca.issue("terminal", **names, usage=CLIENTS)  # type: ignore[arg-type]
    async with _bound(street, shown, **settings) as (s, terminal):
        await s.serves_others(terminal)
        assert s.listener.counters()["answered_not_permitted"] == 0


@pytest.mark.parametrize("what", NOT_NAMED)
@on_each_loop
async def test_a_message_of_another_terminal_is_answered_58_and_stored_nowhere(street: Street, what: str) -> None:
    names, settings = NOT_NAMED[what]
    shown = street.ca.issue("terminal", **names)  # type: ignore[arg-type]
    async with _bound(street, shown, **settings) as (s, terminal):
        terminal.send(sale(BINARY, 1))
        answer = await terminal.receive()
        assert (answer.mti, answer.fields[11], answer.fields[39]) == ("0210", "000001", "58")
        assert s.requested == []
        assert s.listener.counters()["answered_not_permitted"] == 1
        (told,) = [facts for _, facts in s.reports]
        assert told["reason"] == "answered_not_permitted"
        assert told["peer"].startswith("127.0.0.1:")
        assert told["detail"] == "its certificate names other terminals"


@on_each_loop
async def test_after_a_58_the_connection_goes_on_for_its_own_terminal(street: Street) -> None:
    async with _bound(street, street.ca.issue("terminal", common_name=OWN)) as (s, terminal):
        for mti in ("0200", "0220", "0400", "0800"):
            message = sale(BINARY, 1, f41=OTHER)
            message.mti = mti
            terminal.send(message)
            answer = await terminal.receive()
            assert (answer.mti, answer.fields[39]) == (mti[:2] + "10" if mti != "0220" else "0230", "58")
        assert s.requested == []
        await s.serves_others(terminal)


@on_each_loop
async def test_where_certificates_are_optional_one_that_is_shown_binds_and_none_does_not(street: Street) -> None:
    tls = server(street.gateway, street.ca, require_client_certificate=False)
    shown = street.terminal(street.ca.issue("terminal", common_name=OTHER))
    async with shop(BINARY, tls) as s, await s.terminal(shown) as bound, await s.terminal(client(street.ca)) as bare:
        bound.send(sale(BINARY, 1))
        assert (await bound.receive()).fields[39] == "58"
        await s.serves_others(bare)


@asynccontextmanager
async def _bound(street: Street, shown: Issued, **settings: bool) -> AsyncIterator[tuple[Shop, Terminal]]:
    tls = server(street.gateway, street.ca, **settings)
    async with shop(BINARY, tls) as s, await s.terminal(street.terminal(shown)) as terminal:
        yield s, terminal


# --- new certificates -------------------------------------------------------------------------------------------------


@on_each_loop
async def test_new_files_are_for_new_handshakes_and_open_connections_go_on(street: Street) -> None:
    tls = server(street.gateway, street.ca)
    reports: list[tuple[str, dict[str, str]]] = []
    watch = CertificateWatch({"terminals": tls}, lambda *told: reports.append(told), lambda: 0)
    async with shop(BINARY, tls) as s, await s.terminal(street.terminal()) as old:
        await s.serves_others(old)
        shown_before = street.ca.issue("old-terminal", common_name=OWN)
        successor = Authority(street.ca.folder, "successor")
        street.gateway.replace(successor.issue("renewed", dns=["localhost"]))
        street.ca.ca_file.write_bytes(successor.ca_file.read_bytes())
        watch.reload()
        assert [name for name, _ in reports] == ["tls.reloaded"]
        async with await s.terminal(client(successor, successor.issue("t", common_name=OWN))) as new:
            await s.serves_others(new)
            await s.serves_others(old)
        assert await asyncio.to_thread(_knock, s.address, client(successor, shown_before)) == b""
        await s.counted(Count.HANDSHAKE_UNTRUSTED.value)


@on_each_loop
async def test_broken_new_files_leave_the_old_ones_in_use_and_are_told_of_once(street: Street) -> None:
    tls = server(street.gateway, street.ca)
    reports: list[tuple[str, dict[str, str]]] = []
    watch = CertificateWatch({"terminals": tls}, lambda *told: reports.append(told), lambda: 0, interval_ms=10)
    watch.start()
    try:
        async with shop(BINARY, tls) as s:
            street.gateway.certificate_file.write_text("half a certif")
            await until(lambda: bool(reports), "told")
            async with await s.terminal(street.terminal()) as terminal:
                await s.serves_others(terminal)
            assert not tls.reload()  # as the next look does: the files are those of the last one
            assert [name for name, _ in reports] == ["tls.reload-failed"]
            assert reports[0][1]["reason"].startswith("certificate_file holds no PEM certificate")
            watch.reload()  # as SIGHUP does: told again
            assert [name for name, _ in reports] == ["tls.reload-failed"] * 2
            street.gateway.replace(street.ca.issue("repaired", dns=["localhost"]))
            await until(lambda: reports[-1][0] == "tls.reloaded", "repaired")
    finally:
        watch.close()


@on_each_loop
async def test_a_terminal_that_loses_power_within_tls_gives_its_place_back(street: Street) -> None:
    async with shop(BINARY, server(street.gateway)) as s:
        terminal: Terminal = await s.terminal(street.terminal())
        await s.serves_others(terminal)
        sock = terminal.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        terminal.writer.transport.abort()
        await until(lambda: s.listener.gauges()["connections"] == 0, "its place is free")
