"""`holdfast dialect`: look at dialects, check a file of one, and hold captured frames against one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.commands.speaking import WRONG_USAGE, AsJson, fail, print_json

dialects = typer.Typer(help="Look at dialects, check one, and hold frames against one.", no_args_is_help=True)


@dialects.command("list")
def dialect_list(as_json: AsJson = False) -> None:
    """List the shipped dialects."""
    from gateway.operations.dialects import listed, listed_text  # noqa: PLC0415

    print_json(listed()) if as_json else typer.echo(listed_text())


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
        fail(str(error), WRONG_USAGE)
    print_json(described(dialect)) if as_json else typer.echo(described_text(dialect))


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
            fail(str(error), WRONG_USAGE)
        print_json({"right": False, "mistakes": error.mistakes, "remarks": []})
        raise typer.Exit(WRONG_USAGE) from None
    if as_json:
        print_json({"right": True, "mistakes": [], "remarks": right.remarks})
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
        fail(str(error), WRONG_USAGE)
    except CaptureError as error:
        fail(str(error))
    print_json(learned) if as_json else typer.echo(told(learned))
