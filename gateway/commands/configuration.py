"""`holdfast config`: check a configuration, and say what every key means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from gateway.commands.speaking import DEFAULT_CONFIG, WRONG_USAGE, AsJson, GatewayConfig, fail, print_json

if TYPE_CHECKING:
    from gateway.config import Config

configuration = typer.Typer(help="Check a configuration.", no_args_is_help=True)


def _mistakes_in_secrets(config: Config) -> Iterator[str]:
    """What is wrong with the files that a start would read. A key from elsewhere is there for the service alone."""
    from gateway.config.key_source import KeyKind, load_keys  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.token import TokenError, read_token  # noqa: PLC0415

    try:
        read_token(config.operations.token_file)
    except TokenError as error:
        yield f"operations.token_file: {error}"
    if config.journal.key_encryption_key.kind is KeyKind.FILE:
        try:
            load_keys(config.journal)
        except JournalError as error:
            yield f"journal.keys: {error}"


@configuration.command("reference")
def config_reference() -> None:
    """Print every key with its default, what it accepts and what it means, as a Markdown table."""
    from gateway.config import config_reference_markdown  # noqa: PLC0415

    typer.echo(config_reference_markdown().strip())


@configuration.command("check")
def config_check(config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Report every mistake of a configuration at once."""
    from gateway.config import ConfigError, load_config, remarks  # noqa: PLC0415

    try:
        loaded = load_config(config)
        mistakes = [f"{config}: {mistake}" for mistake in _mistakes_in_secrets(loaded)]
    except ConfigError as error:
        mistakes = list(error.mistakes)
    if mistakes:
        if not as_json:
            fail("\n".join(mistakes), WRONG_USAGE)
        print_json({"right": False, "mistakes": mistakes, "remarks": []})
        raise typer.Exit(WRONG_USAGE)
    if as_json:
        print_json({"right": True, "mistakes": [], "remarks": list(remarks(loaded))})
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
