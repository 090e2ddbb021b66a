"""`holdfast status`, `queue` and `maintenance`: what is owed upstream, and what an operator decides about it.

What the running gateway answers is shown; while none runs, the same is read from its journal, where it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gateway.commands.keys_asked import tell
from gateway.commands.person import private_key_in
from gateway.commands.running import ask, ask_running, decoded, encoded, steer
from gateway.commands.speaking import (
    DEFAULT_CONFIG,
    FAILED,
    WRONG_USAGE,
    Approver,
    ApproverKey,
    AsJson,
    GatewayConfig,
    Who,
    Why,
    fail,
    load,
    print_json,
)

if TYPE_CHECKING:
    from gateway.config import Config

_T = TypeVar("_T")

queue = typer.Typer(help="Look at what is owed upstream, and decide about it.", no_args_is_help=True)
maintenance = typer.Typer(help="Close and open the link to the acquirer.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(min=1, help="The transaction's id.", metavar="ID")]


def status_command(config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the gateway at a glance; while it does not run, what its journal owes."""
    from gateway.operations.report import StatusReport  # noqa: PLC0415
    from gateway.operations.showing import show_status  # noqa: PLC0415

    loaded = load(config)
    answer = _read(loaded, config, "/v1/status")
    live = answer is not None
    if answer is None:
        from gateway.operations.offline import offline_status  # noqa: PLC0415

        answer = encoded(_offline(lambda: offline_status(loaded)))
    print_json(answer) if as_json else show_status(decoded(answer, StatusReport))
    if not live:
        _tell_problem(loaded)


@queue.command("list")
def queue_list(
    config: GatewayConfig = DEFAULT_CONFIG,
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    lane: Annotated[str, typer.Option(help="Only this lane.")] = "",
    terminal: Annotated[str, typer.Option(help="Only this terminal.")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only ids above this.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List transactions, by default those that owe something upstream."""
    from gateway.core.lifecycle import State, named  # noqa: PLC0415
    from gateway.journal.port import Listing  # noqa: PLC0415
    from gateway.operations.report import OWING, QueuePage, state_named  # noqa: PLC0415
    from gateway.operations.showing import show_queue  # noqa: PLC0415

    states = {name: state_named(name) for name in state or ()}
    if None in states.values():
        fail(f"--state is one of {', '.join(named(one) for one in State)}", WRONG_USAGE)
    loaded = load(config)
    query = [("after", str(after)), ("limit", str(limit)), *(("state", name) for name in states)]
    query += [(name, value) for name, value in (("lane", lane), ("terminal", terminal)) if value]
    answer = _read(loaded, config, "/v1/queue", query)
    live, left_out = answer is not None, ""
    if answer is None:
        from gateway.operations.offline import offline_queue  # noqa: PLC0415

        chosen = frozenset(one for one in states.values() if one is not None) or OWING
        listing = Listing(states=chosen, lane=lane, terminal=terminal, after_id=after, limit=limit)
        read, left_out = _offline(lambda: offline_queue(loaded, listing))
        answer = encoded(read)
    page = decoded(answer, QueuePage)
    print_json(answer) if as_json else show_queue(page.transactions, page.next_after)
    if not live:
        _tell_problem(loaded, left_out)


@queue.command("show")
def queue_show(transaction: Id, config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one transaction with its messages, the card masked."""
    from gateway.operations.report import StoredReport  # noqa: PLC0415
    from gateway.operations.showing import show_transaction  # noqa: PLC0415

    loaded = load(config)
    answer = _read(loaded, config, f"/v1/queue/{transaction}")
    live = answer is not None
    if answer is None:
        from gateway.operations.offline import offline_transaction  # noqa: PLC0415

        answer = encoded(_offline(lambda: offline_transaction(loaded, transaction)))
    print_json(answer) if as_json else show_transaction(decoded(answer, StoredReport))
    if not live:
        _tell_problem(loaded)


@queue.command("explain")
def queue_explain(transaction: Id, config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Say what blocks a transaction, by which rule, and when it is tried next."""
    from gateway.operations.report import ExplanationReport  # noqa: PLC0415
    from gateway.operations.showing import show_explanation  # noqa: PLC0415

    loaded = load(config)
    answer = _read(loaded, config, f"/v1/queue/{transaction}/explain", offline="only it knows what blocks what; start")
    if answer is None:
        raise typer.Exit(FAILED)
    print_json(answer) if as_json else show_explanation(decoded(answer, ExplanationReport))


@queue.command("release")
def queue_release(
    transaction: Id, why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Give a parked transaction back to its lane, to be sent again."""
    steer(config, f"/v1/queue/{transaction}/release", who, why, as_json)


@queue.command("cancel")
def queue_cancel(
    transaction: Id, why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """End a transaction that was never booked upstream; nothing more is sent for it."""
    steer(config, f"/v1/queue/{transaction}/cancel", who, why, as_json)


@queue.command("void")
def queue_void(
    transaction: Id, why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Have a transaction reversed upstream."""
    steer(config, f"/v1/queue/{transaction}/void", who, why, as_json)


@queue.command("damaged")
def queue_damaged(
    config: GatewayConfig = DEFAULT_CONFIG,
    after: Annotated[int, typer.Option(min=-1, help="Only ids above this.")] = -1,
    as_json: AsJson = False,
) -> None:
    """List what is in quarantine: damaged records, open or settled. Id 0 is damage of no transaction."""
    from gateway.operations.settlements import DamagedPage  # noqa: PLC0415
    from gateway.operations.showing import show_damaged  # noqa: PLC0415

    loaded = load(config)
    answer = ask_running(loaded, config, lambda client: client.get("/v1/damaged", [("after", str(after))]))
    page = decoded(answer, DamagedPage)
    print_json(answer) if as_json else show_damaged(page.records, page.next_after)


@queue.command("settle-damaged")
def queue_settle_damaged(
    transaction: Annotated[int, typer.Argument(min=0, help="The damaged record's id.", metavar="ID")],
    who: Approver,
    why: Why,
    private_key: ApproverKey,
    config: GatewayConfig = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Ask that a damaged record be settled, once it is booked by hand. A second person approves: keys approve."""
    import time  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from gateway.operations.approvals import ApprovalRefused, asking_text, new_request, sign  # noqa: PLC0415
    from gateway.operations.key_reports import KeysReport  # noqa: PLC0415
    from gateway.operations.settlements import SETTLE_DAMAGED, subject_of  # noqa: PLC0415

    loaded = load(config)
    report = decoded(ask_running(loaded, config, lambda client: client.get("/v1/keys")), KeysReport)
    try:
        request = new_request(
            SETTLE_DAMAGED, subject_of(transaction), who=who, why=why, gateway=report.keyring,
            now_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
    except ApprovalRefused as refused:
        fail(str(refused), WRONG_USAGE)
    signature = sign(private_key_in(private_key), asking_text(request))
    body = {"request": msgspec.to_builtins(request), "signature": signature}
    answer = ask_running(loaded, config, lambda client: client.post("/v1/damaged/requests", body))
    tell(msgspec.json.decode(answer), as_json)


@maintenance.command("on")
def maintenance_on(why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Close the link to the acquirer: sales stand in, nothing is sent."""
    steer(config, "/v1/maintenance/on", who, why, as_json)


@maintenance.command("off")
def maintenance_off(why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Open the link again: the host is probed, then what is stored is replayed."""
    steer(config, "/v1/maintenance/off", who, why, as_json)


def _read(
    config: Config, path: Path, target: str, query: list[tuple[str, str]] | None = None, *, offline: str = ""
) -> bytes | None:
    """The running gateway's answer; None, and a line on standard error, where none runs."""
    from gateway.operations.client import NotRunningError  # noqa: PLC0415

    try:
        return ask(config, lambda client: client.get(target, query))
    except NotRunningError as error:
        what = "this is read from its journal"
        if offline:
            what = f"{offline} it with: holdfast run -c {path}" if error.holder is None else "only it knows this"
        typer.echo(f"holdfast: {error}; {what}", err=True)
        return None


def _offline(read: Callable[[], _T]) -> _T:
    """What is read from the journal, or exit."""
    from gateway.operations.offline import OfflineError  # noqa: PLC0415

    try:
        return read()
    except OfflineError as error:
        fail(str(error))


def _tell_problem(config: Config, left_out: str = "") -> None:
    """Exit with a failure where what was just shown is not all that the journal has had, or may not be.

    Args:
        left_out: what is known to be missing in what was shown.
    """
    from gateway.operations.offline import OfflineError, offline_problem  # noqa: PLC0415

    try:
        problem = offline_problem(config)
    except OfflineError as error:
        problem = str(error)
    if problem or left_out:
        fail("\n".join(f"do not rely on this: {each}" for each in (problem, left_out) if each))
