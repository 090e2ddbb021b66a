"""What only a person at a terminal can give: a yes, a passphrase, and with it a private key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.commands.speaking import WRONG_USAGE, fail

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def private_key_in(path: Path) -> Ed25519PrivateKey:
    """The approver's private key in a file, unlocked by its passphrase; or exit."""
    from gateway.operations.approvals import ApprovalRefused, PassphraseNeeded, read_approver_key  # noqa: PLC0415

    try:
        return read_approver_key(path)
    except PassphraseNeeded:
        pass
    except ApprovalRefused as refused:
        fail(str(refused))
    word = passphrase_typed(f"Passphrase of {path}", f"{path} is locked by a passphrase")
    try:
        return read_approver_key(path, word.encode())
    except ApprovalRefused as refused:
        fail(str(refused))


def confirmed() -> bool:
    """Whether a person says yes; without one at a terminal, exit."""
    try:
        return typer.confirm("This cannot be undone. Approve it?", err=True)
    except typer.Abort:
        typer.echo(err=True)
        if sys.stdin.isatty():
            return False
        fail("nobody is at a terminal to confirm this: give --yes; nothing was done", WRONG_USAGE)


def passphrase_typed(question: str, needed: str, *, twice: bool = False) -> str:
    """What a person types; without one at a terminal, exit."""
    try:
        return str(typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))
    except typer.Abort:
        typer.echo(err=True)
        if sys.stdin.isatty():
            fail("nothing was done")
        fail(f"{needed}, and nobody is at a terminal to type it: run this at one; nothing was done", WRONG_USAGE)
