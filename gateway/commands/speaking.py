"""What the groups of commands have in common: their options, and how they print and fail."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.config import Config

FAILED = 1
WRONG_USAGE = 2

JournalFile = Annotated[
    Path | None, typer.Argument(help="The journal's file; or name a configuration with -c.", metavar="[JOURNAL]")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="The configuration that names the journal.", metavar="FILE")
]
GatewayConfig = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.", metavar="FILE")]
DEFAULT_CONFIG = Path("holdfast.toml")
Who = Annotated[str, typer.Option(help="Who decides; the user of this machine by default.", show_default=False)]
Why = Annotated[str, typer.Option(help="Why; kept in the journal.")]
Approver = Annotated[str, typer.Option("--who", help="Your name in [operations] approvers.", metavar="NAME")]
ApproverKey = Annotated[
    Path,
    typer.Option(
        "--key", help="Your private key, as `holdfast keys approver` made it.", envvar="APPROVER_KEY", metavar="FILE"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def journal_path(journal: Path | None, config: Path | None) -> Path:
    """The journal that a command is about: named itself or by a configuration, or exit."""
    if journal is not None and config is not None:
        fail("name either the journal or a configuration, not both", WRONG_USAGE)
    if journal is not None:
        return a_file(journal)
    if config is None and not DEFAULT_CONFIG.exists():
        fail("name the journal's file, or its configuration with -c", WRONG_USAGE)
    return a_file(load(config or DEFAULT_CONFIG).journal.path)


def a_file(journal: Path) -> Path:
    """`journal`, or exit where it is a folder or a device; one that is not there is told when it is opened.

    Of a link it is what that leads to: the log and the checkpoint lie beside the file itself, not beside its link.
    """
    try:
        mode = journal.stat().st_mode
    except (OSError, ValueError):
        return journal
    if stat.S_ISDIR(mode):
        fail(f"{journal} is a folder: name the journal's file in it")
    if not stat.S_ISREG(mode):
        fail(f"{journal} is not a regular file, and so not a journal")
    return journal.resolve() if journal.is_symlink() else journal


def load(path: Path, *, starting: bool = False) -> Config:
    """The configuration, or exit with every mistake; `starting` as of `load_config`."""
    from gateway.config import ConfigError, load_config  # noqa: PLC0415

    try:
        return load_config(path, starting=starting)
    except ConfigError as error:
        fail(str(error), WRONG_USAGE)


def print_json(value: Any) -> None:
    """Print `value`, or what is JSON already, indented."""
    import msgspec  # noqa: PLC0415

    encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
    typer.echo(msgspec.json.format(encoded, indent=2).decode())


def fail(text: str, code: int = FAILED) -> NoReturn:
    """Say what is wrong on standard error, a line for each thing, and exit."""
    for line in text.splitlines():
        typer.echo(f"holdfast: {line}", err=True)
    raise typer.Exit(code)
