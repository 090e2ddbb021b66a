"""The `holdfast` command. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

What a command needs is imported when it runs, so that `holdfast --help` and `holdfast decode` start at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gateway.commands.audit import audit
from gateway.commands.keys import keys

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.operations.client import OperationsClient

FAILED = 1
WRONG_USAGE = 2

app = typer.Typer(
    name="holdfast",
    help="Offline-resilient store-and-forward gateway for card payments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
queue = typer.Typer(help="Look at what is owed upstream, and decide about it.", no_args_is_help=True)
maintenance = typer.Typer(help="Close and open the link to the acquirer.", no_args_is_help=True)
configuration = typer.Typer(help="Check a configuration.", no_args_is_help=True)
dialects = typer.Typer(help="Look at dialects, check one, and hold frames against one.", no_args_is_help=True)
app.add_typer(queue, name="queue")
app.add_typer(maintenance, name="maintenance")
app.add_typer(configuration, name="config")
app.add_typer(dialects, name="dialect")
app.add_typer(keys, name="keys")
app.add_typer(audit, name="audit")

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.", metavar="FILE")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[int, typer.Argument(min=1, help="The transaction's id.", metavar="ID")]
Who = Annotated[str, typer.Option(help="Who decides; the user of this machine by default.", show_default=False)]
Why = Annotated[str, typer.Option(help="Why; kept in the journal.")]
DEFAULT_CONFIG = Path("holdfast.toml")


def main() -> None:
    """Entry point of the console script."""
    app()


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(help="Where to make it.", metavar="[DIR]")] = Path(),
) -> None:
    """Make a commented configuration, keys and an operations token. Never overwrites anything."""
    from gateway.operations.installing import InstallError, install  # noqa: PLC0415

    try:
        made = install(folder)
    except InstallError as error:
        _fail(str(error))
    typer.echo(f"made {made.config}: read it, name your terminals' and your acquirer's addresses in it")
    typer.echo(f"made {made.keys}: keys of the journal; back them up, apart from the journal")
    typer.echo(f"made {made.token}: whoever can read it can steer the gateway")
    typer.echo(f"next: holdfast config check -c {made.config} && holdfast run -c {made.config}")


@app.command("run")
def run_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the gateway until SIGTERM or Ctrl-C: stop admitting, drain, checkpoint, close."""
    from gateway.core_dumps import refuse_core_dumps  # noqa: PLC0415
    from gateway.operations.process import open_standard_files  # noqa: PLC0415

    open_standard_files()
    refuse_core_dumps()  # before there is anything secret in memory
    loaded = _load(config, starting=True)
    import asyncio  # noqa: PLC0415

    from gateway.app import run_gateway  # noqa: PLC0415
    from gateway.clock import ClockWrong  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.logs import (  # noqa: PLC0415
        capture_interpreter,
        configure_logging,
        flush_logs,
        plain_lines,
        say,
    )
    from gateway.operations.token import TokenError  # noqa: PLC0415
    from gateway.tls import TlsError  # noqa: PLC0415

    configure_logging(loaded.log.level, loaded.log.format)
    capture_interpreter()
    printed = plain_lines(sys.stdout)
    try:
        if sys.platform == "win32":
            code = asyncio.run(run_gateway(loaded, started=printed.write))
        else:
            import uvloop  # noqa: PLC0415

            code = uvloop.run(run_gateway(loaded, started=printed.write))
    except (ClockWrong, JournalError, TokenError, TlsError, OSError) as error:
        for line in str(error).splitlines():
            say(f"holdfast: {line}")
        code = FAILED
    finally:
        printed.flush(1.0)
        flush_logs()
    raise typer.Exit(code)


@app.command("status")
def status_command(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the gateway at a glance; while it does not run, what its journal owes."""
    from gateway.operations.report import StatusReport  # noqa: PLC0415
    from gateway.operations.showing import show_status  # noqa: PLC0415

    loaded = _load(config)
    answer = _read(loaded, config, "/v1/status")
    live = answer is not None
    if answer is None:
        from gateway.operations.offline import offline_status  # noqa: PLC0415

        answer = _offline(lambda: offline_status(loaded))
    _print_json(answer) if as_json else show_status(_decoded(answer, StatusReport))
    if not live:
        _tell_problem(loaded)


@queue.command("list")
def queue_list(
    config: ConfigFile = DEFAULT_CONFIG,
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    lane: Annotated[str, typer.Option(help="Only this lane.")] = "",
    terminal: Annotated[str, typer.Option(help="Only this terminal.")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only ids above this.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List transactions, by default those that owe something upstream."""
    from gateway.core.lifecycle import State  # noqa: PLC0415
    from gateway.journal.port import Listing  # noqa: PLC0415
    from gateway.operations.report import OWING, QueuePage, named, state_named  # noqa: PLC0415
    from gateway.operations.showing import show_queue  # noqa: PLC0415

    states = {name: state_named(name) for name in state or ()}
    if None in states.values():
        _fail(f"--state is one of {', '.join(named(one) for one in State)}", WRONG_USAGE)
    loaded = _load(config)
    query = [("after", str(after)), ("limit", str(limit)), *(("state", name) for name in states)]
    query += [(name, value) for name, value in (("lane", lane), ("terminal", terminal)) if value]
    answer = _read(loaded, config, "/v1/queue", query)
    live = answer is not None
    if answer is None:
        from gateway.operations.offline import offline_queue  # noqa: PLC0415

        chosen = frozenset(one for one in states.values() if one is not None) or OWING
        listing = Listing(states=chosen, lane=lane, terminal=terminal, after_id=after, limit=limit)
        answer = _offline(lambda: offline_queue(loaded, listing))
    page = _decoded(answer, QueuePage)
    _print_json(answer) if as_json else show_queue(page.transactions, page.next_after)
    if not live:
        _tell_problem(loaded)


@queue.command("show")
def queue_show(transaction: Id, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one transaction with its messages, the card masked."""
    from gateway.operations.report import StoredReport  # noqa: PLC0415
    from gateway.operations.showing import show_transaction  # noqa: PLC0415

    loaded = _load(config)
    answer = _read(loaded, config, f"/v1/queue/{transaction}")
    live = answer is not None
    if answer is None:
        from gateway.operations.offline import offline_transaction  # noqa: PLC0415

        answer = _offline(lambda: offline_transaction(loaded, transaction))
    _print_json(answer) if as_json else show_transaction(_decoded(answer, StoredReport))
    if not live:
        _tell_problem(loaded)


@queue.command("explain")
def queue_explain(transaction: Id, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Say what blocks a transaction, by which rule, and when it is tried next."""
    from gateway.operations.report import ExplanationReport  # noqa: PLC0415
    from gateway.operations.showing import show_explanation  # noqa: PLC0415

    loaded = _load(config)
    answer = _read(loaded, config, f"/v1/queue/{transaction}/explain", offline="only it knows what blocks what; start")
    if answer is None:
        raise typer.Exit(FAILED)
    _print_json(answer) if as_json else show_explanation(_decoded(answer, ExplanationReport))


@queue.command("release")
def queue_release(
    transaction: Id, why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Give a parked transaction back to its lane, to be sent again."""
    _steer(config, f"/v1/queue/{transaction}/release", who, why, as_json)


@queue.command("cancel")
def queue_cancel(
    transaction: Id, why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """End a transaction that was never booked upstream; nothing more is sent for it."""
    _steer(config, f"/v1/queue/{transaction}/cancel", who, why, as_json)


@queue.command("void")
def queue_void(
    transaction: Id, why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Have a transaction reversed upstream."""
    _steer(config, f"/v1/queue/{transaction}/void", who, why, as_json)


@maintenance.command("on")
def maintenance_on(why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Close the link to the acquirer: sales stand in, nothing is sent."""
    _steer(config, "/v1/maintenance/on", who, why, as_json)


@maintenance.command("off")
def maintenance_off(why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Open the link again: the host is probed, then what is stored is replayed."""
    _steer(config, "/v1/maintenance/off", who, why, as_json)


@app.command("decode")
def decode_command(
    frame: Annotated[
        str, typer.Argument(help="The frame in hexadecimal; - reads it from standard input.", metavar="HEX")
    ],
    dialect: Annotated[str, typer.Option(help="A shipped dialect's name or a dialect file.")] = "unionpay",
    as_json: AsJson = False,
) -> None:
    """Show an ISO 8583 frame, its card masked."""
    from gateway.operations.decoding import DecodingError, decode_command  # noqa: PLC0415

    try:
        shown = decode_command(dialect, sys.stdin.read() if frame == "-" else frame, as_json)
    except DecodingError as error:
        _fail(str(error))
    typer.echo(shown)


@app.command("hot-card")
def hot_card_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Read card numbers from standard input, one a line, and print the keyed hashes that a hot-card file holds."""
    from gateway.config.key_source import load_keys  # noqa: PLC0415
    from gateway.core.fingerprint import KeyedHash  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415

    try:
        hashing = KeyedHash(load_keys(_load(config).journal).fingerprint_key)
    except JournalError as error:
        _fail(str(error))
    for number, line in enumerate(sys.stdin, 1):
        pan = line.strip().replace(" ", "")
        if not (pan.isascii() and pan.isdigit() and 12 <= len(pan) <= 19):
            _fail(f"line {number} is no card number: 12 to 19 digits")
        typer.echo(hashing.card(pan).hex())


@configuration.command("reference")
def config_reference() -> None:
    """Print every key with its default, what it accepts and what it means, as a Markdown table."""
    from gateway.config import config_reference_markdown  # noqa: PLC0415

    typer.echo(config_reference_markdown().strip())


@configuration.command("check")
def config_check(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Report every mistake of a configuration at once."""
    from gateway.config import ConfigError, load_config, remarks  # noqa: PLC0415

    try:
        loaded = load_config(config)
    except ConfigError as error:
        if not as_json:
            _fail(str(error), WRONG_USAGE)
        _print_json({"right": False, "mistakes": error.mistakes, "remarks": []})
        raise typer.Exit(WRONG_USAGE) from None
    if as_json:
        _print_json({"right": True, "mistakes": [], "remarks": list(remarks(loaded))})
        return
    acquirer = loaded.acquirer
    longest = min(terminals.terminal_timeout_ms for terminals in loaded.terminals)
    typer.echo(f"{config}: no mistakes")
    typer.echo(
        f"time limits nest (D17): host {acquirer.host_timeout_ms} < gateway {acquirer.reply_timeout_ms} "
        f"< terminals {longest} ms"
    )
    for remark in remarks(loaded):
        typer.echo(f"holdfast: worth a look: {remark}", err=True)


@dialects.command("list")
def dialect_list(as_json: AsJson = False) -> None:
    """List the shipped dialects."""
    from gateway.operations.dialects import listed, listed_text  # noqa: PLC0415

    _print_json(listed()) if as_json else typer.echo(listed_text())


@dialects.command("show")
def dialect_show(
    name: Annotated[str, typer.Argument(help="A shipped dialect's name or a dialect file.", metavar="NAME")],
    as_json: AsJson = False,
) -> None:
    """Show a dialect: how a frame begins, its habits, and the format of each field."""
    from gateway.operations.dialects import described, described_text  # noqa: PLC0415
    from protocol.iso8583.dialect import DialectError, load_dialect  # noqa: PLC0415

    try:
        dialect = load_dialect(name)
    except DialectError as error:
        _fail(str(error), WRONG_USAGE)
    _print_json(described(dialect)) if as_json else typer.echo(described_text(dialect))


@dialects.command("check")
def dialect_check(
    file: Annotated[Path, typer.Argument(help="A dialect file.", metavar="FILE")], as_json: AsJson = False
) -> None:
    """Report every mistake of a dialect file at once."""
    from gateway.operations.dialects import checked  # noqa: PLC0415
    from protocol.iso8583.dialect import DialectError  # noqa: PLC0415

    try:
        right = checked(file)
    except DialectError as error:
        if not as_json:
            _fail(str(error), WRONG_USAGE)
        _print_json({"right": False, "mistakes": error.mistakes, "remarks": []})
        raise typer.Exit(WRONG_USAGE) from None
    if as_json:
        _print_json({"right": True, "mistakes": [], "remarks": right.remarks})
        return
    typer.echo(right.summary)
    for remark in right.remarks:
        typer.echo(f"holdfast: worth a look: {remark}", err=True)


@dialects.command("learn")
def dialect_learn(
    capture: Annotated[Path, typer.Argument(help="Frames in hexadecimal, one on each line.", metavar="CAPTURE")],
    dialect: Annotated[str, typer.Option(help="A shipped dialect's name or a dialect file.")] = "unionpay",
    as_json: AsJson = False,
) -> None:
    """Say where a dialect does not fit the frames of a capture, and what to write so that it does."""
    from gateway.operations.captures import CaptureError  # noqa: PLC0415
    from gateway.operations.learned import told  # noqa: PLC0415
    from gateway.operations.learning import learn  # noqa: PLC0415
    from gateway.operations.progress import Progress  # noqa: PLC0415
    from protocol.iso8583.dialect import DialectError  # noqa: PLC0415

    try:
        with Progress(sys.stderr) as progress:
            learned = learn(capture, dialect, progress.tell)
    except DialectError as error:
        _fail(str(error), WRONG_USAGE)
    except CaptureError as error:
        _fail(str(error))
    _print_json(learned) if as_json else typer.echo(told(learned))


@app.command("version")
def version_command(as_json: AsJson = False) -> None:
    """Show which release this is, and whether it runs compiled."""
    from gateway.operations.release import version  # noqa: PLC0415
    from protocol.compiled import code_kind, compiled_modules  # noqa: PLC0415

    if as_json:
        _print_json({"holdfast": version(), "compiled_modules": compiled_modules()})
    else:
        typer.echo(f"holdfast {version()} ({code_kind()})")


def _load(path: Path, *, starting: bool = False) -> Config:
    """The configuration, or exit with every mistake."""
    from gateway.config import ConfigError, load_config  # noqa: PLC0415

    try:
        return load_config(path, starting=starting)
    except ConfigError as error:
        _fail(str(error), WRONG_USAGE)


def _client(config: Config) -> OperationsClient:
    from gateway.operations.client import OperationsClient  # noqa: PLC0415

    return OperationsClient(config.operations)


def _read(
    config: Config, path: Path, target: str, query: list[tuple[str, str]] | None = None, *, offline: str = ""
) -> bytes | None:
    """The running gateway's answer; None, and a line on standard error, where none runs."""
    from gateway.operations.client import NotRunningError, RefusedError  # noqa: PLC0415
    from gateway.operations.token import TokenError  # noqa: PLC0415

    try:
        return _client(config).get(target, query)
    except NotRunningError as error:
        what = f"{offline} it with: holdfast run -c {path}" if offline else "this is read from its journal"
        typer.echo(f"holdfast: {error}; {what}", err=True)
        return None
    except (RefusedError, TokenError) as error:
        _fail(str(error))


def _offline(read: Callable[[], Any]) -> bytes:
    """What is read from the journal, as the gateway would answer it, or exit."""
    import msgspec  # noqa: PLC0415

    from gateway.operations.offline import OfflineError  # noqa: PLC0415

    try:
        return msgspec.json.encode(read())
    except OfflineError as error:
        _fail(str(error))


def _tell_problem(config: Config) -> None:
    """Exit with a failure where what was just shown is not all that the journal has had, or may not be."""
    from gateway.operations.offline import OfflineError, offline_problem  # noqa: PLC0415

    try:
        problem = offline_problem(config)
    except OfflineError as error:
        problem = str(error)
    if problem:
        _fail(f"do not rely on this: {problem}")


def _steer(path: Path, target: str, who: str, why: str, as_json: bool) -> None:
    """Hand an act over to the running gateway and tell what became of it."""
    import getpass  # noqa: PLC0415
    import json  # noqa: PLC0415

    from gateway.operations.client import NotRunningError, RefusedError  # noqa: PLC0415
    from gateway.operations.token import TokenError  # noqa: PLC0415

    if not why.strip():
        _fail("--why is empty; say why, it is kept in the journal", WRONG_USAGE)
    config = _load(path)
    try:
        answer = _client(config).steer(target, who.strip() or getpass.getuser(), why)
    except NotRunningError as error:
        _fail(f"{error}; start it with: holdfast run -c {path}")
    except (RefusedError, TokenError) as error:
        _fail(str(error))
    _print_json(answer) if as_json else typer.echo(json.loads(answer)["text"])


def _decoded(answer: bytes, kind: Any) -> Any:
    import msgspec  # noqa: PLC0415

    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.MsgspecError:
        _fail("the gateway's answer is of another release; use its own `holdfast`")


def _print_json(value: Any) -> None:
    import msgspec  # noqa: PLC0415

    encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
    typer.echo(msgspec.json.format(encoded, indent=2).decode())


def _fail(text: str, code: int = FAILED) -> NoReturn:
    """Say what is wrong on standard error, a line for each thing, and exit."""
    for line in text.splitlines():
        typer.echo(f"holdfast: {line}", err=True)
    raise typer.Exit(code)
