"""Lines of a running gateway: what its log says of those who are refused, and new certificates on SIGHUP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path

from bench.child import LOG_NAME, Gateway, Setup
from bench.ports import free_ports
from protocol.iso8583.dialect import load_dialect
from tests.acquirers.certificates import Authority, client
from tests.gateway.shop import comes_true, play
from tests.terminals.terminal import Terminal, sale

DIALECT = load_dialect("iso87-binary")
OWN = "T0000001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured(Setup):
    """A gateway whose terminals show certificates."""

    def toml(self) -> str:
        tls = '[terminals.tls]\ncertificate_file = "own.pem"\nkey_file = "own.key"\nclient_ca_file = "ca.pem"\n'
        return Setup.toml(self).replace("[acquirer]", f"{tls}[acquirer]", 1)


def test_who_is_refused_stands_in_the_log_and_sighup_takes_new_certificates_into_use(tmp_path: Path) -> None:
    async def story() -> None:
        terminals, operations, acquirer = free_ports(3)
        setup = Secured(
            terminal_port=terminals,
            operations_port=operations,
            acquirer_port=acquirer,
            terminal_dialect="iso87-binary",
        )
        gateway = Gateway(tmp_path, setup)
        await gateway.prepare()
        ca, successor = Authority(tmp_path), Authority(tmp_path, "successor")
        own = ca.issue("own", dns=["localhost"])
        await gateway.start()
        try:
            old = await _terminal(terminals, client(ca, ca.issue("old", common_name=OWN)))
            assert await _asked(old, OWN) != "58"
            assert await _asked(old, "T0000002") == "58"
            await _refused(terminals, client(ca, successor.issue("stranger", common_name=OWN)))
            await comes_true("told", lambda: _told(tmp_path, reason="handshake_untrusted_ca"))
            assert _told(tmp_path, reason="answered_not_permitted")

            own.replace(successor.issue("renewed", dns=["localhost"]))
            ca.ca_file.write_bytes(successor.ca_file.read_bytes())
            os.kill(gateway.pid, signal.SIGHUP)
            await comes_true("reloaded", lambda: _told(tmp_path, event="tls.reloaded"))
            new = await _terminal(terminals, client(successor, successor.issue("new", common_name=OWN)))
            assert await _asked(new, OWN) != "58"
            assert await _asked(old, OWN) != "58"
            await old.close()
            await new.close()
            assert await gateway.stop() == 0
        finally:
            await gateway.kill()

    play(story())


async def _terminal(port: int, tls: ssl.SSLContext) -> Terminal:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
    return Terminal(DIALECT, reader, writer)


async def _asked(terminal: Terminal, name: str) -> str:
    """The code that a terminal of this name is answered."""
    terminal.send(sale(DIALECT, 1, f41=name))
    return (await terminal.receive()).fields[39]


async def _refused(port: int, tls: ssl.SSLContext) -> None:
    terminal = await _terminal(port, tls)  # in TLS 1.3 a terminal is through before it is refused
    await terminal.hung_up()
    await terminal.close()


def _told(folder: Path, **facts: str) -> bool:
    """Whether the gateway's log has a line with these facts."""
    lines = [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines() if line.startswith("{")]
    return any(all(line.get(name) == fact for name, fact in facts.items()) for line in lines)
