"""`holdfast keys`: list, rotate, retire, destroy and wrap anew; through the running gateway, or while none runs."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.keys_asked import act, keys_report_of, tell, waiting_request
from gateway.commands.person import confirmed, passphrase_typed, private_key_in
from gateway.commands.running import ask_running
from gateway.commands.speaking import (
    DEFAULT_CONFIG,
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
    from gateway.operations.keys import Keys
    from gateway.operations.view import CommandResult

keys = typer.Typer(help="Look at the journal's keys; rotate, retire and destroy them.", no_args_is_help=True)

KeyId = Annotated[int, typer.Argument(min=1, help="The key's id; `holdfast keys list` shows it.", metavar="ID")]
RequestId = Annotated[str, typer.Argument(help="The request's id; `holdfast keys requests` shows it.", metavar="ID")]


@keys.command("list")
def list_command(config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List every key: what it is for, where it stands, since when; destroyed ones too."""
    report = keys_report_of(load(config))
    if as_json:
        print_json(report)
        return
    typer.echo(f"keyring {report.keyring}, wrapped by: {report.key_encryption_key}")
    rows = [("key", "purpose", "state", "created", "retired", "destroyed", "last entry", "check")]
    rows += [
        (str(one.id), one.purpose, one.state, _day(one.created_ms), _day(one.retired_ms), _day(one.destroyed_ms),
         str(one.last_sequence or "-"), one.check)
        for one in report.keys
    ]  # fmt: skip
    _table(rows)
    if report.untold:
        typer.echo(f"{report.untold} events wait for their entry in the journal")
    if report.requests:
        typer.echo(f"{len(report.requests)} requests wait for a second person: holdfast keys requests")


@keys.command("rotate")
def rotate_command(
    purpose: Annotated[str, typer.Argument(help="account-epoch, sensitive-epoch or log-signing.", metavar="PURPOSE")],
    why: Why,
    who: Who = "",
    config: GatewayConfig = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a new key for what is new. What was sealed opens with the old; an older log key signs beside the new one."""
    from gateway.journal.key_changes import ROTATING  # noqa: PLC0415
    from gateway.journal.keyring import KeyPurpose  # noqa: PLC0415

    if purpose not in [each.value for each in ROTATING]:
        fail(f"PURPOSE is one of {', '.join(each.value for each in ROTATING)}", WRONG_USAGE)
    body = _steering(who, why)
    act(
        load(config), "/v1/keys/rotate", {"purpose": purpose, **body},
        lambda held: held.rotate(KeyPurpose(purpose), body["who"], body["why"]), as_json,
    )  # fmt: skip


@keys.command("retire")
def retire_command(
    key: KeyId, why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """End the time in which an older log-signing key signs beside the current one."""
    body = _steering(who, why)
    act(
        load(config), f"/v1/keys/{key}/retire", body,
        lambda held: held.retire(key, body["who"], body["why"]), as_json,
    )  # fmt: skip


@keys.command("destroy")
def destroy_command(
    key: KeyId,
    who: Approver,
    why: Why,
    private_key: ApproverKey,
    config: GatewayConfig = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Ask that a key be destroyed: what was sealed with it can never be opened again. A second person approves."""
    from gateway.operations.approvals import ApprovalRefused, asking_text, new_request, sign  # noqa: PLC0415
    from gateway.operations.keys import DESTROY_KEY  # noqa: PLC0415

    loaded = load(config)
    signer, keyring = private_key_in(private_key), keys_report_of(loaded).keyring
    try:
        request = new_request(
            DESTROY_KEY, f"key {key}", who=who, why=why, gateway=keyring, now_ms=time.time_ns() // 1_000_000
        )
    except ApprovalRefused as refused:
        fail(str(refused), WRONG_USAGE)
    signature = sign(signer, asking_text(request))
    import msgspec  # noqa: PLC0415

    body = {"request": msgspec.to_builtins(request), "signature": signature}
    act(loaded, "/v1/keys/requests", body, lambda held: held.ask(request, signature), as_json)


@keys.command("requests")
def requests_command(config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List what waits for a second person."""
    waiting = keys_report_of(load(config)).requests
    if as_json:
        print_json(waiting)
    elif not waiting:
        typer.echo("nothing waits for a second person")
    else:
        _table(
            [
                ("request", "what", "asked by", "why", "until"),
                *((e.request.id, f"{e.request.action} {e.request.subject}", e.request.who, e.request.why,
                   _minute(e.request.expires_ms)) for e in waiting),
            ]
        )  # fmt: skip


@keys.command("approve")
def approve_command(
    request: RequestId,
    who: Approver,
    private_key: ApproverKey,
    config: GatewayConfig = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask once more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve what another person has asked for, and have it done. It cannot be undone."""
    from gateway.operations.approvals import approving_text, sign  # noqa: PLC0415
    from gateway.operations.settlements import SETTLE_DAMAGED  # noqa: PLC0415

    loaded = load(config)
    kept = waiting_request(loaded, request)
    asked = kept.request
    typer.echo(f"{asked.who} asks for: {asked.action} {asked.subject}, because: {asked.why}", err=True)
    if not (yes or confirmed()):
        fail("not approved; nothing was done")
    signature = sign(private_key_in(private_key), approving_text(asked, who))
    if asked.action == SETTLE_DAMAGED:
        target, approval = f"/v1/damaged/requests/{request}/approve", {"who": who, "signature": signature}
        tell(json.loads(ask_running(loaded, config, lambda client: client.post(target, approval))), as_json)
        return
    act(
        loaded, f"/v1/keys/requests/{request}/approve", {"who": who, "signature": signature},
        lambda held: held.approve(request, who, signature), as_json,
    )  # fmt: skip


@keys.command("withdraw")
def withdraw_command(
    request: RequestId, why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Take back a request that waits for a second person."""
    body = _steering(who, why)
    loaded = load(config)
    waiting_request(loaded, request)
    act(
        loaded, f"/v1/keys/requests/{request}/withdraw", body,
        lambda held: held.withdraw(request, body["who"], body["why"]), as_json,
    )  # fmt: skip


@keys.command("rewrap")
def rewrap_command(
    why: Why,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Where the new key-encryption key comes from: file (a new one is made), env:NAME, credential:NAME "
            "or pkcs11:...; as journal.key_encryption_key.",
            metavar="SOURCE",
        ),
    ] = "file",
    generate: Annotated[bool, typer.Option("--generate", help="Make the key in the token first.")] = False,
    who: Who = "",
    config: GatewayConfig = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Wrap every key under another key-encryption key. Copies of the keyring made before open with the old one only."""
    from gateway.config.key_source import KeySourceWrong, parse_key_source  # noqa: PLC0415

    try:
        parse_key_source(to)
    except KeySourceWrong as wrong:
        fail(f"--to {wrong}", WRONG_USAGE)
    body = _steering(who, why)

    def offline(held: Keys) -> Awaitable[CommandResult]:
        from gateway.operations.key_routes import Rewrapping, rewrapped  # noqa: PLC0415

        return rewrapped(held, Rewrapping(to, body["who"], body["why"], generate))

    act(load(config), "/v1/keys/rewrap", {"to": to, "generate": generate, **body}, offline, as_json)


@keys.command("restore")
def restore_command(why: Why, who: Who = "", config: GatewayConfig = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Have a keyring from a backup fit its journal: later keys that it lacks count as destroyed. No gateway may run."""
    from gateway.journal.key_changes import KeyChangeRefused  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.keys_offline import restore_keys  # noqa: PLC0415

    body = _steering(who, why)
    loaded = load(config)
    try:
        text = restore_keys(loaded, body["who"], body["why"])
    except (JournalError, KeyChangeRefused) as error:
        fail(str(error))
    tell({"done": True, "text": text}, as_json)


@keys.command("approver")
def approver_command(
    name: Annotated[str, typer.Argument(help="Your name: letters, digits, . _ @ -", metavar="NAME")],
    out: Annotated[Path, typer.Option("--out", help="Where your private key goes: a new file.", metavar="FILE")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Lock the file with a passphrase.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make your own key for asking and approving, and print the line that the configuration needs."""
    from gateway.config.approvers import is_name  # noqa: PLC0415
    from gateway.operations.approvals import ApprovalRefused, make_approver_key  # noqa: PLC0415

    if not is_name(name):
        fail("NAME is 1 to 64 letters, digits, '.', '_', '@' and '-'", WRONG_USAGE)
    word = passphrase_typed("Passphrase", "--passphrase needs one", twice=True) if passphrase else ""
    try:
        public = make_approver_key(out, word.encode())
    except ApprovalRefused as refused:
        fail(str(refused))
    if as_json:
        print_json({"name": name, "public_key": public, "approver": f"{name}:{public}", "private_key_file": str(out)})
        return
    typer.echo(f"made {out}: your private key; whoever has it can ask and approve in your name")
    typer.echo(f'add to [operations] approvers, and start the gateway anew: "{name}:{public}"')


def _steering(who: str, why: str) -> dict[str, str]:
    """Who and why, or exit; in clear in the journal, so no card number may be in them."""
    import getpass  # noqa: PLC0415

    from protocol.masking import contains_pan  # noqa: PLC0415

    said = {"who": who.strip() or getpass.getuser(), "why": why.strip()}
    if not said["why"]:
        fail("--why is empty; say why, it is kept in the journal", WRONG_USAGE)
    if len(said["who"]) > 64 or len(said["why"]) > 500 or not "".join(said.values()).isprintable():
        fail("--who has at most 64 printable characters, --why 500", WRONG_USAGE)
    if any(contains_pan(text) for text in said.values()):
        fail("--who and --why are kept in clear: no card number in them", WRONG_USAGE)
    return said


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _day(time_ms: int) -> str:
    return _minute(time_ms) if time_ms else "-"


def _minute(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(time_ms / 1000))
