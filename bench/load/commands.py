"""The commands that measure: `run`, `limits`, `peers`, `compare`. What they need is imported only when they run."""
# ruff: noqa: PLC0415 - as in bench/cli.py

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.load.options import HELP, ONLY_FOR, OptionsWrong, RunOptions, Scenario, drawn


def in_a_folder(path: Path | None) -> Path | None:
    """Told before hours of measuring, not after them."""
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise typer.BadParameter(f"{path.parent} is no folder that can be written to")
    return path


Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the results to this file.", dir_okay=False, callback=in_a_folder),
]

Clients = Annotated[int, typer.Option(min=1, max=10_000, help="Clients, each with one request in flight.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Rounds, by turns; figures are medians.")]
MeasuredFolder = Annotated[
    Path | None,
    typer.Option(help="Where everything is stored: a folder on the disk that is meant.", exists=True, file_okay=False),
]


def run(
    ctx: typer.Context,
    scenario: Annotated[Scenario, typer.Argument(help=HELP["scenario"])] = Scenario.ONLINE,
    terminals: Annotated[int, typer.Option(min=1, max=100_000, help=HELP["terminals"])] = 64,
    rate: Annotated[float, typer.Option(min=0.01, max=1_000_000, help=HELP["rate"])] = 1_000.0,
    seconds: Annotated[float, typer.Option(min=0.5, max=86_400, help=HELP["seconds"])] = 20.0,
    protocol: Annotated[str, typer.Option(help=HELP["protocol"])] = "iso8583",
    tls: Annotated[bool, typer.Option("--tls", help=HELP["tls"])] = False,
    commit_delay_ms: Annotated[int, typer.Option(min=0, max=1_000, help=HELP["commit_delay_ms"])] = 0,
    seed: Annotated[int | None, typer.Option(help=HELP["seed"])] = None,
    json_path: Json = None,
    report: Annotated[Path | None, typer.Option(help=HELP["report"], dir_okay=False, callback=in_a_folder)] = None,
    keep: Annotated[Path | None, typer.Option(help=HELP["keep"])] = None,
    dialect: Annotated[str, typer.Option(help=HELP["dialect"])] = "unionpay",
    connections: Annotated[int, typer.Option(min=0, max=100_000, help=HELP["connections"])] = 0,
    acquirer: Annotated[str, typer.Option(help=HELP["acquirer"])] = "away",
    backlog: Annotated[int, typer.Option(min=1, max=50_000_000, help=HELP["backlog"])] = 100_000,
    arrivals: Annotated[str, typer.Option(help=HELP["arrivals"])] = "poisson",
    drain: Annotated[bool, typer.Option("--drain/--no-drain", help=HELP["drain"])] = True,
    drain_within_s: Annotated[float, typer.Option(min=1, help=HELP["drain_within_s"])] = 600.0,
) -> None:
    """Put load on a gateway of its own; the verdict first, then rates, percentiles and what it cost."""
    from bench.load.run import run as measure
    from protocol.iso8583.dialect import DialectError, load_dialect

    try:
        load_dialect(dialect)
    except DialectError as error:
        raise typer.BadParameter(str(error), param_hint="--dialect") from None
    for name, meant in ONLY_FOR.items():
        given = ctx.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE" and scenario not in meant:
            raise typer.BadParameter(f"it makes no difference in {scenario.value}", param_hint=f"--{name}")
    try:
        options = RunOptions(
            scenario=scenario,
            terminals=terminals,
            rate=rate,
            seconds=seconds,
            protocol=protocol,
            tls=tls,
            commit_delay_ms=commit_delay_ms,
            seed=drawn(seed),
            json_path=json_path,
            report_path=report,
            keep=keep,
            dialect=dialect,
            connections=connections,
            acquirer=acquirer,
            backlog=backlog,
            arrivals=arrivals,
            drain=drain,
            drain_within_s=drain_within_s,
        )
    except OptionsWrong as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(measure(options))


def limits(
    clients: Clients = 64,
    rounds: Rounds = 3,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds of each part and turn.")] = 2.0,
    folder: MeasuredFolder = None,
    json_path: Json = None,
) -> None:
    """Measure what this machine allows: disk, event loop, aiohttp, sealing, SQLite; the gateway as a part of each."""
    from bench.load.limits import LimitsOptions, run

    raise typer.Exit(run(LimitsOptions(clients=clients, rounds=rounds, seconds=seconds, folder=folder), json_path))


def peers(
    clients: Clients = 64,
    rounds: Rounds = 5,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds of each turn.")] = 4.0,
    commit_delay_ms: Annotated[
        int,
        typer.Option(min=0, max=1_000, help="Added to every commit of the gateway, the plain handler, the bare path."),
    ] = 0,
    payload_bytes: Annotated[
        int, typer.Option(min=0, max=60_000, help="Size of the record that others store; 0 is what the gateway stores.")
    ] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="nats, nats-streams, postgresql, redis, plain or bare; may be repeated.")
    ] = None,
    folder: MeasuredFolder = None,
    json_path: Json = None,
) -> None:
    """Let others do the durable part of the same work: NATS, PostgreSQL, Redis, a plain handler, a bare path."""
    from bench.load.peers import PEERS, PeersOptions, run

    for name in only or []:
        if name not in PEERS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(PEERS)}", param_hint="--only")
    options = PeersOptions(
        clients=clients,
        rounds=rounds,
        seconds=seconds,
        commit_delay_ms=commit_delay_ms,
        payload_bytes=payload_bytes,
        only=tuple(only or ()),
        folder=folder,
    )
    raise typer.Exit(run(options, json_path))


def compare(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Documents or patterns. Without --base the first is the base, and each other one is compared with it; "
            "with --base all of them are the other side."
        ),
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option("--base", help="A document or pattern of the base; several runs give medians and their spread."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare also where scenario, options or machine differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    threshold: Annotated[
        float,
        typer.Option(
            min=0,
            help="The least change that counts, in percent. Twice as much for a p99 and memory, 1.5 times for a p50.",
        ),
    ] = 5.0,
) -> None:
    """Say what changed between measurements beyond noise; exit 1 on a regression, 2 for what cannot be compared."""
    from bench.load.compare import CompareOptions, run

    options = CompareOptions(
        files=files or [], base=base or [], anyway=anyway, as_json=as_json, threshold_percent=threshold
    )
    raise typer.Exit(run(options))


def add_load_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (run, limits, peers, compare):
        app.command()(command)
