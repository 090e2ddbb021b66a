"""What the machine can do at most: every part is really measured, and the gateway beside it."""

from __future__ import annotations

import asyncio
import sqlite3
from array import array
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop

from bench.load import limits_parts
from bench.load.fingerprint import fingerprint
from bench.load.limits import Limits, LimitsOptions, parts, report, run
from bench.load.limits_parts import leaf_rate, seal_rate, sqlite_rate, sync_times
from bench.load.limits_servers import BareHttpPeer, EchoPeer
from bench.load.peers_bare import BarePeer
from bench.load.peers_gateway import GatewayPeer, HttpGatewayPeer, RecordSizes
from bench.load.peers_proof import OneByOne, prove
from bench.load.peers_rounds import Load, Standing, one_round, p99_us
from bench.load.peers_server import PeerBroken, hang_up, measuring_folder
from bench.load.results import read_results
from bench.load.tally import Outcome

SIZES = RecordSizes(body=190, account=230, row=240)
SHORT = Load(clients=4, seconds=0.2, warm_up_s=0.1, payload=b"")


def test_a_run_measures_every_part_and_writes_a_document_that_reads_back(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    options = LimitsOptions(clients=4, rounds=2, seconds=0.15, folder=place)
    assert run(options, tmp_path / "limits.json") == 0
    results = read_results(tmp_path / "limits.json")
    assert (results.command, results.held, results.total) == ("limits", True, None)
    by_name = {figure.name: figure for figure in results.figures}
    assert list(by_name) == [
        "Holdfast",
        "event-loop echo",
        "bare path",
        "Holdfast, HTTP",
        "bare aiohttp",
        "sync of 4 KiB appended, median",
        "sync of 4 KiB appended, p99",
        "sync of 4 KiB overwritten, median",
        "sync of 4 KiB overwritten, p99",
        "AES-256-GCM seal",
        "SHA-256 leaf",
        "SQLite, commits of 256",
        "SQLite, commits of 64",
        "SQLite, one row set a commit",
    ]
    assert all(figure.value > 0 for figure in results.figures)
    stored, over_http = by_name["Holdfast"], by_name["Holdfast, HTTP"]
    echo, bare = by_name["event-loop echo"], by_name["bare aiohttp"]
    assert echo.fraction == pytest.approx(stored.value / echo.value, abs=0.002)
    assert bare.fraction == pytest.approx(over_http.value / bare.value, abs=0.002)
    assert echo.value > stored.value
    path = by_name["bare path"]
    assert path.fraction == pytest.approx(stored.value / path.value, abs=0.002)
    assert list(place.iterdir()) == []


def test_a_sync_time_counts_as_the_rate_of_one_sync_after_the_other() -> None:
    async def scenario(folder: Path) -> Limits:
        gateway = GatewayPeer(folder / "gateway", terminals=4)
        limits = Limits(
            stored=Standing(peer=gateway, rates_per_s=[2_000.0], p99_us=[1.0], generator_cpu=[0.95]),
            http=Standing(peer=HttpGatewayPeer(gateway), problem="it broke"),
            echo=Standing(peer=EchoPeer(folder / "echo", "unionpay")),
            bare_http=Standing(peer=BareHttpPeer(folder / "http")),
            bare_path=Standing(peer=BarePeer(folder / "bare", "unionpay")),
            parts=parts(folder, SIZES, 0.1),
        )
        limits.parts[0].values = [(100.0, 500.0), (300.0, 900.0), (200.0, 700.0)]
        return limits

    with measuring_folder(None) as folder:
        limits = asyncio.run(scenario(folder))
        limits.fingerprint = fingerprint(folder)
    for standing in (limits.echo, limits.bare_http, limits.bare_path):
        standing.problem = "the server ended with 1"
    results = report(LimitsOptions(), limits, datetime.now(UTC))
    median, p99 = results.figures[5:7]
    assert (median.value, p99.value) == (200.0, 700.0)
    assert median.fraction == pytest.approx(0.4)
    assert not results.held
    assert "BROKEN: Holdfast, HTTP: it broke" in results.verdict
    assert "the generator may have been the limit of Holdfast" in results.verdict
    assert results.figures[7].note == "not measured: it was interrupted before"


def test_limits_that_were_interrupted_before_anything_was_measured_say_so() -> None:
    with measuring_folder(None) as folder:
        gateway = GatewayPeer(folder / "gateway", terminals=4)
        limits = Limits(
            stored=Standing(peer=gateway),
            http=Standing(peer=HttpGatewayPeer(gateway)),
            echo=Standing(peer=EchoPeer(folder / "echo", "unionpay")),
            bare_http=Standing(peer=BareHttpPeer(folder / "http")),
            bare_path=Standing(peer=BarePeer(folder / "bare", "unionpay")),
            interrupted=True,
            fingerprint=fingerprint(folder),
        )
    results = report(LimitsOptions(), limits, datetime.now(UTC))
    assert not results.held
    assert results.verdict[-1] == "interrupted: these are the rounds until then"
    assert {one.note.partition(";")[0] for one in results.figures} == {"not measured: it was interrupted before"}


def test_the_gateway_stores_what_tills_sell_over_http() -> None:
    async def scenario(folder: Path) -> None:
        gateway = GatewayPeer(folder / "gateway", terminals=4)
        tills = HttpGatewayPeer(gateway)
        try:
            await gateway.start()
            await prove(gateway, b"")
            await prove(tills, b"")
            await one_round(tills, SHORT, 1)
            sizes = gateway.sizes()
        finally:
            await gateway.stop()
        assert tills.ended()
        assert 150 < sizes.body < 300
        assert 150 < sizes.account < 600
        assert 100 < sizes.row < 400

    with measuring_folder(None) as folder:
        uvloop.run(scenario(folder))


def test_the_echo_and_the_bare_handler_send_back_what_was_sent() -> None:
    async def scenario(folder: Path) -> None:
        for peer in (EchoPeer(folder / "echo", "unionpay"), BareHttpPeer(folder / "http")):
            one = OneByOne()
            try:
                await peer.start()
                clients = await peer.join(one, 1, 1, b"")
                assert [await one.sent(number) for number in range(3)] == [Outcome.APPROVED] * 3
                hang_up(clients)
                result = await one_round(peer, SHORT, 2)
                assert result.answered > SHORT.clients
            finally:
                await peer.stop()
            with pytest.raises((OSError, PeerBroken)):
                await one_round(peer, SHORT, 3)

    with measuring_folder(None) as folder:
        uvloop.run(scenario(folder))


def test_syncs_are_timed_and_their_files_are_gone(tmp_path: Path) -> None:
    for grow in (True, False):
        times = sync_times(tmp_path, 0.05, grow=grow)
        assert 0 < times.median_us <= times.p99_us
    assert list(tmp_path.iterdir()) == []


def test_a_commit_for_each_record_is_slower_than_one_for_many(tmp_path: Path) -> None:
    assert sqlite_rate(tmp_path, SIZES, 256, 0.2) > 1.5 * sqlite_rate(tmp_path, SIZES, 1, 0.2)
    assert list(tmp_path.iterdir()) == []


def test_sqlite_really_holds_the_rows_that_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the file of the measurement before it is gone."""
    seen: list[tuple[int, int, int, str, int]] = []
    real = limits_parts._commit

    def watched(connection: sqlite3.Connection, batch: limits_parts._Batch) -> None:
        real(connection, batch)
        (entries,) = connection.execute("SELECT count(*) FROM entry").fetchone()
        (rows,) = connection.execute("SELECT count(*) FROM tx").fetchone()
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        assert not connection.in_transaction
        seen.append((entries, rows, batch.last, mode, level))

    monkeypatch.setattr(limits_parts, "_commit", watched)
    sqlite_rate(tmp_path, SIZES, 5, 0.02)
    assert len(seen) >= 8
    assert seen == [(5 * n, 5 * n, 5 * n, "wal", 2) for n in range(1, len(seen) + 1)]


def test_ciphers_and_hashes_are_measured_with_the_journals_own(tmp_path: Path) -> None:
    assert seal_rate(tmp_path, SIZES, 0.05) > 1_000
    assert leaf_rate(SIZES, 0.05) > seal_rate(tmp_path, SIZES, 0.05)
    assert list(tmp_path.iterdir()) == []


def test_the_99th_percentile_is_of_the_sorted_times() -> None:
    assert p99_us(array("q", range(1_000_000, 0, -10_000))) == 1000.0
    assert p99_us(array("q")) == 0.0
