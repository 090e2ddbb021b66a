"""Terminals over TLS: the same answers, and limits that stand before the handshake."""

from __future__ import annotations

import asyncio
from pathlib import Path

from protocol.iso8583.dialect import load_dialect
from tests.acquirers.certificates import tls_contexts
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.terminal import sale, shop

BINARY = load_dialect("iso87-binary")


@on_each_loop
async def test_terminals_are_served_over_tls(tmp_path: Path) -> None:
    server, client = tls_contexts(tmp_path)
    async with shop(BINARY, server) as s, await s.terminal(client) as terminal:
        terminal.send(*(sale(BINARY, stan) for stan in range(100)))
        assert [int((await terminal.receive()).fields[11]) for _ in range(100)] == list(range(100))


@on_each_loop
async def test_handshakes_under_way_count_and_one_that_is_not_finished_gives_its_place_back(tmp_path: Path) -> None:
    server, client = tls_contexts(tmp_path)
    async with shop(BINARY, server, connections_max=2, tls_handshake_timeout_ms=150) as s:
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
        async with await s.terminal(client) as terminal:
            await s.serves_others(terminal)


@on_each_loop
async def test_close_gives_up_handshakes_that_are_under_way(tmp_path: Path) -> None:
    server, _ = tls_contexts(tmp_path)
    async with shop(BINARY, server) as s, await s.terminal() as silent:
        await until(lambda: s.listener.gauges()["connections"] == 1, "its handshake under way")
        async with asyncio.timeout(2):
            await s.listener.close()
        assert s.listener.gauges()["connections"] == 0
        await silent.hung_up()
