"""What `holdfast keys` asks and has done: by the running gateway, or with its journal and keys while none runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import typer

from gateway.commands.running import ask, decoded
from gateway.commands.speaking import FAILED, fail, print_json

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.operations.approvals import Kept
    from gateway.operations.key_reports import KeysReport
    from gateway.operations.keys import Keys
    from gateway.operations.view import CommandResult


def keys_report_of(config: Config) -> KeysReport:
    """The running gateway's keys; where none runs, those of the folder."""
    from gateway.operations.client import NotRunningError  # noqa: PLC0415
    from gateway.operations.key_reports import KeysReport  # noqa: PLC0415

    try:
        answer = ask(config, lambda client: client.get("/v1/keys"))
    except NotRunningError as error:
        typer.echo(f"holdfast: {error}; the keys are read from {config.journal.keys}", err=True)
        return _offline_report(config)
    report: KeysReport = decoded(answer, KeysReport)
    return report


def _offline_report(config: Config) -> KeysReport:
    """The keys of the folder, and the requests that still have something to approve."""
    import msgspec  # noqa: PLC0415

    from gateway.journal.keyring import KeyState  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.approvals import ApprovalRefused  # noqa: PLC0415
    from gateway.operations.keys import DESTROY_KEY  # noqa: PLC0415
    from gateway.operations.keys_offline import offline_keys  # noqa: PLC0415

    try:
        report = offline_keys(config)
    except (JournalError, ApprovalRefused) as error:
        fail(str(error))
    done = {(DESTROY_KEY, f"key {one.id}") for one in report.keys if one.state == KeyState.DESTROYED.value}
    waiting = [each for each in report.requests if (each.request.action, each.request.subject) not in done]
    return msgspec.structs.replace(report, requests=waiting)


def waiting_request(config: Config, request: str) -> Kept:
    """The request of this id, or exit where none of it waits."""
    found = [kept for kept in keys_report_of(config).requests if kept.request.id == request]
    if not found:
        fail(f"there is no request {request}; `holdfast keys requests` lists those that wait")
    return found[0]


def act(
    config: Config,
    target: str,
    body: dict[str, Any],
    offline: Callable[[Keys], Awaitable[CommandResult]],
    as_json: bool,
) -> None:
    """Have the running gateway do it; where none runs, hold its journal and do it here. Tells what became of it."""
    import json  # noqa: PLC0415

    from gateway.operations.client import NotRunningError  # noqa: PLC0415

    try:
        done = json.loads(ask(config, lambda client: client.post(target, body)))
    except NotRunningError:
        done = _offline(config, offline)
    tell(done, as_json)


def _offline(config: Config, work: Callable[[Keys], Awaitable[CommandResult]]) -> dict[str, Any]:
    import asyncio  # noqa: PLC0415

    from gateway.journal.key_changes import KeyChangeRefused  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.approvals import ApprovalRefused  # noqa: PLC0415
    from gateway.operations.keys_offline import keys_offline  # noqa: PLC0415

    async def run() -> dict[str, Any]:
        async with keys_offline(config) as held:
            result = await work(held)
            return {"done": result.done, "text": result.text}

    try:
        return asyncio.run(run())
    except (JournalError, KeyChangeRefused, ApprovalRefused) as error:
        fail(str(error))


def tell(result: dict[str, Any], as_json: bool) -> None:
    """Say what became of an act; exit where it was not done."""
    print_json(result) if as_json else typer.echo(result["text"])
    if not result["done"]:
        raise typer.Exit(FAILED)
