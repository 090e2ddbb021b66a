"""`holdfast-bench`: the commands. What they need is imported only when they run."""
# ruff: noqa: PLC0415 - so that --help and one command do not wait for what another needs

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.load.commands import add_load_commands, in_a_folder
from bench.load.options import OptionsWrong, drawn, not_new

app = typer.Typer(
    name="holdfast-bench",
    help="Simulators, outages and figures for the Holdfast gateway.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write everything to this file.", dir_okay=False, callback=in_a_folder),
]
DialectName = Annotated[str, typer.Option("--dialect", help="A shipped dialect's name, or the path of a dialect file.")]
AcquirerDialect = Annotated[str, typer.Option(help="The dialect of the simulated acquirer.")]
Keep = Annotated[Path | None, typer.Option(help="Keep everything recorded in this new folder.")]
Kill = Annotated[bool, typer.Option("--kill", help="kill -9 the gateway, in the outage and in the replay.")]
Seed = Annotated[int | None, typer.Option(help="Repeats a run; drawn and printed where not given.")]


@app.command()
def outage(
    terminals: Annotated[int, typer.Option(min=1, max=5000, help="Terminals that sell.")] = 50,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds of traffic.")] = 20.0,
    kill: Kill = False,
    seed: Seed = None,
    json_path: Json = None,
    dialect: DialectName = "unionpay",
    acquirer_dialect: AcquirerDialect = "iso87-binary",
    rate: Annotated[float, typer.Option(min=0.01, max=100, help="Sales a second of each terminal.")] = 4.0,
    keep: Keep = None,
) -> None:
    """Sell through an outage, and check that nothing was lost, doubled, reordered, changed or left unsettled."""
    from bench.outage import run
    from bench.scenario import Options

    _check_dialects(dialect, acquirer_dialect)
    _check_new_folder(keep)
    options = Options(
        terminals=terminals,
        seconds=seconds,
        kill=kill,
        seed=drawn(seed),
        dialect=dialect,
        acquirer_dialect=acquirer_dialect,
        sales_per_second=rate,
        keep=keep,
    )
    raise typer.Exit(run(options, json_path))


@app.command()
def day(
    terminals: Annotated[int, typer.Option(min=1, max=2000, help="UnionPay terminals that work.")] = 200,
    seconds: Annotated[float, typer.Option(min=3, max=86_400, help="Seconds of traffic; settlement follows.")] = 30.0,
    kill: Kill = False,
    seed: Annotated[int | None, typer.Option(help="Repeats a day; drawn and printed where not given.")] = None,
    json_path: Json = None,
    rate: Annotated[float, typer.Option(min=0.01, max=10, help="Transactions a second of each terminal.")] = 0.8,
    keep: Keep = None,
) -> None:
    """Work a day of UnionPay terminals by TLS with MACs, from sign-on through an outage to balanced batches."""
    from bench.day import run
    from bench.scenario import Options

    _check_new_folder(keep)
    options = Options(
        terminals=terminals,
        seconds=seconds,
        kill=kill,
        seed=drawn(seed),
        dialect="unionpay",
        acquirer_dialect="unionpay",
        sales_per_second=rate,
        keep=keep,
    )
    raise typer.Exit(run(options, json_path))


@app.command()
def backlog(
    transactions: Annotated[
        int, typer.Option(min=1, max=50_000_000, help="Sales stored before the start.")
    ] = 1_000_000,
    terminals: Annotated[int, typer.Option(min=1, max=100_000, help="Terminals that they are of.")] = 1_000,
    drain_within_s: Annotated[float, typer.Option(min=1, help="Give up after so long.")] = 3_600.0,
    json_path: Json = None,
) -> None:
    """Store a large backlog; measure start-up, memory and an ordered drain with it."""
    from bench.backlog import BacklogOptions, run

    options = BacklogOptions(transactions=transactions, terminals=terminals, drain_within_s=drain_within_s)
    raise typer.Exit(run(options, json_path))


@app.command()
def growth(
    transactions: Annotated[
        int, typer.Option(min=1, max=50_000_000, help="Sales in the large journal, before any load.")
    ] = 5_000_000,
    beside: Annotated[int, typer.Option(min=1, max=50_000_000, help="Sales in the small journal.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="Rounds, by turns; figures are medians.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds of each turn, after its warm-up.")] = 2.0,
    terminals: Annotated[int, typer.Option(min=1, max=100_000, help="Terminals that the stored sales are of.")] = 1_000,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where both journals are: a folder on the disk that is meant.", exists=True, file_okay=False),
    ] = None,
    json_path: Json = None,
) -> None:
    """Measure what a sale costs with a large journal and with a small one, by turns, and the memory with either."""
    from bench.growth import GrowthOptions, run

    try:
        options = GrowthOptions(
            transactions=transactions,
            beside=beside,
            rounds=rounds,
            seconds=seconds,
            terminals=terminals,
            folder=folder,
        )
    except OptionsWrong as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(run(options, json_path))


@app.command()
def story() -> None:
    """Tell the short story of an outage, with a gateway in `.demo/`; on a terminal it stays up afterwards."""
    from bench import story as told

    raise typer.Exit(told.run())


@app.command()
def acquirer(
    ledger: Annotated[Path, typer.Option(help="File of its ledger; made or continued.", dir_okay=False)],
    listen: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:9583",
    dialect: DialectName = "unionpay",
    mode: Annotated[str, typer.Option(help="normal, away, blackhole, silent, late, slow, drop or code.")] = "normal",
    share: Annotated[float, typer.Option(min=0, max=1, help="Part of the messages that the mode applies to.")] = 1.0,
    delay_ms: Annotated[int, typer.Option(min=0, help="For late and slow.")] = 0,
    code: Annotated[str, typer.Option(help="For code: DE 39 of every answer.")] = "96",
    booking: Annotated[bool, typer.Option(help="For code: whether messages have their effect all the same.")] = False,
    seed: Annotated[int, typer.Option(help="For share.")] = 0,
) -> None:
    """Simulate an acquirer with a durable ledger."""
    from bench import serving

    _check_dialects(dialect)
    behaviour = serving.behaviour(mode, share=share, delay_ms=delay_ms, code=code, booking=booking)
    raise typer.Exit(serving.serve_acquirer(ledger, serving.address(listen), dialect, behaviour, seed))


@app.command()
def terminals(
    endpoint: Annotated[str, typer.Argument(help="host:port of a gateway")],
    count: Annotated[int, typer.Option(min=1, max=5000, help="Terminals that sell.")] = 10,
    seconds: Annotated[float, typer.Option(min=0, help="0 until Ctrl-C.")] = 10.0,
    dialect: DialectName = "unionpay",
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="Sales a second of each terminal.")] = 1.0,
    amount_max: Annotated[
        int,
        typer.Option(min=100, max=999_999_999_999, help="Largest sale in minor units; a new gateway's floor limit."),
    ] = 5_000,
    first_stan: Annotated[int | None, typer.Option(min=1, max=999_999, help="Where STANs begin.")] = None,
    seed: Annotated[int, typer.Option(help="Repeats the same sales.")] = 0,
    history: Annotated[Path | None, typer.Option(help="Write the history to this file.", dir_okay=False)] = None,
) -> None:
    """Drive simulated terminals at an endpoint."""
    from bench import serving

    _check_dialects(dialect)
    orders = serving.Orders(
        endpoint=serving.address(endpoint),
        count=count,
        seconds=seconds,
        dialect=dialect,
        rate=rate,
        amount_minor_max=amount_max,
        first_stan=first_stan,
        seed=seed,
        history=history,
    )
    raise typer.Exit(serving.drive_terminals(orders))


@app.command()
def check(
    history: Annotated[Path, typer.Argument(help="history.jsonl of the terminals.", exists=True, dir_okay=False)],
    ledger: Annotated[Path, typer.Argument(help="ledger.jsonl of the acquirer.", exists=True, dir_okay=False)],
) -> None:
    """Check the records of a run again."""
    from bench.history import check as judged
    from bench.records import LedgerEvent, TerminalEvent, read_lines

    verdict = judged(read_lines(history, TerminalEvent), read_lines(ledger, LedgerEvent))
    for name, count in verdict.figures().items():
        print(f"{name:<14}{count:>9}")
    for finding in verdict.findings:
        print(finding)
    raise typer.Exit(0 if verdict.clean else 1)


@app.command()
def slow(
    sockets: Annotated[int, typer.Option(min=6, max=100_000, help="Slow sockets on each listener.")] = 1_000,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Seconds of each phase.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Quiet and slow phases, by turns.")] = 3,
    beyond: Annotated[bool, typer.Option("--beyond", help="Also with the default limit for one address.")] = False,
    seed: Seed = None,
    json_path: Json = None,
) -> None:
    """Waste the gateway's time with slow and silent sockets; exit 1 if honest sales notice."""
    from bench.slow import SlowOptions, run

    options = SlowOptions(sockets=sockets, seconds=seconds, rounds=rounds, seed=drawn(seed), beyond=beyond)
    raise typer.Exit(run(options, json_path))


@app.command()
def soak(
    minutes: Annotated[
        float,
        typer.Option(min=0.1, max=10_080, help="Minutes of trouble and healing; memory is judged from about 25 on."),
    ] = 5.0,
    terminals: Annotated[int, typer.Option(min=1, max=500, help="Terminals that speak ISO 8583.")] = 12,
    tills: Annotated[int, typer.Option(min=0, max=500, help="Tills that speak JSON over HTTP.")] = 4,
    seed: Annotated[int | None, typer.Option(help="Repeats the troubles; drawn and printed where not given.")] = None,
    json_path: Json = None,
    rate: Annotated[float, typer.Option(min=0.01, max=100, help="Sales a second of each caller.")] = 2.0,
    dialect: DialectName = "unionpay",
    acquirer_dialect: AcquirerDialect = "iso87-binary",
    keep: Keep = None,
) -> None:
    """Make trouble at random for minutes or hours, judging all the while; memory, files and handles must stay flat."""
    from bench.soak import run
    from bench.soak_plan import SoakOptions

    _check_dialects(dialect, acquirer_dialect)
    _check_new_folder(keep)
    options = SoakOptions(
        minutes=minutes,
        terminals=terminals,
        tills=tills,
        seed=drawn(seed),
        sales_per_second=rate,
        dialect=dialect,
        acquirer_dialect=acquirer_dialect,
        keep=keep,
    )
    raise typer.Exit(run(options, json_path))


@app.command()
def overload(
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Seconds of the flood.")] = 60.0,
    times: Annotated[float, typer.Option(min=1, max=100, help="How many times the capacity is offered in it.")] = 10.0,
    connections: Annotated[
        int, typer.Option(min=1, max=5_000, help="ISO 8583 connections, shared by the terminals.")
    ] = 400,
    terminals: Annotated[
        int, typer.Option(min=10, max=200_000, help="Terminals; each has one sale in flight at most.")
    ] = 20_000,
    storm_s: Annotated[
        float, typer.Option(min=1, max=600, help="Seconds in which whoever is refused asks again.")
    ] = 10.0,
    drain_s: Annotated[float, typer.Option(min=1, max=3_600, help="How long the replay may take at the end.")] = 30.0,
    json_path: Json = None,
) -> None:
    """Offer ten times what the gateway can take; exit 1 if anything acknowledged is lost, or it does not recover."""
    from bench.overload import OverloadOptions, run

    options = OverloadOptions(
        seconds=seconds, times=times, connections=connections, terminals=terminals, storm_s=storm_s, drain_s=drain_s
    )
    raise typer.Exit(run(options, json_path))


@app.command()
def codec(
    json_path: Json = None,
    frame: Annotated[str, typer.Option(help="Measure with this UnionPay frame, in hex, without its length.")] = "",
) -> None:
    """Measure the codec against pyiso8583."""
    from bench import codec as measured
    from protocol.iso8583.codec import CodecError

    try:
        measured.run(json_path, frame or None)
    except CodecError as error:
        raise typer.BadParameter(str(error), param_hint="--frame") from None
    except ValueError:
        raise typer.BadParameter("not an even number of hexadecimal digits", param_hint="--frame") from None


def _check_new_folder(keep: Path | None) -> None:
    if keep is not None and (problem := not_new(keep)):
        raise typer.BadParameter(problem, param_hint="--keep")


def _check_dialects(*names: str) -> None:
    """Exit with 2 and a line for each mistake where a dialect cannot be used."""
    from protocol.iso8583.dialect import DialectError, load_dialect

    for name in names:
        try:
            load_dialect(name)
        except DialectError as error:
            for line in str(error).splitlines():
                typer.echo(f"holdfast-bench: {line}", err=True)
            raise typer.Exit(2) from None


add_load_commands(app)


def main() -> None:
    """The console script."""
    app()
