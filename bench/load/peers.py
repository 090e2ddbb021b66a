"""`holdfast-bench peers`: the gateway beside what a user would pick instead, for the durable part of the same work.

Every server keeps a record under a unique key and acknowledges it after a sync that covers it; clients have one request
in flight each. The others are given a finished record of the size that the gateway stores: that it also reads, judges,
encrypts and hashes is its own affair. Rounds go by turns, figures are medians, ratios are from one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.load.by_turns import run_by_turns, start_standing
from bench.load.fingerprint import disclosed_options, fingerprint
from bench.load.peers_bare import BarePeer
from bench.load.peers_gateway import GatewayPeer
from bench.load.peers_nats import NatsPeer
from bench.load.peers_plain import PlainPeer
from bench.load.peers_postgresql import PostgresPeer
from bench.load.peers_redis import RedisPeer
from bench.load.peers_rounds import Load, Standing, measure
from bench.load.peers_server import Peer
from bench.load.results import Figure, Fingerprint, Results
from bench.screen import Screen

PEERS: Final = ("nats", "nats-streams", "postgresql", "redis", "plain", "bare")
_STREAMS: Final = 8
_PROOF_BYTES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersOptions:
    """What is compared, and how.

    Attributes:
        clients: each with one request in flight.
        rounds, seconds, warm_up_s: of each server, by turns.
        commit_delay_ms: added to every commit of the gateway, the plain handler and the bare path, as a slower disk
            would; the others cannot be told.
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
    return run_by_turns(
        "Holdfast beside others",
        options.folder,
        json_path,
        lambda folder, screen: compare(options, folder, screen),
        lambda comparison, began: report(options, comparison, began),
    )


def chosen(options: PeersOptions, folder: Path) -> list[Peer]:
    """The gateway, and the peers that were asked for."""
    makers: dict[str, Callable[[Path], Peer]] = {
        "nats": NatsPeer,
        "nats-streams": lambda place: NatsPeer(place, streams=_STREAMS),
        "postgresql": PostgresPeer,
        "redis": RedisPeer,
        "plain": lambda place: PlainPeer(place, commit_delay_ms=options.commit_delay_ms),
        "bare": lambda place: BarePeer(place, dialect, commit_delay_ms=options.commit_delay_ms),
    }
    gateway = GatewayPeer(folder / "gateway", terminals=options.clients, commit_delay_ms=options.commit_delay_ms)
    dialect = gateway.setup.terminal_dialect
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
            await start_standing(standing, os.urandom(_PROOF_BYTES))
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
        with contextlib.suppress(OSError):  # the terminal may be gone
            screen.phase(time.monotonic() - began, "stopping the servers")
        await asyncio.gather(*(standing.peer.stop() for standing in comparison.standings))
    for standing in comparison.standings:
        standing.disclose(folder)
    return comparison


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
