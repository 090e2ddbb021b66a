"""What commands ask of the running gateway, over its operations listener."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.commands.speaking import WRONG_USAGE, fail, load, print_json

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.operations.client import OperationsClient


def ask(config: Config, question: Callable[[OperationsClient], bytes]) -> bytes:
    """The running gateway's answer, or exit where it refuses.

    Raises:
        NotRunningError: none runs.
    """
    from gateway.journal.lock import holder_of  # noqa: PLC0415
    from gateway.operations.client import NotRunningError, OperationsClient, RefusedError  # noqa: PLC0415
    from gateway.operations.token import TokenError  # noqa: PLC0415

    try:
        return question(OperationsClient(config.operations))
    except (RefusedError, TokenError) as error:
        fail(str(error))
    except NotRunningError:
        raise NotRunningError(config.operations.listen, holder_of(config.journal.path)) from None


def ask_running(config: Config, path: Path, question: Callable[[OperationsClient], bytes]) -> bytes:
    """The answer of the gateway that runs with the configuration in this file, or exit where none does."""
    from gateway.operations.client import NotRunningError  # noqa: PLC0415

    try:
        return ask(config, question)
    except NotRunningError as error:
        fail(f"{error}; start it with: holdfast run -c {path}" if error.holder is None else str(error))


def steer(path: Path, target: str, who: str, why: str, as_json: bool, *, kept_in: str = "journal") -> None:
    """Hand an act over to the running gateway and tell what became of it.

    Args:
        path: of the configuration.
        who: empty for this machine's user.
    """
    import getpass  # noqa: PLC0415
    import json  # noqa: PLC0415

    if not why.strip():
        fail(f"--why is empty; say why, it is kept in the {kept_in}", WRONG_USAGE)
    decided = who.strip() or getpass.getuser()
    answer = ask_running(load(path), path, lambda client: client.steer(target, decided, why))
    print_json(answer) if as_json else typer.echo(json.loads(answer)["text"])


def decoded(answer: bytes, kind: Any) -> Any:
    """A gateway's answer as what it is, or exit where it is of another release."""
    import msgspec  # noqa: PLC0415

    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        fail("the gateway's answer is of another release; use its own `holdfast`")


def encoded(report: Any) -> bytes:
    """A report as the gateway would answer it."""
    import msgspec  # noqa: PLC0415

    return msgspec.json.encode(report)
