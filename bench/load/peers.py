"""`holdfast-bench peers`: the gateway beside what a user would pick instead, for the durable part of the same work.

Every server keeps a record under a unique key and acknowledges it after a sync that covers it; clients have one request
in flight each. The others are given a finished record of the size that the gateway stores: that it also reads, judges,
encrypts and hashes is its own affair. Rounds go by turns, figures are medians, ratios are from one run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import uvloop

from bench.load.fingerprint import disclosed_options, fingerprint
from bench.load.peers_gateway import GatewayPeer
from bench.load.peers_nats import NatsPeer
from bench.load.peers_plain import PlainPeer
from bench.load.peers_postgresql import PostgresPeer
from bench.load.peers_proof import prove
from bench.load.peers_redis import RedisPeer
from bench.load.peers_rounds import Load, Standing, measure
from bench.load.peers_server import Peer, PeerBroken, PeerMissing, measuring_folder, open_files
from bench.load.results import Figure, Fingerprint, Results, write_results
from bench.screen import Screen

PEERS: Final = ("nats", "nats-streams", "postgresql", "redis", "plain")
_STREAMS: Final = 8
INTERRUPTED: Final = 130
_PROOF_BYTES: Final = 500
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersOptions:
    """What is compared, and how.

    Attributes:
        clients: each with one request in flight.
        rounds, seconds, warm_up_s: of each server, by turns.
        commit_delay_ms: added to every commit of the gateway and of the plain handler, as a slower disk would; the
            others cannot be told.
        payload_bytes: size of the record that the others store; 0 is what the gateway stores.
        only: names out of `PEERS`; empty is all of them.
        folder: where everything is stored, on the disk that is meant; None is the system's temporary folder.
    """

    clients: int = 64
    rounds: int = 5
    seconds: float = 4.0
    warm_up_s: float = 0.5
    commit_delay_ms: float = 0.0
    payload_bytes: int = 0
    only: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What came of it. The gateway stands first."""

    standings: list[Standing]
    payload_bytes: int = 0
    interrupted: bool = False
    fingerprint: Fingerprint | None = None


def run(options: PeersOptions, json_path: Path | None = None) -> int:
    """Measure, print, and write the document.

    Returns:
        0; 1 where a server broke or lost something; 130 after Ctrl-C, with what was measured until then. A server that
        is not installed is a line and no failure.
    """
    began = datetime.now(UTC)
    open_files()
    with measuring_folder(options.folder) as folder, Screen("Holdfast beside others") as screen:
        comparison = uvloop.run(until_signal(lambda: compare(options, folder, screen)))
    results = report(options, comparison, began)
    show(results, screen)
    if json_path is not None:
        write_results(results, json_path)
    if comparison.interrupted:
        return INTERRUPTED
    return 0 if results.held else 1


async def until_signal(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do work that Ctrl-C and SIGTERM cancel, once: stopping the servers, which follows, is bounded in time."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    wished = False

    def end() -> None:
        nonlocal wished
        if not wished:
            wished = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        return await work()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def chosen(options: PeersOptions, folder: Path) -> list[Peer]:
    """The gateway, and the peers that were asked for."""
    makers: dict[str, Callable[[Path], Peer]] = {
        "nats": NatsPeer,
        "nats-streams": lambda place: NatsPeer(place, streams=_STREAMS),
        "postgresql": PostgresPeer,
        "redis": RedisPeer,
        "plain": lambda place: PlainPeer(place, commit_delay_ms=options.commit_delay_ms),
    }
    gateway = GatewayPeer(folder / "gateway", terminals=options.clients, commit_delay_ms=options.commit_delay_ms)
    return [gateway, *(makers[name](folder / name) for name in PEERS if not options.only or name in options.only)]


async def compare(options: PeersOptions, folder: Path, screen: Screen, peers: Sequence[Peer] = ()) -> Comparison:
    """Start everybody, have each prove itself, measure by turns, and stop everybody.

    Args:
        peers: the gateway and others, instead of those that the options choose.
    Cancellation: taken as the wish to end; what was measured until then is returned.
    """
    began = time.monotonic()
    comparison = Comparison(standings=[Standing(peer=peer) for peer in peers or chosen(options, folder)])
    try:
        comparison.fingerprint = fingerprint(folder)
        for standing in comparison.standings:
            screen.phase(time.monotonic() - began, f"starting {standing.peer.name}")
            await _started(standing)
        payload = os.urandom(options.payload_bytes or _gateway_record(comparison.standings[0]))
        comparison.payload_bytes = len(payload)
        load = Load(clients=options.clients, seconds=options.seconds, warm_up_s=options.warm_up_s, payload=payload)

        def progress(number: int, standing: Standing) -> None:
            screen.counts({each.peer.name: round(each.rate_per_s) for each in comparison.standings})
            at_s = time.monotonic() - began
            screen.phase(at_s, f"round {number} of {options.rounds}: {standing.peer.name} for {options.seconds:g} s")

        await measure(comparison.standings, load, range(1, options.rounds + 1), progress)
    except asyncio.CancelledError:
        comparison.interrupted = True
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
    finally:
        screen.phase(time.monotonic() - began, "stopping the servers")
        await asyncio.gather(*(standing.peer.stop() for standing in comparison.standings))
    for standing in comparison.standings:
        standing.disclose(folder)
    return comparison


async def _started(standing: Standing) -> None:
    """Start one server and prove that it stores, once, what it acknowledges; what is wrong is noted."""
    try:
        await standing.peer.start()
        await prove(standing.peer, os.urandom(_PROOF_BYTES))
    except PeerMissing as missing:
        standing.problem, standing.missing = str(missing), True
    except (PeerBroken, OSError) as broken:
        standing.problem = f"{broken}"


def _gateway_record(standing: Standing) -> int:
    """Bytes of the record that the gateway stored in its proof, or of a typical one where it is broken."""
    peer = standing.peer
    if standing.problem or not isinstance(peer, GatewayPeer):
        return _PROOF_BYTES
    return peer.sizes().record


def report(options: PeersOptions, comparison: Comparison, began: datetime) -> Results:
    """The document of a comparison."""
    gateway, *others = comparison.standings
    figures = [_figure(gateway, gateway)]
    figures += [_figure(gateway, other) for other in others]
    broken = [each for each in comparison.standings if each.problem and not each.missing]
    given = {name: value for name, value in asdict(options).items() if isinstance(value, str | int | float | bool)}
    given |= {"only": " ".join(options.only), "record_bytes": comparison.payload_bytes}
    assert comparison.fingerprint is not None
    return Results(
        command="peers",
        began_utc=began.isoformat(timespec="seconds"),
        options=disclosed_options(given),
        held=not broken and not comparison.interrupted,
        verdict=_verdict(options, comparison),
        figures=figures,
        fingerprint=comparison.fingerprint,
    )


def _figure(gateway: Standing, one: Standing) -> Figure:
    rate = one.rate_per_s
    return Figure(
        name=one.peer.name,
        value=round(rate, 1),
        unit="1/s",
        fraction=round(gateway.rate_per_s / rate, 3) if rate else 0.0,
        note=one.note(),
    )


def _verdict(options: PeersOptions, comparison: Comparison) -> list[str]:
    gateway, *others = comparison.standings
    lines = []
    if gateway.rates_per_s:
        times = [
            f"{gateway.rate_per_s / each.rate_per_s:.2f} x {each.peer.name}" for each in others if each.rates_per_s
        ]
        lines.append(f"Holdfast stores {gateway.rate_per_s:,.0f} a second: {', '.join(times) or 'nobody beside it'}")
    lines.append(
        f"{options.clients} clients with one in flight, records of {comparison.payload_bytes} bytes, "
        f"medians of up to {options.rounds} rounds of {options.seconds:g} s by turns"
    )
    lines += [f"missing: {each.peer.name}: {each.problem}" for each in comparison.standings if each.missing]
    lines += [
        f"BROKEN: {each.peer.name}: {each.problem}"
        for each in comparison.standings
        if each.problem and not each.missing
    ]
    if comparison.interrupted:
        lines.append("interrupted: these are the rounds until then")
    if comparison.fingerprint is not None and comparison.fingerprint.file_system in ("tmpfs", "ramfs"):
        lines.append("the folder is in memory: syncs cost nothing here, and these figures say nothing; give --folder")
    return lines


def show(results: Results, screen: Screen) -> None:
    """Print the verdict, then each figure, Holdfast's rate as a fraction of it, and how it was measured."""
    for number, line in enumerate(results.verdict):
        screen.line(line, "bold" if not number else "")
    screen.line()
    width = max(len(figure.name) for figure in results.figures)
    screen.line(f"  {'':<{width}} {'':>16} {'Holdfast is':>12}")
    for figure in results.figures:
        value = f"{figure.value:>11,.0f} {figure.unit:<4}" if figure.value else f"{'-':>11}     "
        share = f"{figure.fraction:>10.3f} x" if figure.fraction else f"{'':>12}"
        screen.line(f"  {figure.name:<{width}} {value} {share}")
        screen.line(f"      {figure.note}", "dim")
