"""Ports that are given out: nobody else's while they are kept, and one's own to listen on as often as one likes."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bench import ports
from bench.ports import free_ports


def _taken(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def test_no_port_is_given_out_twice_nor_found_free_by_another_bench() -> None:
    given = [port for _ in range(20) for port in free_ports(5)]
    assert len(set(given)) == 100
    assert all(_taken(port) for port in given)


def test_a_server_listens_on_it_again_and_again_and_nobody_beside_it() -> None:
    async def listens() -> None:
        (port,) = free_ports(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(OSError, match="in use"):
                await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            writer.close()
            server.close()
            await server.wait_closed()

    asyncio.run(listens())


def test_the_oldest_are_given_back_so_that_descriptors_do_not_run_out() -> None:
    free_ports(128)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        free_ports(5)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_where_there_are_not_so_many_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(ports, "_PORTS", range(port, port + 1))
    monkeypatch.setattr(ports, "_TRIES", 1)
    with pytest.raises(OSError, match="no 1 free ports"):
        free_ports(1)
