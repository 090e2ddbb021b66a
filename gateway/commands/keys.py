"""`holdfast keys`: list, rotate, retire, destroy and wrap anew; through the running gateway, or while none runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gateway.commands.speaking import FAILED, WRONG_USAGE, AsJson, fail, print_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from gateway.config import Config
    from gateway.operations.approvals import Kept
    from gateway.operations.key_reports import KeysReport
    from gateway.operations.keys import Keys
    from gateway.operations.view import CommandResult

keys = typer.Typer(help="Look at the journal's keys; rotate, retire and destroy them.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.", metavar="FILE")]
Who = Annotated[str, typer.Option(help="Who decides; the user of this machine by default.", show_default=False)]
Why = Annotated[str, typer.Option(help="Why; kept in the journal.")]
Approver = Annotated[str, typer.Option("--who", help="Your name in [operations] approvers.", metavar="NAME")]
ApproverKey = Annotated[
    Path,
    typer.Option(
        "--key", help="Your private key, as `holdfast keys approver` made it.", envvar="APPROVER_KEY", metavar="FILE"
    ),
]
KeyId = Annotated[int, typer.Argument(min=1, help="The key's id; `holdfast keys list` shows it.", metavar="ID")]
RequestId = Annotated[str, typer.Argument(help="The request's id; `holdfast keys requests` shows it.", metavar="ID")]
DEFAULT_CONFIG = Path("holdfast.toml")


@keys.command("list")
def list_command(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List every key: what it is for, where it stands, since when; destroyed ones too."""
    report = _report(_load(config))
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
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a new key for what is new. What was sealed opens with the old; an older log key signs beside the new one."""
    from gateway.journal.key_changes import ROTATING  # noqa: PLC0415
    from gateway.journal.keyring import KeyPurpose  # noqa: PLC0415

    if purpose not in [each.value for each in ROTATING]:
        fail(f"PURPOSE is one of {', '.join(each.value for each in ROTATING)}", WRONG_USAGE)
    body = _steering(who, why)
    _act(
        _load(config), "/v1/keys/rotate", {"purpose": purpose, **body},
        lambda held: held.rotate(KeyPurpose(purpose), body["who"], body["why"]), as_json,
    )  # fmt: skip


@keys.command("retire")
def retire_command(
    key: KeyId, why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """End the time in which an older log-signing key signs beside the current one."""
    body = _steering(who, why)
    _act(
        _load(config), f"/v1/keys/{key}/retire", body,
        lambda held: held.retire(key, body["who"], body["why"]), as_json,
    )  # fmt: skip


@keys.command("destroy")
def destroy_command(
    key: KeyId,
    who: Approver,
    why: Why,
    private_key: ApproverKey,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Ask that a key be destroyed: what was sealed with it can never be opened again. A second person approves."""
    from gateway.operations.approvals import ApprovalRefused, asking_text, new_request, sign  # noqa: PLC0415
    from gateway.operations.keys import DESTROY_KEY  # noqa: PLC0415

    loaded = _load(config)
    signer, keyring = _private_key(private_key), _report(loaded).keyring
    try:
        request = new_request(
            DESTROY_KEY, f"key {key}", who=who, why=why, gateway=keyring, now_ms=time.time_ns() // 1_000_000
        )
    except ApprovalRefused as refused:
        fail(str(refused), WRONG_USAGE)
    signature = sign(signer, asking_text(request))
    import msgspec  # noqa: PLC0415

    body = {"request": msgspec.to_builtins(request), "signature": signature}
    _act(loaded, "/v1/keys/requests", body, lambda held: held.ask(request, signature), as_json)


@keys.command("requests")
def requests_command(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List what waits for a second person."""
    waiting = _report(_load(config)).requests
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
    config: ConfigFile = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask once more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve what another person has asked for, and have it done. It cannot be undone."""
    from gateway.operations.approvals import approving_text, sign  # noqa: PLC0415

    loaded = _load(config)
    kept = _waiting(loaded, request)
    asked = kept.request
    typer.echo(f"{asked.who} asks for: {asked.action} {asked.subject}, because: {asked.why}", err=True)
    if not (yes or _confirmed()):
        fail("not approved; nothing was done")
    signature = sign(_private_key(private_key), approving_text(asked, who))
    _act(
        loaded, f"/v1/keys/requests/{request}/approve", {"who": who, "signature": signature},
        lambda held: held.approve(request, who, signature), as_json,
    )  # fmt: skip


@keys.command("withdraw")
def withdraw_command(
    request: RequestId, why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Take back a request that waits for a second person."""
    body = _steering(who, why)
    loaded = _load(config)
    _waiting(loaded, request)
    _act(
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
    config: ConfigFile = DEFAULT_CONFIG,
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

    _act(_load(config), "/v1/keys/rewrap", {"to": to, "generate": generate, **body}, offline, as_json)


@keys.command("restore")
def restore_command(why: Why, who: Who = "", config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Have a keyring from a backup fit its journal: later keys that it lacks count as destroyed. No gateway may run."""
    from gateway.journal.key_changes import KeyChangeRefused  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.keys_offline import restore_keys  # noqa: PLC0415

    body = _steering(who, why)
    loaded = _load(config)
    try:
        text = restore_keys(loaded, body["who"], body["why"])
    except (JournalError, KeyChangeRefused) as error:
        fail(str(error))
    _tell({"done": True, "text": text}, as_json)


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
    word = _passphrase("Passphrase", "--passphrase needs one", twice=True) if passphrase else ""
    try:
        public = make_approver_key(out, word.encode())
    except ApprovalRefused as refused:
        fail(str(refused))
    if as_json:
        print_json({"name": name, "public_key": public, "approver": f"{name}:{public}", "private_key_file": str(out)})
        return
    typer.echo(f"made {out}: your private key; whoever has it can ask and approve in your name")
    typer.echo(f'add to [operations] approvers, and start the gateway anew: "{name}:{public}"')


def _load(path: Path) -> Config:
    from gateway.config import ConfigError, load_config  # noqa: PLC0415

    try:
        return load_config(path, starting=False)
    except ConfigError as error:
        fail(str(error), WRONG_USAGE)


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


def _report(config: Config) -> KeysReport:
    """The running gateway's keys; where none runs, those of the folder."""
    import msgspec  # noqa: PLC0415

    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.approvals import ApprovalRefused  # noqa: PLC0415
    from gateway.operations.client import NotRunningError, OperationsClient, RefusedError  # noqa: PLC0415
    from gateway.operations.key_reports import KeysReport  # noqa: PLC0415
    from gateway.operations.token import TokenError  # noqa: PLC0415

    try:
        return msgspec.json.decode(OperationsClient(config.operations).get("/v1/keys"), type=KeysReport)
    except NotRunningError as error:
        typer.echo(f"holdfast: {error}; the keys are read from {config.journal.keys}", err=True)
    except msgspec.MsgspecError:
        fail("the gateway's answer is of another release; use its own `holdfast`")
    except (RefusedError, TokenError) as error:
        fail(str(error))
    from gateway.journal.keyring import KeyState  # noqa: PLC0415
    from gateway.operations.keys import DESTROY_KEY  # noqa: PLC0415
    from gateway.operations.keys_offline import offline_keys  # noqa: PLC0415

    try:
        report = offline_keys(config)
    except (JournalError, ApprovalRefused) as error:
        fail(str(error))
    done = {(DESTROY_KEY, f"key {one.id}") for one in report.keys if one.state == KeyState.DESTROYED.value}
    waiting = [each for each in report.requests if (each.request.action, each.request.subject) not in done]
    return msgspec.structs.replace(report, requests=waiting)


def _waiting(config: Config, request: str) -> Kept:
    found = [kept for kept in _report(config).requests if kept.request.id == request]
    if not found:
        fail(f"there is no request {request}; `holdfast keys requests` lists those that wait")
    return found[0]


def _act(
    config: Config,
    target: str,
    body: dict[str, Any],
    offline: Callable[[Keys], Awaitable[CommandResult]],
    as_json: bool,
) -> None:
    """Have the running gateway do it; where none runs, hold its journal and do it here. Tells what became of it."""
    from gateway.operations.client import NotRunningError, OperationsClient, RefusedError  # noqa: PLC0415
    from gateway.operations.token import TokenError  # noqa: PLC0415

    try:
        answer = OperationsClient(config.operations).post(target, body)
    except NotRunningError:
        _tell(_offline(config, offline), as_json)
        return
    except (RefusedError, TokenError) as error:
        fail(str(error))
    import msgspec  # noqa: PLC0415

    _tell(msgspec.json.decode(answer), as_json)


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


def _tell(result: dict[str, Any], as_json: bool) -> None:
    print_json(result) if as_json else typer.echo(result["text"])
    if not result["done"]:
        raise typer.Exit(FAILED)


def _private_key(path: Path) -> Ed25519PrivateKey:
    from gateway.operations.approvals import ApprovalRefused, PassphraseNeeded, read_approver_key  # noqa: PLC0415

    try:
        return read_approver_key(path)
    except PassphraseNeeded:
        pass
    except ApprovalRefused as refused:
        _refuse(refused)
    word = _passphrase(f"Passphrase of {path}", f"{path} is locked by a passphrase")
    try:
        return read_approver_key(path, word.encode())
    except ApprovalRefused as refused:
        _refuse(refused)


def _confirmed() -> bool:
    """Whether a person says yes; without one at a terminal, exit."""
    try:
        return typer.confirm("This cannot be undone. Approve it?", err=True)
    except typer.Abort:
        typer.echo(err=True)
        if sys.stdin.isatty():
            return False
        fail("nobody is at a terminal to confirm this: give --yes; nothing was done", WRONG_USAGE)


def _passphrase(question: str, needed: str, *, twice: bool = False) -> str:
    """What a person types; without one at a terminal, exit."""
    try:
        return str(typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))
    except typer.Abort:
        typer.echo(err=True)
        if sys.stdin.isatty():
            fail("nothing was done")
        fail(f"{needed}, and nobody is at a terminal to type it: run this at one; nothing was done", WRONG_USAGE)


def _refuse(refused: Exception) -> NoReturn:
    fail(str(refused))


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _day(time_ms: int) -> str:
    return _minute(time_ms) if time_ms else "-"


def _minute(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(time_ms / 1000))
