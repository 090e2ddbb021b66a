"""Two people for what cannot be undone: one asks, another approves, each with an Ed25519 key of their own.

Who may, stands in the configuration: `[operations] approvers`, a name and a public key each. The private key is in its
owner's hands (`holdfast keys approver`), so that neither the operations token nor root on the gateway's machine is
enough to speak in somebody's name. Both signatures go into the journal, where an auditor checks them. Whoever can edit
the configuration can add approvers: that is why a change of the list is an entry of the journal, too.

How another command uses it (the key commands and `audit disclose` do):

    request = new_request("disclose", "entry 17 part 1", who="alice", why="case 4711", gateway=keyring.name, now_ms=...)
    approvals = Approvals(requests_file(config.journal.keys), config.operations.approvers, utc_ms)
    approvals.ask(request, sign(alice, asking_text(request)))               # durable; tell people request.id
    request = approvals.pending(id)                                         # what the second person is shown
    approved = approvals.approve(id, "bob", sign(bob, approving_text(request, "bob")))   # durable; raises if refused
    ... do it, and put `approved.evidence()` into the detail of the entry that tells of it ...
    approvals.finish(id)                                                    # once it is done: it cannot be used again

A request is kept in a file beside the keyring until it is finished, withdrawn or 24 hours old. A crash between
`approve` and `finish` leaves it approved: the second person approves again and the act is done again, so an act must
bear being repeated, or whoever does it refuses what is done (a list that is put back has finished requests, too). All
calls lock the file, so that a running gateway and a command may use it at the same time; they wait for the disk and
belong on a thread other than the event loop's.

Nothing is approved by default: without two approvers in the configuration every request is refused.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from gateway.journal.key_folder import HalfReplaced, KeyFileWrong, locked, read_private_file, replace_file
from gateway.new_file import new_file
from protocol.masking import contains_pan

REQUESTS_FILE: Final = "requests.json"
LIFETIME_MS: Final = 24 * 3_600_000
PENDING_MAX: Final = 100
"""Requests that may wait at once; the next is refused until one is finished, withdrawn or too old."""
WORDS_MAX: Final = {"action": 40, "subject": 200, "who": 64, "why": 500}
_CLOCKS_APART_MS_MAX: Final = 5 * 60_000


class ApprovalRefused(Exception):
    """A request or an approval does not count; the message says why and what would be right."""


class PassphraseNeeded(ApprovalRefused):
    """The approver's key file is locked by a passphrase, and none or a wrong one was given."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one person asks for and another has to approve.

    Attributes:
        id: random, 16 hexadecimal digits.
        gateway: name of the keyring: a signature for one gateway says nothing at another.
        action: what shall be done, e.g. "destroy-key".
        subject: to what, e.g. "key 7".
        who, why: who asks, and for what reason.
        asked_ms, expires_ms: UTC.
    """

    id: str
    gateway: str
    action: str
    subject: str
    who: str
    why: str
    asked_ms: int
    expires_ms: int


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request as it comes, signed by who asks."""

    request: Request
    signature: str


class Approving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An approval as it comes, signed by who approves."""

    who: str
    signature: str


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request as the file keeps it, with the signatures that have come. Signatures are base64.

    Attributes:
        asking: signature of `asking_text`, by `request.who`.
        approver, approving, approved_ms: the second person, their signature of `approving_text`, and when.
    """

    request: Request
    asking: str
    approver: str = ""
    approving: str = ""
    approved_ms: int = 0

    def evidence(self) -> dict[str, Any]:
        """What the journal keeps: enough to compute both signed texts again and to check both signatures."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class _RequestsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    requests: list[Kept]
    approvers: dict[str, str] = {}


def requests_file(keys_folder: Path) -> Path:
    """Where a gateway keeps its requests."""
    return keys_folder / REQUESTS_FILE


def new_request(action: str, subject: str, *, who: str, why: str, gateway: str, now_ms: int) -> Request:
    """A request that nobody has signed yet; it ends 24 hours after `now_ms` (UTC).

    Raises:
        ApprovalRefused: a text is empty, too long, has a character that cannot be printed, or holds a card number.
    """
    request = Request(
        secrets.token_hex(8), gateway, action, subject, who.strip(), why.strip(), now_ms, now_ms + LIFETIME_MS
    )
    _check_words(request)
    return request


def asking_text(request: Request) -> bytes:
    """What the first person signs."""
    return _text("ask", request, request.who)


def approving_text(request: Request, approver: str) -> bytes:
    """What the second person signs."""
    return _text("approve", request, approver)


def _text(act: str, request: Request, signer: str) -> bytes:
    """One line each, no line can hold a line feed: no two requests have the same text."""
    lines = (
        "holdfast approval v1", act, signer, request.gateway, request.id, request.action, request.subject,
        request.who, request.why, str(request.asked_ms), str(request.expires_ms), "",
    )  # fmt: skip
    return "\n".join(lines).encode()


def sign(private_key: Ed25519PrivateKey, text: bytes) -> str:
    """The signature, in base64."""
    return base64.b64encode(private_key.sign(text)).decode()


def make_approver_key(path: Path, passphrase: bytes = b"") -> str:
    """Make an approver's private key in a new file, mode 0600 (PEM, PKCS #8); returns the public key in base64.

    Raises:
        ApprovalRefused: the file is there already, or cannot be written.
    """
    private_key = Ed25519PrivateKey.generate()
    locking = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    content = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locking)
    try:
        with new_file(path) as file:
            file.write(content)
    except FileExistsError:
        raise ApprovalRefused(f"{path} exists already; it is never overwritten") from None
    except OSError as error:
        raise ApprovalRefused(f"{path} cannot be made: {error.strerror}") from None
    return public_text(private_key)


def read_approver_key(path: Path, passphrase: bytes = b"") -> Ed25519PrivateKey:
    """An approver's private key.

    Raises:
        PassphraseNeeded: none was given, or a wrong one.
        ApprovalRefused: not such a file, or open to others than its owner.
    """
    try:
        content = read_private_file(path)
    except KeyFileWrong as wrong:
        raise ApprovalRefused(str(wrong)) from None
    try:
        private_key = load_pem_private_key(content, passphrase or None)
    except TypeError:
        if passphrase:
            raise ApprovalRefused(f"{path} has no passphrase") from None
        raise PassphraseNeeded(f"{path} is locked by a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        if passphrase:
            raise PassphraseNeeded(f"{path} does not open with this passphrase") from None
        raise ApprovalRefused(f"{path} is not a private key as `holdfast keys approver` makes it") from None
    if not isinstance(private_key, Ed25519PrivateKey):
        raise ApprovalRefused(f"{path} is not an Ed25519 key; `holdfast keys approver` makes one")
    return private_key


def public_text(private_key: Ed25519PrivateKey) -> str:
    """The public key in base64, as the configuration names it."""
    return base64.b64encode(private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


class Approvals:
    """The requests of one gateway. Not for the event loop's thread: each call reads, and most sync, a file."""

    def __init__(self, path: Path, approvers: Mapping[str, bytes], utc_ms: Callable[[], int]) -> None:
        """`approvers`: the public key (32 bytes) of each name that may ask and approve."""
        self._path = path
        self._approvers = dict(approvers)
        self._utc_ms = utc_ms

    def ask(self, request: Request, signature: str) -> Kept:
        """Keep a request; durable when this returns.

        Raises:
            ApprovalRefused: see the message; nothing was kept.
        """
        _check_words(request)
        if len(self._approvers) < 2:
            raise ApprovalRefused(
                "this needs two people: name them in [operations] approvers (`holdfast keys approver` makes their keys)"
            )
        now_ms = self._utc_ms()
        if (
            request.expires_ms != request.asked_ms + LIFETIME_MS
            or abs(request.asked_ms - now_ms) > _CLOCKS_APART_MS_MAX
        ):
            raise ApprovalRefused("the request is not of now; set the clock of the machine that it was made on")
        self._check(request.who, asking_text(request), signature)
        kept = Kept(request, signature)
        with locked(self._path.parent):
            content = self._read()
            waiting = [each for each in content.requests if each.request.expires_ms > now_ms]
            if any(each.request.id == request.id for each in waiting):
                raise ApprovalRefused(f"there is a request {request.id} already")
            if any((e.request.action, e.request.subject) == (request.action, request.subject) for e in waiting):
                raise ApprovalRefused(f"this was asked for already; see `holdfast keys requests`: {request.subject}")
            if len(waiting) >= PENDING_MAX:
                raise ApprovalRefused(f"{PENDING_MAX} requests wait already; withdraw some")
            self._write(msgspec.structs.replace(content, requests=[*waiting, kept]))
        return kept

    def approve(self, number: str, who: str, signature: str) -> Kept:
        """Have a second person approve; durable when this returns. May be repeated until `finish`.

        Raises:
            ApprovalRefused: unknown, too old, the same person or the same key, or the signature is wrong.
        """
        with locked(self._path.parent):
            content = self._read()
            kept = self._find(content, number)
            request = kept.request
            if request.who not in self._approvers:
                raise ApprovalRefused(f"{request.who} asked for it and is no approver any more; withdraw it")
            self._check(request.who, asking_text(request), kept.asking)
            self._check(who, approving_text(request, who), signature)
            if who == request.who or self._approvers[who] == self._approvers[request.who]:
                raise ApprovalRefused(f"{request.who} asked for it; another person must approve it")
            approved = msgspec.structs.replace(kept, approver=who, approving=signature, approved_ms=self._utc_ms())
            self._put(content, number, approved)
        return approved

    def finish(self, number: str) -> None:
        """What was approved is done: the request is gone. Nothing happens where it is gone already."""
        with locked(self._path.parent):
            content = self._read()
            if any(each.request.id == number for each in content.requests):
                self._put(content, number, None)

    def withdraw(self, number: str) -> Kept:
        """Take a request back; anybody who may steer may do so.

        Raises:
            ApprovalRefused: there is none of this id.
        """
        with locked(self._path.parent):
            content = self._read()
            kept = self._find(content, number)
            self._put(content, number, None)
        return kept

    def waiting(self) -> list[Kept]:
        """Requests that are not too old, oldest first."""
        now_ms = self._utc_ms()
        return [each for each in self._read().requests if each.request.expires_ms > now_ms]

    def pending(self, number: str) -> Request:
        """The request of this id.

        Raises:
            ApprovalRefused: there is none, or it is too old.
        """
        return self._find(self._read(), number).request

    def changed_approvers(self) -> dict[str, str] | None:
        """The configured approvers (name and public key in base64) where they are not those that were told last."""
        names = {name: base64.b64encode(key).decode() for name, key in sorted(self._approvers.items())}
        return None if names == self._read().approvers else names

    def told_approvers(self, names: dict[str, str]) -> None:
        """An entry of the journal tells of these approvers now."""
        with locked(self._path.parent):
            self._write(msgspec.structs.replace(self._read(), approvers=names))

    def _check(self, who: str, text: bytes, signature: str) -> None:
        key = self._approvers.get(who)
        if key is None:
            raise ApprovalRefused(f"{who!r} is not one of [operations] approvers")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature, validate=True), text)
        except (binascii.Error, ValueError, InvalidSignature):
            raise ApprovalRefused(f"this is not signed by the key of {who} in [operations] approvers") from None

    def _find(self, content: _RequestsFile, number: str) -> Kept:
        for each in content.requests:
            if each.request.id == number:
                if each.request.expires_ms <= self._utc_ms():
                    raise ApprovalRefused(f"request {number} is older than 24 hours; ask again")
                return each
        raise ApprovalRefused(f"there is no request {number}; `holdfast keys requests` lists those that wait")

    def _put(self, content: _RequestsFile, number: str, kept: Kept | None) -> None:
        others = [each for each in content.requests if each.request.id != number]
        requests = others if kept is None else [*others, kept]
        self._write(msgspec.structs.replace(content, requests=sorted(requests, key=lambda each: each.request.asked_ms)))

    def _read(self) -> _RequestsFile:
        if not self._path.exists():
            return _RequestsFile(1, [])
        try:
            content = msgspec.json.decode(read_private_file(self._path), type=_RequestsFile)
        except KeyFileWrong as wrong:
            raise ApprovalRefused(str(wrong)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApprovalRefused(f"{self._path} is not a list of requests: {error}; remove it") from None
        if content.format != 1:
            raise ApprovalRefused(f"{self._path} has format {content.format}, this release knows 1")
        return content

    def _write(self, content: _RequestsFile) -> None:
        try:
            replace_file(self._path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
        except HalfReplaced as error:
            raise ApprovalRefused(
                f"{self._path} is changed, but a power cut may take that back: {error.strerror}; "
                f"`holdfast keys requests` lists those that wait"
            ) from None
        except OSError as error:
            raise ApprovalRefused(f"{self._path} cannot be written: {error.strerror}; nothing was changed") from None


def _check_words(request: Request) -> None:
    for name, longest in WORDS_MAX.items():
        text: str = getattr(request, name)
        if not (1 <= len(text) <= longest and text.isprintable()):
            raise ApprovalRefused(f"{name} is 1 to {longest} printable characters")
        if contains_pan(text):
            raise ApprovalRefused(f"{name} is kept in clear: no card number in it")
