"""The `holdfast` command. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

The groups of commands are in commands/. What a command needs is imported when it runs, so that `holdfast --help` and
`holdfast decode` start at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.commands.audit import audit
from gateway.commands.configuration import configuration
from gateway.commands.dialects import dialects
from gateway.commands.keys import keys
from gateway.commands.queue import maintenance, queue, status_command
from gateway.commands.speaking import DEFAULT_CONFIG, FAILED, WRONG_USAGE, AsJson, GatewayConfig, fail, load, print_json

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
"""What a standard output says that is a file on a full or failing disk."""

app = typer.Typer(
    name="holdfast",
    help="Offline-resilient store-and-forward gateway for card payments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(queue, name="queue")
app.add_typer(maintenance, name="maintenance")
app.add_typer(configuration, name="config")
app.add_typer(dialects, name="dialect")
app.add_typer(keys, name="keys")
app.add_typer(audit, name="audit")


def main() -> None:
    """Entry point of the console script. Any command may be given card numbers or open keys: none leaves a core."""
    from gateway.core_dumps import refuse_core_dumps  # noqa: PLC0415

    refuse_core_dumps()
    try:
        app()
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        with contextlib.suppress(OSError):
            typer.echo(f"holdfast: not all could be shown, what was asked for may be done: {error.strerror}", err=True)
        os._exit(FAILED)  # not by the usual way: it would try to write what is left, and fail again


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(help="Where to make it.", metavar="[DIR]")] = Path(),
) -> None:
    """Make a commented configuration, keys and an operations token. Never overwrites anything."""
    from gateway.operations.installing import InstallError, install  # noqa: PLC0415

    try:
        made = install(folder)
    except InstallError as error:
        fail(str(error))
    typer.echo(f"made {made.config}: read it, name your terminals' and your acquirer's addresses in it")
    typer.echo(f"made {made.keys}: keys of the journal; back them up, apart from the journal")
    typer.echo(f"made {made.token}: whoever can read it can steer the gateway")
    typer.echo(f"next: holdfast config check -c {made.config} && holdfast run -c {made.config}")


@app.command("run")
def run_command(config: GatewayConfig = DEFAULT_CONFIG) -> None:
    """Run the gateway until SIGTERM or Ctrl-C: stop admitting, drain, checkpoint, close."""
    from gateway.operations.process import open_standard_files  # noqa: PLC0415

    open_standard_files()
    loaded = load(config, starting=True)
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
        code = WRONG_USAGE if isinstance(error, TokenError) else FAILED
    finally:
        printed.flush(1.0)
        flush_logs()
    raise typer.Exit(code)


app.command("status")(status_command)


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
        fail(str(error))
    typer.echo(shown)


@app.command("hot-card")
def hot_card_command(config: GatewayConfig = DEFAULT_CONFIG) -> None:
    """Read card numbers from standard input, one a line, and print the keyed hashes that a hot-card file holds."""
    from gateway.config.key_source import load_keys  # noqa: PLC0415
    from gateway.core.fingerprint import KeyedHash  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from protocol.masking import luhn_holds  # noqa: PLC0415

    try:
        hashing = KeyedHash(load_keys(load(config).journal).fingerprint_key)
    except JournalError as error:
        fail(str(error))
    for number, line in enumerate(sys.stdin, 1):
        pan = line.strip().replace(" ", "")
        if not (pan.isascii() and pan.isdigit() and 12 <= len(pan) <= 19):
            fail(f"line {number} is no card number: 12 to 19 digits")
        if not luhn_holds(pan):
            typer.echo(f"holdfast: line {number}: its last digit does not fit the others; mistyped?", err=True)
        typer.echo(hashing.card(pan).hex())


@app.command("version")
def version_command(as_json: AsJson = False) -> None:
    """Show which release this is, and whether it runs compiled."""
    from gateway.operations.release import version  # noqa: PLC0415
    from protocol.compiled import code_kind, compiled_modules  # noqa: PLC0415

    if as_json:
        print_json({"holdfast": version(), "compiled_modules": compiled_modules()})
    else:
        typer.echo(f"holdfast {version()} ({code_kind()})")
