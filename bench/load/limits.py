"""`holdfast-bench limits`: what this machine could do at most, part by part, and the gateway as a fraction of each.

All parts are measured by turns in one run, on the disk that is meant: the disk's syncs, an event loop that sends the
same frames back, a bare path that keeps them, aiohttp with the same JSON, ciphers and hashes, SQLite with the same
rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.load.by_turns import run_by_turns, start_standing
from bench.load.fingerprint import disclosed_options, fingerprint
from bench.load.limits_parts import leaf_rate, seal_rate, sqlite_rate, sync_times
from bench.load.limits_servers import BareHttpPeer, EchoPeer
from bench.load.peers_bare import BarePeer
from bench.load.peers_gateway import GatewayPeer, HttpGatewayPeer, RecordSizes
from bench.load.peers_rounds import Load, Standing, measure, rotated
from bench.load.results import Figure, Fingerprint, Results
from bench.screen import Screen

_SMALL: Final = 64
_LARGE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsOptions:
    """What is measured, and for how long.

    Attributes:
        clients: each with one request in flight, where there are sockets.
        rounds, seconds: of each part, by turns.
        folder: where everything is stored, on the disk that is meant; None is the system's temporary folder.
    """

    clients: int = 64
    rounds: int = 3
    seconds: float = 2.0
    folder: Path | None = None


@dataclass(slots=True, kw_only=True)
class Part:
    """Something without a socket. `measure` gives one value for each of `names`."""

    names: tuple[str, ...]
    unit: str
    note: str
    measure: Callable[[], tuple[float, ...]]
    values: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Limits:
    """What came of it. `stored` and `http` are the gateway by its two listeners."""

    stored: Standing
    http: Standing
    echo: Standing
    bare_http: Standing
    bare_path: Standing
    parts: list[Part] = field(default_factory=list)
    interrupted: bool = False
    fingerprint: Fingerprint | None = None

    @property
    def standings(self) -> list[Standing]:
        """Those with sockets."""
        return [self.stored, self.http, self.echo, self.bare_path, self.bare_http]


def run(options: LimitsOptions, json_path: Path | None = None) -> int:
    """Measure, print, and write the document.

    Returns:
        0; 1 where a part could not be measured; 130 after Ctrl-C, with what was measured until then.
    """
    return run_by_turns(
        "What this machine can do at most",
        options.folder,
        json_path,
        lambda folder, screen: measure_limits(options, folder, screen),
        lambda limits, began: report(options, limits, began),
    )


async def measure_limits(options: LimitsOptions, folder: Path, screen: Screen) -> Limits:
    """Start the servers, measure all parts by turns, and stop the servers.

    Cancellation: taken as the wish to end; what was measured until then is returned.
    """
    began = time.monotonic()
    gateway = GatewayPeer(folder / "gateway", terminals=options.clients)
    limits = Limits(
        stored=Standing(peer=gateway),
        http=Standing(peer=HttpGatewayPeer(gateway)),
        echo=Standing(peer=EchoPeer(folder / "echo", gateway.setup.terminal_dialect)),
        bare_http=Standing(peer=BareHttpPeer(folder / "http")),
        bare_path=Standing(peer=BarePeer(folder / "bare", gateway.setup.terminal_dialect)),
    )

    def phase(text: str) -> None:
        screen.phase(time.monotonic() - began, text)

    try:
        limits.fingerprint = fingerprint(folder, gateway.setup.toml())
        for standing in limits.standings:
            phase(f"starting {standing.peer.name}")
            await start_standing(standing, b"")
        sizes = gateway.sizes() if not limits.stored.problem else RecordSizes(body=200, account=300, row=240)
        limits.parts = parts(folder, sizes, options.seconds)
        load = Load(clients=options.clients, seconds=options.seconds, warm_up_s=options.seconds / 4, payload=b"")
        for number in range(1, options.rounds + 1):
            of = f"round {number} of {options.rounds}: "
            await measure(
                limits.standings,
                load,
                (number,),
                lambda _, standing, of=of: phase(f"{of}{standing.peer.name} for {options.seconds:g} s"),  # type: ignore[misc]
            )
            for part in rotated(limits.parts, number - 1):
                phase(f"{of}{part.names[0]} for {options.seconds:g} s")
                part.values.append(await asyncio.to_thread(part.measure))
    except asyncio.CancelledError:
        limits.interrupted = True
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            phase("stopping the servers")
        await asyncio.gather(*(standing.peer.stop() for standing in limits.standings))
    for standing in limits.standings:
        standing.disclose(folder)
    return limits


def parts(folder: Path, sizes: RecordSizes, seconds: float) -> list[Part]:
    """The parts without sockets, each measured for so many seconds a turn."""

    def synced(*, grow: bool) -> tuple[float, ...]:
        times = sync_times(folder, seconds, grow=grow)
        return times.median_us, times.p99_us

    def committed(batch: int) -> Part:
        one = "one row set a commit" if batch == 1 else f"commits of {batch}"
        return Part(
            names=(f"SQLite, {one}",),
            unit="1/s",
            note=f"the journal's tables and settings, rows of its sizes made beforehand, {one}, each synced",
            measure=lambda: (sqlite_rate(folder, sizes, batch, seconds),),
        )

    return [
        Part(
            names=("sync of 4 KiB appended, median", "sync of 4 KiB appended, p99"),
            unit="us",
            note="fdatasync after each write at the end of a file that grows",
            measure=lambda: synced(grow=True),
        ),
        Part(
            names=("sync of 4 KiB overwritten, median", "sync of 4 KiB overwritten, p99"),
            unit="us",
            note="fdatasync after each write over blocks that are there, as in a log that has wrapped",
            measure=lambda: synced(grow=False),
        ),
        Part(
            names=("AES-256-GCM seal",),
            unit="1/s",
            note=f"an account part of {sizes.account} bytes: key derivation, encryption, commitments; one core",
            measure=lambda: (seal_rate(folder, sizes, seconds),),
        ),
        Part(
            names=("SHA-256 leaf",),
            unit="1/s",
            note=f"an entry of {sizes.body} bytes; one core",
            measure=lambda: (leaf_rate(sizes, seconds),),
        ),
        *(committed(batch) for batch in (_LARGE, _SMALL, 1)),
    ]


def report(options: LimitsOptions, limits: Limits, began: datetime) -> Results:
    """The document."""
    stored, over_http = limits.stored.rate_per_s, limits.http.rate_per_s
    figures = [
        _served(limits.stored, stored),
        _served(limits.echo, stored),
        _served(limits.bare_path, stored),
        _served(limits.http, over_http),
        _served(limits.bare_http, over_http, "; the fraction is of Holdfast over HTTP"),
    ]
    for part in limits.parts:
        figures += _measured(part, stored)
    broken = [each for each in limits.standings if each.problem]
    given = {name: value for name, value in asdict(options).items() if isinstance(value, str | int | float | bool)}
    assert limits.fingerprint is not None
    return Results(
        command="limits",
        began_utc=began.isoformat(timespec="seconds"),
        options=disclosed_options(given),
        held=not broken and not limits.interrupted,
        verdict=_verdict(options, limits, figures, broken),
        figures=figures,
        fingerprint=limits.fingerprint,
    )


def _served(one: Standing, rate_per_s: float, more: str = "") -> Figure:
    rate = one.rate_per_s
    fraction = round(rate_per_s / rate, 3) if rate else 0.0
    return Figure(name=one.peer.name, value=round(rate, 1), unit="1/s", fraction=fraction, note=one.note() + more)


def _measured(part: Part, rate_per_s: float) -> list[Figure]:
    """The figures of a part. A time counts as the rate of doing it one after the other."""
    figures = []
    for place, name in enumerate(part.names):
        values = [each[place] for each in part.values]
        value = statistics.median(values) if values else 0.0
        note = part.note if values else "not measured: it was interrupted before"
        fraction = 0.0
        if value:
            fraction = rate_per_s * value / 1e6 if part.unit == "us" else rate_per_s / value
        figures.append(Figure(name=name, value=round(value, 1), unit=part.unit, fraction=round(fraction, 3), note=note))
    return figures


def _verdict(
    options: LimitsOptions, limits: Limits, figures: Sequence[Figure], broken: Sequence[Standing]
) -> list[str]:
    lines = []
    stored, over_http = limits.stored, limits.http
    if stored.rates_per_s and limits.echo.rates_per_s:
        share = stored.rate_per_s / limits.echo.rate_per_s
        lines.append(f"Holdfast stores {stored.rate_per_s:,.0f} a second: {share:.3f} of the echo ceiling")
    if stored.rates_per_s and limits.bare_path.rates_per_s:
        share = stored.rate_per_s / limits.bare_path.rate_per_s
        lines.append(f"{share:.3f} of a bare path, which does nothing but keep and answer")
    if over_http.rates_per_s and limits.bare_http.rates_per_s:
        share = over_http.rate_per_s / limits.bare_http.rate_per_s
        lines.append(f"over HTTP {over_http.rate_per_s:,.0f} a second: {share:.3f} of bare aiohttp")
    of_sqlite = [f for f in figures if f.unit == "1/s" and f.name.startswith("SQLite")]
    nearest = max(of_sqlite, key=lambda f: f.value, default=None)
    if nearest is not None and nearest.fraction:
        lines.append(f"{nearest.fraction:.3f} of what SQLite takes of the same rows ({nearest.name})")
    lines.append(
        f"{options.clients} clients with one in flight, medians of up to {options.rounds} rounds of "
        f"{options.seconds:g} s by turns"
    )
    lines += [f"BROKEN: {each.peer.name}: {each.problem}" for each in broken]
    lines += [
        f"the generator may have been the limit of {each.peer.name}"
        for each in limits.standings
        if each.generator_was_limit
    ]
    if limits.interrupted:
        lines.append("interrupted: these are the rounds until then")
    return lines
