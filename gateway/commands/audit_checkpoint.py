"""`holdfast audit checkpoint` and `continue`: have a running gateway sign the head of its log, also over a break."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.commands.audit_group import audit
from gateway.commands.running import ask_running, steer
from gateway.commands.speaking import DEFAULT_CONFIG, WRONG_USAGE, AsJson, Who, fail, load, print_json
from gateway.new_file import new_file

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration.", metavar="FILE")]


@audit.command("checkpoint")
def checkpoint_command(
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the signed checkpoint into this new file.", metavar="FILE")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have the running gateway sign the head of its log now, and print it: keep it, it is what later proofs rest on."""
    import json  # noqa: PLC0415

    if out is not None and out.exists():
        fail(f"{out} exists already; nothing is ever overwritten", WRONG_USAGE)
    answer = ask_running(load(config), config, lambda client: client.sign_head())
    head = json.loads(answer)
    if out is not None:
        try:
            with new_file(out, 0o644) as file:
                file.write(head["note"].encode())
        except OSError as error:
            fail(f"{out} cannot be written: {error.strerror}")
    if as_json:
        print_json(answer)
    elif out is None:
        typer.echo(head["note"], nl=False)
    else:
        typer.echo(f"{out}: the head of {head['size']} entries of {head['origin']}")


@audit.command("continue")
def continue_command(
    why: Annotated[str, typer.Option(help="Why; kept in the log.")],
    who: Who = "",
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have the log signed again after an alarm audit.log-broken: an entry says who went on over what, and why."""
    steer(config, "/v1/audit/continue", who, why, as_json, kept_in="log")
