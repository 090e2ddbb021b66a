"""`holdfast audit checkpoint` and `continue`: have a running gateway sign the head of its log, also over a break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.audit_group import audit
from gateway.commands.speaking import WRONG_USAGE, AsJson, fail, load, print_json

if TYPE_CHECKING:
    from gateway.operations.client import OperationsClient

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration.", metavar="FILE")]
_DEFAULT_CONFIG = Path("holdfast.toml")


@audit.command("checkpoint")
def checkpoint_command(
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the signed checkpoint into this new file.", metavar="FILE")
    ] = None,
    config: ConfigFile = _DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have the running gateway sign the head of its log now, and print it: keep it, it is what later proofs rest on."""
    import json  # noqa: PLC0415

    if out is not None and out.exists():
        fail(f"{out} exists already; nothing is ever overwritten", WRONG_USAGE)
    answer = _asked(config, lambda client: client.sign_head())
    head = json.loads(answer)
    if out is not None:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(head["note"])
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
    who: Annotated[
        str, typer.Option(help="Who decides; the user of this machine by default.", show_default=False)
    ] = "",
    config: ConfigFile = _DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have the log signed again after an alarm audit.log-broken: an entry says who went on over what, and why."""
    import getpass  # noqa: PLC0415
    import json  # noqa: PLC0415

    if not why.strip():
        fail("--why is empty; say why, it is kept in the log", WRONG_USAGE)
    decided = who.strip() or getpass.getuser()
    answer = _asked(config, lambda client: client.steer("/v1/audit/continue", decided, why))
    print_json(answer) if as_json else typer.echo(json.loads(answer)["text"])


def _asked(config: Path, ask: Callable[[OperationsClient], bytes]) -> bytes:
    """The running gateway's answer, or exit."""
    from gateway.operations.client import NotRunningError, OperationsClient, RefusedError  # noqa: PLC0415
    from gateway.operations.token import TokenError  # noqa: PLC0415

    try:
        return ask(OperationsClient(load(config).operations))
    except NotRunningError as error:
        fail(f"{error}; start it with: holdfast run -c {config}")
    except (RefusedError, TokenError) as error:
        fail(str(error))
